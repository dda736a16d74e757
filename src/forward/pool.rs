//! Threads that are started as they are needed, up to a bound, and sleep while there is nothing to do. A thread's panic
//! ends the one piece of work, not the thread. Logs both that and a thread that could not be had.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A MIME parser of bounded depth, base64 and DKIM fit well; what is never touched costs no memory.
const STACK_OCTETS: usize = 1024 * 1024;

/// `T` is a piece of work; how many may wait is bounded by who gives it (the permits of the lanes).
pub(super) struct Pool<T: Send + 'static> {
    name: &'static str,
    state: Mutex<State<T>>,
    woken: Condvar,
    run: Run<T>,
}

type Run<T> = Box<dyn Fn(T) + Send + Sync>;

struct State<T> {
    work: VecDeque<T>,
    /// Threads that sleep, or have been woken and do not run yet.
    idle: usize,
    threads: usize,
    threads_max: usize,
    ended: bool,
}

impl<T: Send + 'static> Pool<T> {
    pub(super) fn new(name: &'static str, threads_max: usize, run: impl Fn(T) + Send + Sync + 'static) -> Arc<Self> {
        let state = State { work: VecDeque::new(), idle: 0, threads: 0, threads_max: threads_max.max(1), ended: false };
        Arc::new(Self { name, state: Mutex::new(state), woken: Condvar::new(), run: Box::new(run) })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More threads may be started from now on; those that are there stay.
    pub(super) fn set_max(&self, threads_max: usize) {
        self.state().threads_max = threads_max.max(1);
    }

    /// Hands work to a sleeping thread or a new one; never waits. False: all threads there may be are at work.
    pub(super) fn give(self: &Arc<Self>, work: T) -> bool {
        let mut state = self.state();
        state.work.push_back(work);
        // Under one lock, so that no work counts on a thread that has just taken other work.
        if state.idle >= state.work.len() {
            drop(state);
            self.woken.notify_one();
            return true;
        }
        if state.ended || state.threads >= state.threads_max {
            return false;
        }
        state.threads += 1;
        drop(state);
        self.start_thread()
    }

    fn start_thread(self: &Arc<Self>) -> bool {
        let pool = Arc::clone(self);
        let builder = std::thread::Builder::new().name(self.name.to_owned()).stack_size(STACK_OCTETS);
        match builder.spawn(move || pool.work_on()) {
            Ok(_) => true,
            Err(error) => {
                self.state().threads -= 1;
                tracing::warn!(%error, pool = self.name, "no thread to be had: raise TasksMax or lower forward.workers");
                false
            }
        }
    }

    /// Threads end as soon as they are idle; work that still waits is dropped with the pool.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.woken.notify_all();
    }

    fn next(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.work.pop_front() {
                return Some(work);
            }
            if state.ended {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            state = self.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn work_on(&self) {
        while let Some(work) = self.next() {
            // What the work owned has been dropped by then: its waiter hears that it died.
            if catch_unwind(AssertUnwindSafe(|| (self.run)(work))).is_err() {
                tracing::error!(pool = self.name, "a thread's work ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use std::sync::{Arc, Barrier, mpsc};

    #[test]
    fn as_many_threads_as_there_is_work_and_no_more_than_allowed() {
        // Each piece of work waits for the others: with fewer than four threads this would never end.
        let all_here = Arc::new(Barrier::new(4));
        let barrier = Arc::clone(&all_here);
        let (done, ended) = mpsc::channel();
        let pool = Pool::new("test", 4, move |number: usize| {
            barrier.wait();
            done.send(number).unwrap();
        });
        for number in 0..400 {
            pool.give(number);
        }
        let mut numbers: Vec<usize> = ended.iter().take(400).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..400));
        assert_eq!(pool.state().threads, 4);
    }

    #[test]
    fn work_never_waits_for_a_thread_that_is_at_work_while_another_may_be_started() {
        for _ in 0..200 {
            // Two pieces of work that need each other, given one after the other to a pool with one sleeping thread.
            let (done, ended) = mpsc::channel();
            let pair = Arc::new(Barrier::new(2));
            let pool = Pool::new("test", 2, move |paired: bool| {
                if paired {
                    pair.wait();
                }
                done.send(()).unwrap();
            });
            pool.give(false);
            ended.recv().unwrap();
            pool.give(true);
            pool.give(true);
            assert_eq!(ended.iter().take(2).count(), 2);
            pool.end();
        }
    }

    #[test]
    fn a_panic_costs_its_work_only_and_the_end_ends_the_threads() {
        let (done, ended) = mpsc::channel();
        let pool = Pool::new("test", 1, move |number: u8| {
            assert_ne!(number, 1, "this piece of work panics on purpose");
            done.send(number).unwrap();
        });
        for number in 0..3 {
            pool.give(number);
        }
        assert_eq!(ended.iter().take(2).collect::<Vec<_>>(), [0, 2]);
        pool.end();
        // The threads hold the pool, and it holds the sender: this ends when they have ended.
        drop(pool);
        assert_eq!(ended.recv(), Err(mpsc::RecvError));
    }
}
