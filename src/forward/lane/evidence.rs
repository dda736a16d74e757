//! What speaks for giving an endpoint many more at once, and what against it. Pure.

use std::time::{Duration, Instant};

/// Answers that have to come before anything is known.
const FIRST: usize = 3;
/// What was too much is remembered for so many times the deadline, and that answers have become longer for so many.
const REMEMBERED: u32 = 6;
const LENGTHENED: u32 = 2;

pub(super) struct Evidence {
    answers: usize,
    /// The last of them took no longer than beside few.
    alone: bool,
    /// When one took longer than that, and a good part of the deadline.
    lengthened: Option<Instant>,
    /// When some failed or took most of their time, and how many were in flight.
    harm: Option<(Instant, f64)>,
}

impl Default for Evidence {
    fn default() -> Self {
        Self { answers: 0, alone: true, lengthened: None, harm: None }
    }
}

impl Evidence {
    /// The endpoint was away. What was too much before is so now.
    pub(super) fn restart(&mut self) {
        (self.answers, self.alone) = (0, true);
    }

    pub(super) fn answered(&mut self, now: Instant, longer: bool, timeout: Duration) {
        self.answers = self.answers.saturating_add(1);
        if longer {
            self.lengthened = Some(now);
        }
        if self.harm.is_some_and(|(at, _)| at + timeout * REMEMBERED <= now) {
            self.harm = None;
        }
    }

    /// Some answers were looked at together.
    pub(super) fn judged(&mut self, alone: bool) {
        self.alone = alone;
    }

    pub(super) fn harmed(&mut self, now: Instant, in_flight: f64) {
        self.harm = Some((now, in_flight));
    }

    /// Of what was too much the part that it may be given without care.
    pub(super) fn enough(&self, part: f64) -> f64 {
        self.harm.map_or(f64::MAX, |(_, in_flight)| in_flight * part)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    pub(super) fn has_lengthened(&self, now: Instant, timeout: Duration) -> bool {
        self.lengthened.is_some_and(|at| now < at + timeout * LENGTHENED)
    }

    /// Some of the first have been answered, not all.
    pub(super) fn is_coming(&self) -> bool {
        (1..FIRST).contains(&self.answers)
    }
}
