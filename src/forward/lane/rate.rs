//! How many answers a second an endpoint gives while it has all it is given at once: what a queue's length is worth. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const INTERVALS: usize = 16;
/// With fewer nothing is known: the first answers come side by side.
const LEAST: usize = 8;
/// What was learned before such a pause says nothing.
const FADES: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Rate {
    /// Between answers, with more to do all the while.
    intervals: VecDeque<Duration>,
    sum: Duration,
    /// The last answer, or when the lane became full.
    last: Option<Instant>,
    /// When it stopped being full.
    idle: Option<Instant>,
}

impl Rate {
    /// The lane is full from now on.
    pub(super) fn full(&mut self, now: Instant) {
        if self.last.is_none() {
            self.last = Some(now);
            if self.idle.is_none_or(|idle| now.saturating_duration_since(idle) > FADES) {
                self.forget();
            }
        }
    }

    /// There is room in it again: the next answer's interval would be one of waiting for work.
    pub(super) fn slack(&mut self, now: Instant) {
        if self.last.take().is_some() {
            self.idle = Some(now);
        }
    }

    pub(super) fn answered(&mut self, now: Instant) {
        let Some(last) = self.last.replace(now) else {
            self.last = None;
            return;
        };
        let interval = now.saturating_duration_since(last);
        self.intervals.push_back(interval);
        self.sum += interval;
        if self.intervals.len() > INTERVALS {
            self.sum -= self.intervals.pop_front().unwrap_or_default();
        }
    }

    pub(super) fn forget(&mut self) {
        self.intervals.clear();
        self.sum = Duration::ZERO;
    }

    /// Lower the longer none comes; `None`: not known.
    pub(super) fn per_second(&self, now: Instant) -> Option<f64> {
        if self.intervals.len() < LEAST {
            return None;
        }
        let answers = self.intervals.len() as f64;
        let open = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        let sum = self.sum.as_secs_f64();
        Some(answers / (sum + (open - sum / answers).max(0.0)).max(1e-6))
    }
}
