//! How many POSTs an endpoint is given at once. It is raised while its answers stay well within the deadline and lowered when
//! they do not: any number between what the endpoint does at once and what it does within its time is as good, so what
//! is kept is the time. Comparing with the shortest answer instead would take work that varies for a queue. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Few enough that what they take is the endpoint's own time; also where it starts.
pub(super) const FEW: usize = 4;
const BASE_SAMPLES: usize = 15;
const WINDOW_MAX: usize = 32;
/// While it grows by half a round it has to hear soon when it is enough.
const QUICK_WINDOW_MAX: usize = 6;
/// Medians that stand so high above a decrease before them were not shortened by it.
const SHORTENED: f64 = 0.85;

pub(super) struct Limit {
    most: usize,
    adaptive: bool,
    timeout: Duration,
    level: f64,
    /// It grows by half with each round of answers; else by one.
    quick: bool,
    /// Answers to POSTs that were begun beside few.
    base: VecDeque<Duration>,
    window: Vec<Duration>,
    /// Counts decreases: what was begun before the last one has no say.
    epoch: u64,
    /// The median that led to the last decrease.
    before: Option<Duration>,
    in_vain: u8,
}

/// What was so when a POST was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    epoch: u64,
    beside_few: bool,
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
            window: Vec::new(),
            epoch: 0,
            before: None,
            in_vain: 0,
        };
        limit.restart();
        limit
    }

    pub(super) fn configure(&mut self, most: usize, adaptive: bool, timeout: Duration) {
        (self.most, self.adaptive, self.timeout) = (most.max(1), adaptive, timeout);
        self.level = self.level.clamp(self.least(), self.most as f64);
    }

    fn least(&self) -> f64 {
        FEW.min(self.most) as f64
    }

    /// From the start: the endpoint was away.
    pub(super) fn restart(&mut self) {
        self.level = self.least();
        self.quick = true;
        self.base.clear();
        self.next_epoch();
        (self.before, self.in_vain) = (None, 0);
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
        Begun { epoch: self.epoch, beside_few: in_flight <= FEW }
    }

    /// An answer came, `waited` behind the request's last octet; `used`: all that the limit allows were in flight.
    pub(super) fn answered(&mut self, begun: Begun, waited: Duration, used: bool) {
        if begun.beside_few {
            if self.base.len() >= BASE_SAMPLES {
                self.base.pop_front();
            }
            self.base.push_back(waited);
        }
        if begun.epoch == self.epoch {
            self.window.push(waited);
            if self.window.len() >= self.get().clamp(FEW, if self.quick { QUICK_WINDOW_MAX } else { WINDOW_MAX }) {
                self.judge();
                if begun.epoch != self.epoch {
                    return;
                }
            }
        }
        if used {
            let more = if self.quick { 0.5 } else { 1.0 / self.level };
            self.level = (self.level + more).min(self.most as f64);
        }
    }

    /// No answer, or one that says "too much".
    pub(super) fn failed(&mut self, begun: Begun) {
        // Once a round trip.
        if begun.epoch == self.epoch {
            self.lower();
        }
    }

    fn judge(&mut self) {
        let median = median(&mut self.window);
        self.window.clear();
        let target = self.target();
        if median <= target {
            self.quick &= median <= target.mul_f64(0.7);
            (self.before, self.in_vain) = (None, 0);
            return;
        }
        let shortened = self.before.is_none_or(|before| median <= before.mul_f64(SHORTENED));
        self.in_vain = if shortened { 0 } else { self.in_vain + 1 };
        self.before = Some(median);
        if self.in_vain < 2 {
            self.lower();
        } else {
            // It takes that long whatever it is given: what it takes for a few has to be learned anew.
            self.restart();
        }
    }

    fn lower(&mut self) {
        self.quick = false;
        self.level = (self.level * 0.7).max(self.least());
        self.next_epoch();
    }

    fn target(&self) -> Duration {
        let (least, most) = (self.timeout / 4, self.timeout.mul_f64(0.6));
        if self.base.is_empty() {
            return most;
        }
        median(&mut self.base.iter().copied().collect::<Vec<_>>()).mul_f64(2.5).clamp(least, most)
    }
}

fn median(of: &mut [Duration]) -> Duration {
    let middle = of.len() / 2;
    if of.is_empty() { Duration::ZERO } else { *of.select_nth_unstable(middle).1 }
}
