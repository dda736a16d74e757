//! Answers jobs whose deadline passes while they still wait: a forwarder may be long in coming when other routes hold them all.
//!
//! One thread, asleep while every job is taken at once. Logs nothing; fails only at start.

use super::lane::Lane;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How late a deadline may be noticed.
const TURN: Duration = Duration::from_millis(100);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Also those that a reload took away, while they have jobs.
    lanes: Mutex<Vec<Weak<Lane>>>,
    awake: AtomicBool,
    ended: AtomicBool,
}

impl Keeper {
    pub(super) fn start() -> Result<Self, String> {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let handle = std::thread::Builder::new()
            .name("queue-keeper".to_owned())
            .spawn(move || of_thread.keep())
            .map_err(|error| format!("cannot start the thread that keeps the queues: {error}"))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    pub(super) fn watch(&self, lane: &Arc<Lane>) {
        self.shared.lanes().push(Arc::downgrade(lane));
    }

    /// A job may have to wait. Cheap while the keeper is awake.
    pub(super) fn wake(&self) {
        if !self.shared.awake.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }

    /// All jobs that wait are answered now.
    pub(super) fn abandon_all(&self) {
        for lane in self.shared.alive() {
            lane.abandon(None, "the daemon is stopping");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Shared {
    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Vec<Arc<Lane>> {
        let mut lanes = self.lanes();
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.iter().filter_map(Weak::upgrade).collect()
    }

    fn keep(&self) {
        while !self.ended.load(Ordering::Acquire) {
            if !self.awake.load(Ordering::Acquire) {
                std::thread::park();
                continue;
            }
            // Before the look: a job that comes behind it wakes the keeper again.
            self.awake.store(false, Ordering::Release);
            let now = Instant::now();
            let mut waiting = false;
            for lane in self.alive() {
                waiting |= lane.abandon(Some(now), "timed out while waiting for a forwarder");
            }
            if waiting {
                self.awake.store(true, Ordering::Release);
                std::thread::park_timeout(TURN);
            }
        }
    }
}
