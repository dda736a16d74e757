//! Heartbeats of threads that others wait for. One that has not beaten for [`STANDS_AFTER`] stands: `/healthz` and systemd's watchdog
//! depend on all of them. Logs nothing, cannot fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a thread beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A bounded turn takes milliseconds; a machine that is busy some hundred of them.
pub(super) const STANDS_AFTER: Duration = Duration::from_secs(5);

/// All of the daemon's.
#[derive(Default)]
pub struct Pulses(Arc<Mutex<Vec<Arc<Beats>>>>);

struct Beats {
    name: String,
    start: Instant,
    /// Milliseconds from the start to the last beat.
    last_ms: AtomicU64,
}

/// One thread's own. Dropped at the thread's good end it is missed by nobody; a thread that panics leaves it standing.
pub struct Pulse {
    beats: Arc<Beats>,
    all: Arc<Mutex<Vec<Arc<Beats>>>>,
}

impl Pulses {
    /// A thread that beats from now on.
    #[must_use]
    pub fn begin(&self, name: impl Into<String>) -> Pulse {
        let beats = Arc::new(Beats { name: name.into(), start: Instant::now(), last_ms: AtomicU64::new(0) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&beats));
        Pulse { beats, all: Arc::clone(&self.0) }
    }

    /// The first that stands.
    #[must_use]
    pub fn standing(&self) -> Option<String> {
        self.standing_at(Instant::now())
    }

    fn standing_at(&self, now: Instant) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|beats| now.saturating_duration_since(beats.last()) >= STANDS_AFTER).map(|beats| beats.name.clone())
    }
}

impl Beats {
    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

impl Pulse {
    pub fn beat(&self) {
        let since = u64::try_from(self.beats.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beats.last_ms.store(since, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|beats| !Arc::ptr_eq(beats, &self.beats));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pulses, STANDS_AFTER};
    use std::time::{Duration, Instant};

    #[test]
    fn one_that_does_not_beat_stands_and_one_that_ended_well_does_not() {
        let pulses = Pulses::default();
        let (one, two) = (pulses.begin("ring-0"), pulses.begin("ring-1"));
        let begun = Instant::now();
        one.beat();
        two.beat();
        assert_eq!(pulses.standing_at(begun + STANDS_AFTER - Duration::from_secs(1)), None);
        assert_eq!(pulses.standing_at(Instant::now() + STANDS_AFTER).as_deref(), Some("ring-0"));
        drop(one);
        assert_eq!(pulses.standing_at(Instant::now() + STANDS_AFTER).as_deref(), Some("ring-1"));
        drop(two);
        assert_eq!(pulses.standing_at(Instant::now() + STANDS_AFTER), None);
    }

    #[test]
    fn one_that_panicked_stands() {
        let pulses = Pulses::default();
        let pulse = pulses.begin("ring-0");
        std::thread::spawn(move || {
            let _pulse = pulse;
            std::panic::resume_unwind(Box::new(()));
        })
        .join()
        .unwrap_err();
        assert_eq!(pulses.standing_at(Instant::now() + STANDS_AFTER).as_deref(), Some("ring-0"));
    }
}
