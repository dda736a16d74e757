//! A route's breaker: after so many times without an answer in a row nobody asks for a while, then one probe does. Pure.

use crate::config::Breaker as Limits;
use crate::stats::BreakerState;
use std::time::Instant;

pub(super) struct Breaker {
    limits: Limits,
    state: State,
}

enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One probe is under way.
    HalfOpen,
}

impl Breaker {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed { failures: 0 } }
    }

    /// At reload; turning it off closes it.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if limits.failures == 0 {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// May a job go? `Some(true)`: as the probe.
    pub(super) fn admit(&mut self, now: Instant) -> Option<bool> {
        match self.state {
            State::Closed { .. } => Some(false),
            State::Open { until } if now >= until => {
                self.state = State::HalfOpen;
                Some(true)
            }
            State::Open { .. } | State::HalfOpen => None,
        }
    }

    /// An answer of any status closes it.
    pub(super) fn answered(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    pub(super) fn not_answered(&mut self, probe: bool, now: Instant) {
        let open = State::Open { until: now + self.limits.cooldown };
        match &mut self.state {
            State::Closed { failures } if self.limits.failures > 0 => {
                *failures = failures.saturating_add(1);
                if *failures >= self.limits.failures {
                    self.state = open;
                }
            }
            State::HalfOpen if probe => self.state = open,
            // Jobs from before it opened have no say.
            State::Closed { .. } | State::HalfOpen | State::Open { .. } => {}
        }
    }

    /// The probe ended without having asked: the next job is the probe.
    pub(super) fn not_asked(&mut self, probe: bool, now: Instant) {
        if probe && matches!(self.state, State::HalfOpen) {
            self.state = State::Open { until: now };
        }
    }

    pub(super) fn shown(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Breaker, BreakerState, Limits};
    use std::time::{Duration, Instant};

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(Limits { failures, cooldown: Duration::from_secs(10) })
    }

    #[test]
    fn opens_after_failures_in_a_row_and_probes_once_after_the_cooldown() {
        let mut breaker = breaker(3);
        let start = Instant::now();
        for _ in 0..2 {
            breaker.not_answered(false, start);
        }
        breaker.answered();
        for _ in 0..2 {
            breaker.not_answered(false, start);
        }
        assert_eq!(breaker.admit(start), Some(false), "an answer between starts the count again");
        breaker.not_answered(false, start);
        assert_eq!(breaker.shown(), BreakerState::Open);
        assert_eq!(breaker.admit(start + Duration::from_secs(9)), None);
        let later = start + Duration::from_secs(10);
        assert_eq!(breaker.admit(later), Some(true));
        assert_eq!(breaker.admit(later), None, "one probe only");
        breaker.not_answered(true, later);
        assert_eq!(breaker.admit(later + Duration::from_secs(9)), None);
        assert_eq!(breaker.admit(later + Duration::from_secs(10)), Some(true));
        breaker.answered();
        assert_eq!(breaker.shown(), BreakerState::Closed);
    }

    #[test]
    fn zero_failures_is_off() {
        let mut breaker = breaker(0);
        for _ in 0..1000 {
            breaker.not_answered(false, Instant::now());
        }
        assert_eq!(breaker.admit(Instant::now()), Some(false));
    }

    #[test]
    fn a_probe_that_never_asked_passes_its_turn_on() {
        let mut breaker = breaker(1);
        let start = Instant::now();
        breaker.not_answered(false, start);
        let later = start + Duration::from_secs(10);
        assert_eq!(breaker.admit(later), Some(true));
        breaker.not_asked(true, later);
        assert_eq!(breaker.admit(later), Some(true));
    }
}
