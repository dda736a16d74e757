//! Threads that are started as they are needed, up to a bound, and parked while there is nothing to do. A thread's panic
//! ends the one piece of work, not the thread.

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// HTTP, TLS and a MIME parser of bounded depth fit well.
const STACK_OCTETS: usize = 512 * 1024;

/// `T` is a piece of work; how many may wait is bounded by who gives it (a lane's permits, a route's open questions).
pub(super) struct Pool<T: Send + 'static> {
    name: &'static str,
    max: AtomicUsize,
    /// Threads that wait for work, less the work that waits for them.
    idle: AtomicUsize,
    started: AtomicUsize,
    work: (Sender<T>, Receiver<T>),
    run: Box<dyn Fn(T, &Pool<T>) + Send + Sync>,
    on_start: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl<T: Send + 'static> Pool<T> {
    pub(super) fn new(name: &'static str, max: usize, run: impl Fn(T, &Self) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            name,
            max: AtomicUsize::new(max.max(1)),
            idle: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            work: unbounded(),
            run: Box::new(run),
            on_start: OnceLock::new(),
        })
    }

    /// Called in each new thread.
    pub(super) fn on_start(&self, f: impl Fn() + Send + Sync + 'static) {
        // Set once, before any work is given.
        drop(self.on_start.set(Box::new(f)));
    }

    /// More threads may be started from now on; those that are there stay.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max.max(1), Ordering::Relaxed);
    }

    /// Somebody waits for a thread.
    pub(super) fn is_contended(&self) -> bool {
        !self.work.1.is_empty()
    }

    /// Puts work back behind what waits; for the thread that holds it.
    pub(super) fn requeue(&self, work: T) {
        // The pool holds both ends: the channel is never closed.
        drop(self.work.0.send(work));
    }

    /// Hands work to a parked thread or a new one; never waits.
    pub(super) fn give(self: &Arc<Self>, work: T) {
        self.requeue(work);
        if self.idle.load(Ordering::Acquire) < self.work.1.len() {
            self.start_one();
        }
    }

    fn start_one(self: &Arc<Self>) {
        let max = self.max.load(Ordering::Relaxed);
        let taken = self.started.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
        if taken.is_err() {
            return;
        }
        let pool = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name(self.name.to_owned())
            .stack_size(STACK_OCTETS)
            .spawn(move || pool.work_on());
        if let Err(error) = spawned {
            self.started.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%error, pool = self.name, "no thread to be had: raise TasksMax or lower forward.workers");
        }
    }

    fn work_on(&self) {
        if let Some(on_start) = self.on_start.get() {
            on_start();
        }
        loop {
            self.idle.fetch_add(1, Ordering::AcqRel);
            let received = self.work.1.recv();
            self.idle.fetch_sub(1, Ordering::AcqRel);
            let Ok(work) = received else { return };
            // What the work owned has been dropped by then: its waiter hears that it died.
            if catch_unwind(AssertUnwindSafe(|| (self.run)(work, self))).is_err() {
                tracing::error!(pool = self.name, "a thread's work ended by a panic");
            }
        }
    }
}
