//! How many POSTs an endpoint is given at once: as many as it answers within a part of its deadline. Any number between what the endpoint
//! does at once and what it does within its time is as good, so what is kept is the time. Comparing with the shortest answer
//! instead would take work that varies for a queue. Where the endpoint was seen at work on as many (`abreast.rs`), the time that they take
//! is their own, and fewer would not shorten it: while nothing speaks against it (`evidence.rs`) it is given some times as many, on trial (`trial.rs`).
//! Pure.

use super::abreast::{Abreast, Mark};
use super::evidence::Evidence;
use super::trial::Trial;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Few enough that what they take is the endpoint's own time.
const FEW: usize = 4;
/// Where it starts: an endpoint that does one after the other, each in a quarter of its time, answers so many.
const START: usize = 3;
const BASE_SAMPLES: usize = 15;
/// Answers that are judged together: as many as the limit, between these.
const WINDOW: (usize, usize) = (4, 16);
/// While it grows by leaps it has to hear soon when it is enough.
const QUICK_WINDOW: (usize, usize) = (2, 6);
/// A failure leaves so much, answers that take too long so much at the most, and either so much at the least.
const LESS: f64 = 0.7;
const LITTLE_LESS: f64 = 0.85;
const LEAST: f64 = 0.3;
/// The longest leap in a round of answers: where what it adds is in time though all of it waits for one worker, and where nobody
/// waits yet.
const LEAP_IN_TIME: f64 = 5.0;
const LEAP: f64 = 2.5;
/// The same where so many were answered side by side, each within a little more than a quarter of the deadline: if there are no more
/// workers than were seen, the last of three rounds ends within three quarters of it.
const SIDE_BY_SIDE: usize = 9;
const LEAP_SIDE_BY_SIDE: f64 = 3.0;
/// So much more in a round of answers behind a decrease, while nobody waits.
const REGROW: f64 = 0.1;
/// So far above what it was seen at work on at once it is raised by so much an answer.
const MORE_THAN_ABREAST: f64 = 1.33;
const RAISE_ABREAST: f64 = 0.5;
/// Answers that are alike differ by no more from what few take.
const ALIKE: (f64, f64) = (0.6, 1.4);
/// An answer that takes so much of the deadline is told from those of a quick endpoint.
const LONG: f64 = 0.3;
/// Answers in order, and how much their waits beside few differ: so many may have waited for each other inside, and so many did.
const MAY_QUEUE: (i32, f64) = (2, 1.3);
const QUEUES: (i32, f64) = (4, 2.0);
/// Answers in order that leave no doubt of it.
const SURELY: i32 = 8;
/// So many more once one was overtaken.
const DISORDER: i32 = 12;
/// Medians that stand so high above a decrease before them were not shortened by it.
const SHORTENED: f64 = 0.85;

pub(super) struct Limit {
    most: usize,
    adaptive: bool,
    timeout: Duration,
    level: f64,
    /// It grows by leaps, as far as the answers say that there is room; else by one with each round of answers.
    quick: bool,
    /// Answers to POSTs that were begun beside few, their median, and what is made of it: how long answers may take.
    base: VecDeque<Sample>,
    own: Duration,
    target: Duration,
    window: Vec<Sample>,
    /// Counts decreases: what was begun before the last one has no say.
    epoch: u64,
    /// The median that led to the last decrease.
    before: Option<Duration>,
    in_vain: u8,
    /// POSTs that were begun, and the last of them that has an answer.
    begun: u64,
    last: u64,
    /// Answers in a row that none overtook which was begun later, of those that had company: one worker answers in order, several
    /// whose work varies do not.
    in_order: i32,
    /// Nothing waited inside when the last answer came, in a time in which it grows by leaps.
    idle: bool,
    abreast: Abreast,
    evidence: Evidence,
}

#[derive(Clone, Copy)]
struct Sample {
    waited: Duration,
    /// With it, when it was begun.
    in_flight: usize,
}

impl Sample {
    /// How many may be in flight by what it says, so that they are answered within `target`: no more than so many came a second as
    /// were answered beside it (Little's law).
    fn room(&self, target: Duration) -> f64 {
        self.in_flight as f64 * target.as_secs_f64() / self.waited.as_secs_f64().max(1e-6)
    }
}

/// What was so when a POST was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    epoch: u64,
    number: u64,
    in_flight: usize,
    mark: Mark,
}

impl Limit {
    pub(super) fn new(most: usize, adaptive: bool, timeout: Duration) -> Self {
        let mut limit = Self {
            most: most.max(1),
            adaptive,
            timeout,
            level: 0.0,
            quick: true,
            base: VecDeque::new(),
            own: Duration::ZERO,
            target: Duration::ZERO,
            window: Vec::new(),
            epoch: 0,
            before: None,
            in_vain: 0,
            begun: 0,
            last: 0,
            in_order: 0,
            idle: false,
            abreast: Abreast::default(),
            evidence: Evidence::default(),
        };
        limit.restart();
        limit
    }

    pub(super) fn configure(&mut self, most: usize, adaptive: bool, timeout: Duration) {
        (self.most, self.adaptive) = (most.max(1), adaptive);
        if self.timeout != timeout {
            self.timeout = timeout;
            self.forget_base();
        }
        // Before anything is known a larger bound is a new start.
        let least = if self.quick { START.min(self.most) as f64 } else { 1.0 };
        self.level = self.level.clamp(least, self.most as f64);
    }

    /// From the start: the endpoint was away.
    pub(super) fn restart(&mut self) {
        self.abreast.forget();
        self.evidence.restart();
        self.learn_anew();
    }

    /// From the start, or from as many as do not wait for each other.
    fn learn_anew(&mut self) {
        self.level = START.max(self.abreast.most()).min(self.most) as f64;
        self.quick = true;
        self.forget_base();
        self.next_epoch();
        (self.before, self.in_vain) = (None, 0);
        self.evidence.judged(true);
    }

    fn forget_base(&mut self) {
        self.base.clear();
        (self.own, self.target) = (Duration::ZERO, self.longest());
    }

    fn next_epoch(&mut self) {
        self.epoch += 1;
        self.window.clear();
        self.idle = false;
    }

    pub(super) fn get(&self) -> usize {
        if !self.adaptive {
            return self.most;
        }
        // At most `most`, which is no more than 65 536.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 65 536")]
        let level = self.level as usize;
        level.clamp(1, self.most)
    }

    /// There is room in the endpoint: with more in flight it takes no longer, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        self.idle
    }

    /// How many answers come in so long a time, at so many a second now: while it still finds out what the endpoint can do, each round of
    /// them is a leap larger than the one before.
    pub(super) fn answers_within(&self, per_second: f64, time: Duration) -> f64 {
        let steady = per_second * time.as_secs_f64();
        if self.adaptive && self.leaps() {
            return self.trial().answers_within(time, self.level, self.most).max(steady);
        }
        if !self.adaptive || !self.quick || self.get() >= self.most {
            return steady;
        }
        let rounds = steady / self.level;
        (self.level / (LEAP - 1.0) * (LEAP.powf(rounds) - 1.0)).clamp(steady, rounds * self.most as f64)
    }

    /// `in_flight`: with this one.
    pub(super) fn begin(&mut self, in_flight: usize) -> Begun {
        self.begun += 1;
        Begun { epoch: self.epoch, number: self.begun, in_flight, mark: self.abreast.mark(in_flight) }
    }

    /// An answer came, `waited` behind the request's last octet; `used`: meanwhile all that the limit allows were in flight.
    pub(super) fn answered(&mut self, now: Instant, begun: Begun, waited: Duration, used: bool) {
        self.abreast.answered(begun.mark, waited, now, self.timeout);
        let longer = waited > self.timeout.mul_f64(LONG) && !self.is_alone(waited);
        self.evidence.answered(now, longer, self.timeout);
        let sample = Sample { waited, in_flight: begun.in_flight };
        if begun.number < self.last {
            if std::mem::replace(&mut self.in_order, -DISORDER) >= QUEUES.0 && !self.base.is_empty() {
                self.aim();
            }
        } else if begun.in_flight > 1 {
            self.in_order = self.in_order.saturating_add(1);
            if self.in_order == SURELY && !self.base.is_empty() {
                self.aim();
            }
        }
        self.last = self.last.max(begun.number);
        if begun.in_flight <= FEW {
            self.learn_base(sample);
        }
        if begun.epoch == self.epoch {
            self.window.push(sample);
            let (least, most) = if self.quick { QUICK_WINDOW } else { WINDOW };
            let many = if self.quick { begun.in_flight } else { self.get() };
            if self.window.len() >= many.clamp(least, most) {
                self.judge(now);
            }
        }
        if used && begun.epoch == self.epoch {
            self.grow(sample);
        }
    }

    /// A POST has ended, however; behind what is made of it.
    pub(super) fn ended(&mut self) {
        self.abreast.ended();
    }

    fn grow(&mut self, sample: Sample) {
        let room = sample.room(self.target);
        let is_alone = self.is_alone(sample.waited);
        self.idle = self.quick && is_alone;
        let more = if self.quick {
            let in_time = (room / 2.0).min(LEAP_IN_TIME * sample.in_flight as f64);
            // Nobody waits inside: as far as all that it adds could wait and be in time.
            let (time, leap) = if sample.in_flight >= SIDE_BY_SIDE && sample.waited <= self.timeout.mul_f64(0.267) {
                (self.timeout.mul_f64(0.76), LEAP_SIDE_BY_SIDE)
            } else {
                (self.longest(), LEAP)
            };
            let alone = if is_alone && !self.is_serial(MAY_QUEUE) { sample.room(time).min(leap * sample.in_flight as f64) } else { 0.0 };
            let least = if room > self.level { 0.5 } else { 0.0 };
            (in_time.max(alone) - self.level).clamp(least, LEAP_IN_TIME - 1.0)
        } else if room <= self.level {
            0.0
        } else if is_alone && self.level < self.enough() {
            REGROW.max(1.0 / self.level)
        } else {
            1.0 / self.level
        };
        if self.leaps() && self.trial().tells(sample.in_flight, self.level) {
            self.level = self.level.max(self.trial().most().min(self.enough())).min(self.most as f64);
        }
        let few_wait = self.level <= self.abreast.most() as f64 * MORE_THAN_ABREAST;
        let more = if few_wait && self.level < self.enough() { more.max(RAISE_ABREAST) } else { more };
        self.level = (self.level + more).min(self.most as f64);
    }

    fn enough(&self) -> f64 {
        self.evidence.enough(LESS)
    }

    /// So many were seen at work at once as were given at the start and more, and nothing speaks against more than that.
    pub(super) fn leaps(&self) -> bool {
        self.quick && self.evidence.is_alone() && self.level < self.enough() && self.abreast.most() >= START
    }

    /// As long as any has taken by itself lately.
    pub(super) fn slowest(&self) -> Duration {
        self.abreast.slowest()
    }

    fn trial(&self) -> Trial {
        Trial { timeout: self.timeout, long: self.slowest().max(self.own), abreast: self.abreast.most() }
    }

    /// Its answers take so much of the deadline that what is given on trial may be too much.
    pub(super) fn is_slow(&self) -> bool {
        self.trial().is_slow()
    }

    /// How many may be in flight beside one that has so much time left.
    pub(super) fn bears(&self, left: Duration) -> usize {
        let first = || self.base.iter().map(|sample| sample.waited).min().unwrap_or_default();
        let trial = if self.adaptive && self.evidence.is_coming() {
            // Until the first few are answered there may be one worker.
            Some(Trial { long: first(), abreast: self.abreast.most().max(1), ..self.trial() }).filter(|trial| !trial.is_slow())
        } else {
            Some(self.trial()).filter(|_| self.adaptive && self.leaps())
        };
        trial.map_or(usize::MAX, |trial| trial.bears(left))
    }

    fn learn_base(&mut self, sample: Sample) {
        if self.base.len() >= BASE_SAMPLES {
            self.base.pop_front();
        }
        self.base.push_back(sample);
        self.aim();
    }

    /// What the base says.
    fn aim(&mut self) {
        // Few that wait for one worker share its time. Else even they may wait for each other inside, or not: in between.
        let serial = self.is_serial(QUEUES);
        let alone = |sample: &Sample| sample.waited.div_f64(sample.in_flight as f64);
        let between = |sample: &Sample| sample.waited.div_f64((sample.in_flight as f64).sqrt());
        let own = if serial { median(self.base.iter().map(alone)) } else { median(self.base.iter().map(between)) };
        self.own = if serial { own } else { median(self.base.iter().map(|sample| sample.waited)) };
        // What waits for one worker can as well wait here, where it can still be told.
        let least = if self.is_surely_serial() { self.timeout / 8 } else { self.timeout / 4 };
        self.target = own.mul_f64(2.5).clamp(least, self.longest());
    }

    /// All that came beside few came in order, and took times that differ by so much.
    fn is_serial(&self, (in_order, by): (i32, f64)) -> bool {
        let waits = || self.base.iter().map(|sample| sample.waited);
        let differ = || waits().max().unwrap_or_default() > waits().min().unwrap_or_default().mul_f64(by);
        self.in_order >= in_order && differ()
    }

    /// One worker, beyond doubt.
    pub(super) fn is_surely_serial(&self) -> bool {
        self.in_order >= SURELY && self.is_serial(QUEUES)
    }

    fn longest(&self) -> Duration {
        self.timeout.mul_f64(0.6)
    }

    /// It took no longer than it does beside few.
    fn is_alone(&self, waited: Duration) -> bool {
        waited <= self.own.mul_f64(1.25)
    }

    /// No answer in time: by itself, where others were answered, so many were seen at work at once, and none of them took longer for more.
    pub(super) fn late(&mut self, now: Instant, begun: Begun, in_flight: usize, others: bool) {
        if !others || self.evidence.has_lengthened(now, self.timeout) || begun.in_flight > self.abreast.most() {
            self.failed(now, begun, in_flight);
        }
    }

    /// No answer, or one that says "too much".
    pub(super) fn failed(&mut self, now: Instant, begun: Begun, in_flight: usize) {
        // Once a round trip.
        if begun.epoch == self.epoch {
            self.level = self.level.min(in_flight as f64).max(1.0);
            self.evidence.harmed(now, self.level);
            let abreast = self.abreast.most() as f64 / self.level;
            self.abreast.doubt();
            // Back to where it came from.
            self.lower(if abreast > 0.0 { abreast.min(LESS) } else { LESS });
        }
    }

    fn judge(&mut self, now: Instant) {
        let waited = median(self.window.iter().map(|sample| sample.waited));
        let in_flight = middle(self.window.iter().map(|sample| sample.in_flight)).unwrap_or_default();
        let is_long = |sample: &Sample, part| sample.waited > self.timeout.mul_f64(part) && !self.abreast.is_own(sample.waited);
        // One kind of message may wait for its own handlers, and hold what others need.
        let too_long = self.window.iter().filter(|sample| is_long(sample, 0.7)).count() * 8 > self.window.len();
        let slow = self.window.iter().any(|sample| is_long(sample, 0.4) && !self.is_alone(sample.waited));
        self.evidence.judged(self.is_alone(waited));
        if !self.is_alone(waited) && self.abreast.most() >= START {
            // The trial is over.
            let room = Sample { waited, in_flight }.room(self.target).max(self.abreast.most() as f64 * MORE_THAN_ABREAST);
            self.level = self.level.min(room);
        }
        let alike = self.own.mul_f64(ALIKE.0)..=self.own.mul_f64(ALIKE.1);
        if self.window.iter().all(|sample| alike.contains(&sample.waited)) && !self.is_serial(MAY_QUEUE) {
            let at = self.window.len() * 3 / 4;
            let (_, beside, _) = self.window.select_nth_unstable_by_key(at, |sample| sample.in_flight);
            self.abreast.alike(beside.in_flight);
        }
        self.window.clear();
        if waited <= self.target || self.is_alone(waited) {
            self.quick &= !slow && (waited <= self.target.mul_f64(0.7) || self.is_alone(waited));
            if slow || too_long {
                self.evidence.harmed(now, self.level);
            }
            (self.before, self.in_vain) = (None, 0);
            if too_long {
                self.abreast.doubt();
                self.lower(LESS);
            }
            return;
        }
        if self.level <= self.abreast.most() as f64 {
            // They do not wait for each other.
            self.quick = false;
            return;
        }
        let shortened = self.before.is_none_or(|before| waited <= before.mul_f64(SHORTENED));
        self.in_vain = if shortened { 0 } else { self.in_vain + 1 };
        self.before = Some(waited);
        if self.in_vain < 2 {
            self.lower((Sample { waited, in_flight }.room(self.target) / self.level).min(LITTLE_LESS));
        } else {
            // It takes that long whatever it is given: what it takes for a few has to be learned anew.
            self.learn_anew();
        }
    }

    /// To that part of it.
    fn lower(&mut self, to: f64) {
        self.quick = false;
        // Not below as many as do not wait for each other.
        let least = self.level.min(self.abreast.most() as f64).max(1.0);
        self.level = (self.level * to.max(LEAST)).max(least);
        self.next_epoch();
    }
}

fn median(of: impl Iterator<Item = Duration>) -> Duration {
    middle(of).unwrap_or_default()
}

fn middle<T: Ord + Copy>(of: impl Iterator<Item = T>) -> Option<T> {
    let mut of: Vec<T> = of.collect();
    let middle = of.len() / 2;
    if of.is_empty() { None } else { Some(*of.select_nth_unstable(middle).1) }
}
