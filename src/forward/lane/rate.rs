//! How many answers a second an endpoint gives while it has all it is given at once: what a queue's length is worth. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const INTERVALS: usize = 16;
/// Of many they are those of a quarter of the deadline: many at once are answered at once, and then none for a while.
const INTERVALS_MAX: usize = 512;
/// With fewer only the most that it may be is known.
const LEAST: usize = 8;
const FIRST: usize = 3;
/// So many times as long as others.
const HUNG: f64 = 8.0;
/// What was learned before such a pause says nothing.
const FADES: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Rate {
    /// Between answers, with more to do all the while.
    intervals: VecDeque<Duration>,
    sum: Duration,
    /// Full time behind the last answer, as far as it has ended.
    pending: Duration,
    /// Since when, or since the last answer, it is full.
    since: Option<Instant>,
    /// When it stopped being full.
    idle: Option<Instant>,
}

impl Rate {
    /// The lane is full from now on.
    pub(super) fn full(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
            if self.idle.is_none_or(|idle| now.saturating_duration_since(idle) > FADES) {
                self.forget();
            }
        }
    }

    /// There is room in it again: from now on the endpoint waits for work.
    pub(super) fn slack(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.pending += now.saturating_duration_since(since);
            self.idle = Some(now);
        }
    }

    /// To a POST that was under way while the lane was full.
    pub(super) fn answered(&mut self, now: Instant, timeout: Duration) {
        let interval = std::mem::take(&mut self.pending) + self.open(now);
        self.since = self.since.map(|_| now);
        // It hung: what was before says nothing, nor does this.
        if interval > timeout / 2
            && interval.as_secs_f64() * self.intervals.len() as f64 > self.sum.as_secs_f64() * HUNG
            && !self.intervals.is_empty()
        {
            return self.forget();
        }
        self.intervals.push_back(interval);
        self.sum += interval;
        while let Some(oldest) = self.intervals.front().copied()
            && self.intervals.len() > INTERVALS
            && (self.intervals.len() > INTERVALS_MAX || self.sum - oldest >= timeout / 4)
        {
            self.intervals.pop_front();
            self.sum -= oldest;
        }
    }

    fn open(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The endpoint waited for work within so long a time.
    pub(super) fn was_dry(&self, now: Instant, within: Duration) -> bool {
        self.idle.is_some_and(|idle| now.saturating_duration_since(idle) < within)
    }

    pub(super) fn forget(&mut self) {
        self.intervals.clear();
        (self.sum, self.pending) = (Duration::ZERO, Duration::ZERO);
    }

    /// Lower the longer none comes; `None`: not known.
    pub(super) fn per_second(&self, now: Instant, in_flight: usize) -> Option<f64> {
        let known = self.intervals.len();
        // Others may be as soon as the first.
        if known == 0 || (known < FIRST && self.open(now) < self.sum / 4) {
            return None;
        }
        // The first answers come side by side: as if those in flight came now.
        let answers = (known + in_flight.min(LEAST.saturating_sub(known))) as f64;
        let open = (self.pending + self.open(now)).as_secs_f64();
        let sum = self.sum.as_secs_f64();
        Some(answers / (sum + (open - sum / answers).max(0.0)).max(1e-6))
    }
}
