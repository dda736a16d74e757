//! A route's breaker: after so many times without an answer in a row nobody asks for a while, then one probe does. An endpoint
//! that names a time itself (`Retry-After`) gets the same pause, which is shown as such. Pure.

use crate::config::Breaker as Limits;
use crate::stats::BreakerState;
use std::time::{Duration, Instant};

/// The longest pause an endpoint may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(in crate::forward) struct Breaker {
    limits: Limits,
    state: State,
    /// When it last was closed no longer.
    opened: Option<Instant>,
    pause: Pause,
}

/// What the endpoint asked for.
#[derive(Clone, Copy)]
enum Pause {
    No,
    Until(Instant),
    /// One asks whether it is over.
    Probed,
}

/// May a job go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Admission {
    Yes,
    /// As the one that finds out.
    Probe,
    Open,
    Paused,
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
    pub(in crate::forward) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed { failures: 0 }, opened: None, pause: Pause::No }
    }

    /// At reload; turning it off closes it.
    pub(in crate::forward) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if limits.failures == 0 {
            self.close();
        }
    }

    fn close(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// What [`Breaker::admit`] would say.
    pub(super) fn look(&self, now: Instant) -> Admission {
        match (&self.state, self.pause) {
            (State::Open { until }, _) if now < *until => Admission::Open,
            (State::HalfOpen, _) => Admission::Open,
            (_, Pause::Until(until)) if now < until => Admission::Paused,
            (State::Open { .. }, _) | (_, Pause::Until(_)) => Admission::Probe,
            (State::Closed { .. }, Pause::Probed) => Admission::Paused,
            (State::Closed { .. }, Pause::No) => Admission::Yes,
        }
    }

    /// Who is told `Probe` has to tell what came of it.
    pub(in crate::forward) fn admit(&mut self, now: Instant) -> Admission {
        let admission = self.look(now);
        if admission == Admission::Probe {
            if matches!(self.state, State::Open { .. }) {
                self.state = State::HalfOpen;
            }
            if matches!(self.pause, Pause::Until(_)) {
                self.pause = Pause::Probed;
            }
        }
        admission
    }

    /// An answer of any status closes it. `pause`: the endpoint asks to be left alone for so long. True: the endpoint was away.
    pub(in crate::forward) fn answered(&mut self, pause: Option<Duration>, probe: bool, now: Instant) -> bool {
        let was_away = !matches!(self.state, State::Closed { .. });
        self.close();
        match (pause, self.pause) {
            (Some(long), _) => self.pause = Pause::Until(now + long.min(PAUSE_MAX)),
            (None, Pause::Probed) if probe => self.pause = Pause::No,
            // What was asked before it has no say.
            (None, _) => {}
        }
        was_away
    }

    pub(in crate::forward) fn not_answered(&mut self, probe: bool, now: Instant) {
        self.pause_not_asked(probe, now);
        let open = match &mut self.state {
            State::Closed { failures } if self.limits.failures > 0 => {
                *failures = failures.saturating_add(1);
                *failures >= self.limits.failures
            }
            State::HalfOpen => probe,
            // Jobs from before it opened have no say.
            State::Closed { .. } | State::Open { .. } => false,
        };
        if open {
            if matches!(self.state, State::Closed { .. }) {
                self.opened = Some(now);
            }
            self.state = State::Open { until: now + self.limits.cooldown };
        }
    }

    /// The probe ended without having asked: the next job is the probe.
    pub(in crate::forward) fn not_asked(&mut self, probe: bool, now: Instant) {
        self.pause_not_asked(probe, now);
        if probe && matches!(self.state, State::HalfOpen) {
            self.state = State::Open { until: now };
        }
    }

    fn pause_not_asked(&mut self, probe: bool, now: Instant) {
        if probe && matches!(self.pause, Pause::Probed) {
            self.pause = Pause::Until(now);
        }
    }

    pub(super) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// When the next job finds out; `None` while one does, and where there is nothing to find out.
    pub(super) fn next_try(&self) -> Option<Instant> {
        match (&self.state, self.pause) {
            (State::Open { until }, _) => Some(*until),
            (State::Closed { .. }, Pause::Until(until)) => Some(until),
            (State::Closed { .. } | State::HalfOpen, _) => None,
        }
    }

    pub(super) fn shown(&self) -> BreakerState {
        match (&self.state, self.pause) {
            (State::Closed { .. }, Pause::No) => BreakerState::Closed,
            (State::Closed { .. }, Pause::Until(_) | Pause::Probed) => BreakerState::Paused,
            (State::Open { .. }, _) => BreakerState::Open,
            (State::HalfOpen, _) => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Breaker, BreakerState, Limits};
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
        breaker.answered(None, true, start);
        for _ in 0..2 {
            breaker.not_answered(false, start);
        }
        assert_eq!(breaker.admit(start), Admission::Yes, "an answer between starts the count again");
        breaker.not_answered(false, start);
        assert_eq!(breaker.shown(), BreakerState::Open);
        assert_eq!(breaker.admit(start + Duration::from_secs(9)), Admission::Open);
        let later = start + Duration::from_secs(10);
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!(breaker.admit(later), Admission::Open, "one probe only");
        breaker.not_answered(true, later);
        assert_eq!(breaker.admit(later + Duration::from_secs(9)), Admission::Open);
        assert_eq!(breaker.admit(later + Duration::from_secs(10)), Admission::Probe);
        breaker.answered(None, true, start);
        assert_eq!(breaker.shown(), BreakerState::Closed);
    }

    #[test]
    fn a_pause_that_the_endpoint_asked_for_is_shown_until_it_is_over() {
        let mut breaker = breaker(3);
        let start = Instant::now();
        breaker.answered(Some(Duration::from_secs(5)), false, start);
        assert_eq!((breaker.shown(), breaker.next_try()), (BreakerState::Paused, Some(start + Duration::from_secs(5))));
        assert_eq!(breaker.admit(start), Admission::Paused);
        let later = start + Duration::from_secs(5);
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!((breaker.shown(), breaker.next_try()), (BreakerState::Paused, None));
        breaker.answered(None, true, later);
        assert_eq!((breaker.shown(), breaker.admit(later)), (BreakerState::Closed, Admission::Yes));
    }

    #[test]
    fn zero_failures_is_off() {
        let mut breaker = breaker(0);
        for _ in 0..1000 {
            breaker.not_answered(false, Instant::now());
        }
        assert_eq!(breaker.admit(Instant::now()), Admission::Yes);
    }

    #[test]
    fn a_probe_that_never_asked_passes_its_turn_on() {
        let mut breaker = breaker(1);
        let start = Instant::now();
        breaker.not_answered(false, start);
        let later = start + Duration::from_secs(10);
        assert_eq!(breaker.admit(later), Admission::Probe);
        breaker.not_asked(true, later);
        assert_eq!(breaker.admit(later), Admission::Probe);
    }
}
