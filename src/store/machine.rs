//! What the store asks of the machine besides its disk: the time, chance, and when its threads have their turns; so that a simulation can
//! stand in for it and a seed plays the same again. Logs nothing.

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use std::io;
use std::time::{Duration, Instant};

/// Between looks at whether whoever is to answer has ended.
const STEP: Duration = Duration::from_secs(1);

/// The defaults are the machine's own.
pub trait Machine: Send + Sync {
    /// The machine's own count, which no clock changes.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// What the clock shows: microseconds since 1970.
    fn clock_us(&self) -> i64 {
        jiff::Timestamp::now().as_microsecond()
    }
    /// Octets that nobody can guess.
    fn random(&self) -> io::Result<[u8; 32]> {
        let mut octets = [0; 32];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| io::Error::other("no random octets from the system"))?;
        Ok(octets)
    }
    fn pause(&self, span: Duration) {
        #[expect(clippy::disallowed_methods, reason = "a pause in which others come or a disk recovers: nothing can be waited for")]
        std::thread::sleep(span);
    }
    /// Whoever else could run has its turn: a thread that goes on and on is left alone by the scheduler for milliseconds at a time.
    fn give_way(&self) {
        std::thread::yield_now();
    }
    /// A thread of this name is about to be started: the first that it does is to await its turn.
    fn begins(&self, _thread: &'static str) {}
    /// The thread that calls it does nothing any more.
    fn ends(&self) {}
    /// Called before anything is waited for. Where threads take turns the others have theirs until it is there or the time has come.
    fn await_turn(&self, _until: Instant, _is_there: &dyn Fn() -> bool) {}
}

/// The next thing that is handed over, until a time.
pub(super) fn receive<T>(machine: &dyn Machine, from: &Receiver<T>, until: Instant) -> Result<T, RecvTimeoutError> {
    machine.await_turn(until, &|| !from.is_empty());
    from.recv_timeout(until.saturating_duration_since(machine.now()))
}

/// As `receive`, for a thread that is unparked with each message. A channel's own wait spins and yields for microseconds before it sleeps,
/// which a lone message would pay for each time.
pub(super) fn receive_unparked<T>(machine: &dyn Machine, from: &Receiver<T>, until: Instant) -> Result<T, RecvTimeoutError> {
    machine.await_turn(until, &|| !from.is_empty());
    loop {
        match from.try_recv() {
            Ok(message) => return Ok(message),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        let left = until.saturating_duration_since(machine.now());
        if left.is_zero() {
            return Err(RecvTimeoutError::Timeout);
        }
        std::thread::park_timeout(left);
    }
}

/// An answer, however long it takes; `None` from one who ends without it.
pub(super) fn answer<T>(machine: &dyn Machine, from: &Receiver<T>) -> Option<T> {
    loop {
        match receive(machine, from, machine.now() + STEP) {
            Ok(answer) => return Some(answer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}
