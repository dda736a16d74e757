//! How many POSTs an endpoint is given at once: as many as it answers within a part of its deadline. Any number between what the endpoint
//! does at once and what it does within its time is as good, so what is kept is the time. Comparing with the shortest answer
//! instead would take work that varies for a queue. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Few enough that what they take is the endpoint's own time.
const FEW: usize = 4;
/// Where it starts: an endpoint that does one after the other, each in a quarter of its time, answers so many.
const START: usize = 3;
const BASE_SAMPLES: usize = 15;
/// Answers that are judged together: as many as the limit, between these.
const WINDOW: (usize, usize) = (4, 16);
/// While it grows by leaps it has to hear soon when it is enough.
const QUICK_WINDOW: (usize, usize) = (2, 6);
/// A decrease leaves so much at the most, and at the least.
const LESS: f64 = 0.7;
const LEAST: f64 = 0.3;
/// The longest leap.
const LEAP: f64 = 2.5;
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
    in_flight: usize,
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
        self.level = START.min(self.most) as f64;
        self.quick = true;
        self.forget_base();
        self.next_epoch();
        (self.before, self.in_vain) = (None, 0);
    }

    fn forget_base(&mut self) {
        self.base.clear();
        (self.own, self.target) = (Duration::ZERO, self.longest());
    }

    fn next_epoch(&mut self) {
        self.epoch += 1;
        self.window.clear();
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

    /// How many answers come in so long a time, at so many a second now: while it still finds out what the endpoint can do, each round of
    /// them is half as large again as the one before.
    pub(super) fn answers_within(&self, per_second: f64, time: Duration) -> f64 {
        let steady = per_second * time.as_secs_f64();
        if !self.adaptive || !self.quick || self.get() >= self.most {
            return steady;
        }
        let rounds = steady / self.level;
        (2.0 * self.level * (1.5_f64.powf(rounds) - 1.0)).clamp(steady, rounds * self.most as f64)
    }

    /// `in_flight`: with this one.
    pub(super) fn begin(&self, in_flight: usize) -> Begun {
        Begun { epoch: self.epoch, in_flight }
    }

    /// An answer came, `waited` behind the request's last octet; `used`: meanwhile all that the limit allows were in flight.
    pub(super) fn answered(&mut self, begun: Begun, waited: Duration, used: bool) {
        let sample = Sample { waited, in_flight: begun.in_flight };
        if begun.in_flight <= FEW {
            self.learn_base(sample);
        }
        if begun.epoch == self.epoch {
            self.window.push(sample);
            let (least, most) = if self.quick { QUICK_WINDOW } else { WINDOW };
            if self.window.len() >= self.get().clamp(least, most) {
                self.judge();
            }
        }
        if used && begun.epoch == self.epoch {
            self.grow(sample);
        }
    }

    fn grow(&mut self, sample: Sample) {
        let room = sample.room(self.target) - self.level;
        let more = if self.quick && self.is_alone(sample.waited) {
            // Nobody waits inside: a leap, as far as all that it adds could wait and be in time.
            let far = sample.room(self.longest()).min(LEAP * sample.in_flight as f64) - self.level;
            far.clamp(0.0, LEAP - 1.0)
        } else if room <= 0.0 {
            0.0
        } else if self.quick {
            0.5
        } else {
            1.0 / self.level
        };
        self.level = (self.level + more).min(self.most as f64);
    }

    fn learn_base(&mut self, sample: Sample) {
        if self.base.len() >= BASE_SAMPLES {
            self.base.pop_front();
        }
        self.base.push_back(sample);
        self.own = median(self.base.iter().map(|sample| sample.waited));
        // Even few may wait for each other inside, or not: in between.
        let between = |sample: &Sample| sample.waited.div_f64((sample.in_flight as f64).sqrt());
        self.target = median(self.base.iter().map(between)).mul_f64(2.5).clamp(self.timeout / 4, self.longest());
    }

    fn longest(&self) -> Duration {
        self.timeout.mul_f64(0.6)
    }

    /// It took no longer than it does beside few.
    fn is_alone(&self, waited: Duration) -> bool {
        waited <= self.own.mul_f64(1.25)
    }

    /// No answer, or one that says "too much".
    pub(super) fn failed(&mut self, begun: Begun) {
        // Once a round trip.
        if begun.epoch == self.epoch {
            self.lower(LESS);
        }
    }

    fn judge(&mut self) {
        let waited = median(self.window.iter().map(|sample| sample.waited));
        let in_flight = middle(self.window.iter().map(|sample| sample.in_flight)).unwrap_or_default();
        // One kind of message may wait for its own handlers, and hold what others need.
        let too_long = self.window.iter().filter(|sample| sample.waited > self.timeout.mul_f64(0.7)).count() * 8 > self.window.len();
        self.window.clear();
        if waited <= self.target {
            self.quick &= waited <= self.target.mul_f64(0.7) || self.is_alone(waited);
            (self.before, self.in_vain) = (None, 0);
            if too_long {
                self.lower(LESS);
            }
            return;
        }
        let shortened = self.before.is_none_or(|before| waited <= before.mul_f64(SHORTENED));
        self.in_vain = if shortened { 0 } else { self.in_vain + 1 };
        self.before = Some(waited);
        if self.in_vain < 2 {
            self.lower(Sample { waited, in_flight }.room(self.target) / self.level);
        } else {
            // It takes that long whatever it is given: what it takes for a few has to be learned anew.
            self.restart();
        }
    }

    /// To that part of it.
    fn lower(&mut self, to: f64) {
        self.quick = false;
        self.level = (self.level * to.clamp(LEAST, LESS)).max(1.0);
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
