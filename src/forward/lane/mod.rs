//! One route's lane, without I/O and without a clock of its own: who may ask the endpoint now, who waits, who is told "later".
//!
//! Everything takes constant time, a job that leaves the queue too. What it keeps is the deadline: an endpoint is given as much at
//! once as it answers well within its time (`limit.rs`), a message waits only while its turn comes in time (`rate.rs`), and
//! none is begun with less time left than the endpoint has been taking (`need.rs`).

mod abreast;
mod breaker;
mod evidence;
mod limit;
#[cfg(test)]
mod model;
mod need;
mod queue;
mod rate;
mod trial;

use super::refused::Refused;
use crate::config;
use crate::stats::BreakerState;
pub(super) use breaker::{Admission, Breaker};
use limit::{Begun, Limit};
use need::{Beside, Need};
pub(super) use queue::Key;
use queue::{Queue, Waiting};
use rate::Rate;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) timeout: Duration,
    /// At once.
    pub(super) most: usize,
    /// How many of these follows what the endpoint can do.
    pub(super) adaptive: bool,
    /// Jobs that wait, whatever is known.
    pub(super) queue: usize,
    pub(super) breaker: config::Breaker,
}

/// `W` is whoever waits.
pub(super) struct Lane<W> {
    settings: Settings,
    queue: Queue<W>,
    in_flight: usize,
    /// So many, by the time that is left to those who wait.
    bears: usize,
    /// When all that the limit allows were last in flight.
    full: Option<Instant>,
    answered: Option<Instant>,
    /// When POSTs were given up that the endpoint may still be working on.
    given_up: VecDeque<Instant>,
    limit: Limit,
    need: Need,
    rate: Rate,
    breaker: Breaker,
}

/// A POST that was begun with less of its time left may have come too late for what it waited here.
const FRESH: f64 = 0.6;
/// Or with so many times less than what an endpoint takes by itself, where that is long.
const LONGER: f64 = 1.25;
const MOST: f64 = 0.9;
/// Those whose ages differ by no more of their time.
const ALIKE: f64 = 0.05;
/// Of what comes in time may wait so much, since what is known is a guess; and so much before a single worker that had nothing to do
/// a while ago: its pauses cost more than those who come to their turn too late.
const MAY_WAIT: f64 = 0.5;
const MAY_WAIT_DRY: f64 = 0.65;

/// A job that may ask the endpoint: to be given back to [`Lane::done`].
#[derive(Debug)]
pub(super) struct Flight {
    begun: Begun,
    probe: bool,
    /// It had as long as the endpoint takes.
    in_time: bool,
    /// It had so much of its own time.
    left: Duration,
    /// With it.
    in_flight: usize,
    at: Instant,
    octets: u64,
}

pub(super) enum Arrival {
    Go(Flight),
    Wait(Key),
}

/// How a lane stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) breaker: BreakerState,
    /// When it last opened.
    pub(super) opened: Option<Instant>,
    pub(super) next_try: Option<Instant>,
    /// At once, now.
    pub(super) limit: usize,
}

/// What came of a flight, as far as the lane is to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Came {
    /// A status line: after how long, all in all and behind the request's last octet.
    Answer { took: Duration, waited: Duration, says: Says },
    /// The endpoint could not be connected to, or what it answered was no answer.
    Nothing,
    /// The time was over before there was one.
    TooLate,
    /// The endpoint was not asked.
    NotAsked,
}

/// What a status means to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Well,
    /// 503: less at once.
    TooMuch,
    /// 429 or 503 with `Retry-After`: nothing for so long.
    Pause(Duration),
}

impl<W> Lane<W> {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: Queue::default(),
            in_flight: 0,
            bears: usize::MAX,
            full: None,
            answered: None,
            given_up: VecDeque::new(),
            limit: Limit::new(settings.most, settings.adaptive, settings.timeout),
            need: Need::default(),
            rate: Rate::default(),
            breaker: Breaker::new(settings.breaker),
        }
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    /// Also for what waits already.
    pub(super) fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        self.limit.configure(settings.most, settings.adaptive, settings.timeout);
        self.breaker.set_limits(settings.breaker);
    }

    /// Would a message be taken now? Asked before its octets come.
    ///
    /// # Errors
    /// What it would be told.
    pub(super) fn open(&mut self, now: Instant, octets: u64) -> Result<(), Refused> {
        match self.breaker.look(now) {
            Admission::Open => return Err(Refused::BreakerOpen),
            Admission::Paused => return Err(Refused::Paused),
            Admission::Yes | Admission::Probe => {}
        }
        if self.has_permit() {
            return Ok(());
        }
        if self.queue.len() >= self.settings.queue {
            return Err(Refused::QueueFull);
        }
        if self.queue.len() >= self.may_wait(now, octets) { Err(Refused::WaitTooLong) } else { Ok(()) }
    }

    /// A job comes. `worker`: it may go, as far as others are concerned.
    ///
    /// # Errors
    /// It is told "later" at once.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        deadline: Instant,
        octets: u64,
        worker: bool,
        job: impl FnOnce() -> W,
    ) -> Result<Arrival, Refused> {
        if !(worker && self.has_permit()) {
            self.open(now, octets)?;
            let key = self.queue.push(job(), deadline, octets);
            self.heed_age(now);
            self.rate.full(now);
            return Ok(Arrival::Wait(key));
        }
        self.begin(now, deadline, octets).map(Arrival::Go)
    }

    fn has_permit(&self) -> bool {
        self.queue.is_empty() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.in_flight == 0 || self.in_flight + self.given_up.len() < self.limit.get().min(self.bears)
    }

    /// The next job may go if a worker is to be had.
    pub(super) fn wants(&self) -> bool {
        !self.queue.is_empty() && self.has_room()
    }

    /// The oldest job, and whether it may go; a worker stands by.
    pub(super) fn grant(&mut self, now: Instant) -> Option<(W, Result<Flight, Refused>)> {
        if !self.has_room() {
            return None;
        }
        let Waiting { job, deadline, octets, .. } = self.queue.pop_oldest()?;
        let flight = self.begin(now, deadline, octets);
        Some((job, flight))
    }

    fn begin(&mut self, now: Instant, deadline: Instant, octets: u64) -> Result<Flight, Refused> {
        let left = deadline.saturating_duration_since(now);
        let in_time = self.in_time(now, deadline, octets) && self.in_flight < self.limit.bears(left);
        // With none in flight there is no other way to learn what the endpoint takes now.
        if !in_time && (self.in_flight > 0 || deadline <= now) {
            return Err(Refused::TooLate);
        }
        let probe = match self.breaker.admit(now) {
            Admission::Yes => false,
            Admission::Probe => true,
            Admission::Open => return Err(Refused::BreakerOpen),
            Admission::Paused => return Err(Refused::Paused),
        };
        self.in_flight += 1;
        if self.in_flight >= self.limit.get() {
            self.full = Some(now);
        }
        Ok(Flight { begun: self.limit.begin(self.in_flight), probe, in_time, left, in_flight: self.in_flight, at: now, octets })
    }

    fn beside(&self, in_flight: usize) -> Beside {
        Beside { in_flight, has_room: self.limit.has_room(), on_trial: self.limit.leaps(), serial: self.limit.is_surely_serial() }
    }

    /// Whether there is as much time left as the endpoint takes.
    fn in_time(&mut self, now: Instant, deadline: Instant, octets: u64) -> bool {
        let left = deadline.saturating_duration_since(now);
        let timeout = self.settings.timeout;
        let beside = self.beside(self.in_flight + 1);
        left > Duration::ZERO
            && (left >= timeout.mul_f64(0.8)
                || self.need.need(now, octets, beside, timeout) <= left
                || self.need.decisive(now, octets, beside, timeout) <= left)
    }

    /// Whether the POST of a job that goes may be begun now: what comes before it takes its time too.
    pub(super) fn still_in_time(&mut self, now: Instant, deadline: Instant, flight: &mut Flight) -> bool {
        flight.in_time = self.in_time(now, deadline, flight.octets);
        flight.in_time || (self.in_flight <= 1 && deadline > now)
    }

    pub(super) fn done(&mut self, now: Instant, flight: &Flight, came: Came) {
        if self.in_flight >= self.limit.get() {
            self.full = Some(now);
        }
        while self.given_up.pop_front_if(|at| *at + self.settings.timeout <= now).is_some() {}
        let used = self.full.is_some_and(|full| flight.at <= full);
        self.in_flight = self.in_flight.saturating_sub(1);
        match came {
            Came::Answer { took, waited, says } => {
                self.answered = Some(now);
                if used {
                    self.rate.answered(now, self.settings.timeout);
                }
                // What was begun after them has been answered: so have they been, or never will be.
                while self.given_up.pop_front_if(|at| *at <= flight.at).is_some() {}
                let pause = if let Says::Pause(long) = says { Some(long) } else { None };
                if self.breaker.answered(pause, flight.probe, now) {
                    self.limit.restart();
                }
                if says == Says::Well {
                    // What is large is long on its way, unless it is all there is.
                    if flight.octets <= need::LARGE || !self.need.knows_small() {
                        self.limit.answered(now, flight.begun, waited, used);
                    }
                    self.need.learn(now, took, flight.in_flight, flight.octets);
                } else {
                    self.limit.failed(now, flight.begun, self.in_flight + 1);
                }
            }
            Came::Nothing => {
                self.limit.failed(now, flight.begun, self.in_flight + 1);
                self.breaker.not_answered(flight.probe, now);
            }
            Came::TooLate => {
                self.given_up.push_back(now);
                self.need.learn_late(now, self.settings.timeout, flight.in_flight);
                let (timeout, others) = (self.settings.timeout, self.answered.is_some_and(|at| at > flight.at));
                let long = self.limit.slowest().mul_f64(LONGER).min(timeout.mul_f64(MOST));
                if flight.left >= timeout.mul_f64(FRESH).max(long) {
                    self.limit.late(now, flight.begun, self.in_flight + 1, others);
                }
                // One that has answered others meanwhile is there.
                if flight.in_time && !others {
                    self.breaker.not_answered(flight.probe, now);
                } else {
                    self.breaker.not_asked(flight.probe, now);
                }
            }
            Came::NotAsked => self.breaker.not_asked(flight.probe, now),
        }
        self.limit.ended();
        self.heed_age(now);
    }

    /// What waits alike is begun together or not at all: a little younger is not young.
    fn heed_age(&mut self, now: Instant) {
        let age = self.settings.timeout.mul_f64(ALIKE);
        let left = |waiting: &Waiting<W>| waiting.deadline.saturating_duration_since(now).saturating_sub(age);
        self.bears = self.queue.youngest().map_or(usize::MAX, |youngest| self.limit.bears(left(youngest)));
    }

    /// A job does not wait any longer; false: it did not.
    pub(super) fn gone(&mut self, key: Key) -> bool {
        self.queue.remove(key)
    }

    /// One that waits in vain, if there is one: the youngest of more than come to their turn, the oldest whose time is over.
    pub(super) fn tick(&mut self, now: Instant) -> Option<(W, Refused)> {
        let refused = |waiting: Option<Waiting<W>>, why| waiting.map(|waiting| (waiting.job, why));
        let (deadline, octets) = self.queue.oldest().map(|oldest| (oldest.deadline, oldest.octets))?;
        match self.breaker.look(now) {
            Admission::Open => return refused(self.queue.pop_oldest(), Refused::BreakerOpen),
            Admission::Paused => return refused(self.queue.pop_oldest(), Refused::Paused),
            Admission::Yes | Admission::Probe => {}
        }
        if (self.in_flight > 0 || deadline <= now) && !self.in_time(now, deadline, octets) {
            return refused(self.queue.pop_oldest(), Refused::TooLate);
        }
        if self.queue.len() > self.may_wait(now, 0) {
            return refused(self.queue.pop_youngest(), Refused::WaitTooLong);
        }
        None
    }

    /// Of what comes in time if it waits, a part.
    fn may_wait(&mut self, now: Instant, octets: u64) -> usize {
        let Some(rate) = self.rate.per_second(now, self.in_flight) else { return usize::MAX };
        let timeout = self.settings.timeout;
        let (beside, inside, part) = match self.beside(self.limit.get()) {
            // What is inside is answered before what waits, one after the other.
            Beside { serial: true, .. } => {
                let part = if self.rate.was_dry(now, timeout) { MAY_WAIT_DRY } else { MAY_WAIT };
                (self.beside(1), self.in_flight.saturating_sub(1), part)
            }
            beside if beside.on_trial && self.limit.is_slow() => (beside, 0, 1.0),
            beside => (beside, 0, MAY_WAIT),
        };
        let time = timeout.saturating_sub(self.need.need(now, octets, beside, timeout));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
        let come = (self.limit.answers_within(rate, time) * part) as usize;
        come.saturating_sub(inside).max(1)
    }

    /// When the oldest has to be looked at again though nothing else happens.
    pub(super) fn look_again(&mut self, now: Instant, deadline: Instant, octets: u64) -> Instant {
        let need = self.need.need(now, octets, self.beside(self.in_flight), self.settings.timeout);
        deadline.checked_sub(need).filter(|at| *at > now).unwrap_or(deadline)
    }

    /// To be called when jobs have come or gone.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.has_permit() {
            self.rate.slack(now);
        } else {
            self.rate.full(now);
        }
    }

    /// How it stands, for those who look at it.
    pub(super) fn standing(&self) -> Standing {
        let breaker = &self.breaker;
        Standing { breaker: breaker.shown(), opened: breaker.opened(), next_try: breaker.next_try(), limit: self.limit.get() }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }
}
