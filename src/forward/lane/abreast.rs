//! How many POSTs an endpoint has been seen at work on at once, at least. None of those waits for another, so fewer are not answered
//! sooner. Two things show it of an endpoint that begins with what came first. Pure.

use std::time::{Duration, Instant};

#[derive(Default)]
pub(super) struct Abreast {
    /// POSTs that have ended, however.
    ended: u64,
    /// What is seen now, and what was seen before: each for as long as the deadline, within which whatever was at work has ended.
    now: Seen,
    before: Seen,
    since: Option<Instant>,
    /// Answers that came so close together, from when on.
    burst: Option<(Instant, usize)>,
    /// The longest that an answer has taken by itself lately.
    slowest: Duration,
}

/// What waits for others takes longer and longer; what takes so many times what any has taken lately does so by itself.
const OUT_OF_THE_BLUE: f64 = 2.0;
/// Few enough to be told from a queue.
const FEW: usize = 4;
/// What it took by itself is told as such up to so much more, and is forgotten by so much with each answer beside few.
const AS_SLOW: f64 = 1.15;
const FADES: f64 = 0.99;

#[derive(Clone, Copy, Default)]
struct Seen {
    most: usize,
    /// No POST takes less, though all that were in flight waited for one worker.
    least: Option<Duration>,
    /// As long as any has waited.
    longest: Duration,
    doubt: bool,
}

/// When a POST was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    ended: u64,
    /// With it.
    in_flight: usize,
}

impl Abreast {
    pub(super) fn mark(&self, in_flight: usize) -> Mark {
        Mark { ended: self.ended, in_flight }
    }

    /// One has ended.
    pub(super) fn ended(&mut self) {
        self.ended += 1;
    }

    /// One is answered, and not counted as ended yet.
    pub(super) fn answered(&mut self, mark: Mark, waited: Duration, now: Instant, timeout: Duration) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= timeout) {
            (self.before, self.now, self.since) = (self.now, Seen::default(), Some(now));
        }
        let abreast = self.overtaken(mark).max(self.together(mark, waited, now));
        self.now.most = self.now.most.max(abreast);
        self.learn_slowest(mark, waited);
    }

    /// Answers to POSTs begun beside so many took no longer than beside few.
    pub(super) fn alike(&mut self, in_flight: usize) {
        self.now.most = self.now.most.max(in_flight);
    }

    fn learn_slowest(&mut self, mark: Mark, waited: Duration) {
        let few = mark.in_flight <= FEW;
        if few {
            self.slowest = self.slowest.mul_f64(FADES);
        }
        let longest = self.now.longest.max(self.before.longest);
        let doubt = self.now.doubt || self.before.doubt;
        let out_of_the_blue = !doubt && longest > Duration::ZERO && waited > longest.mul_f64(OUT_OF_THE_BLUE);
        if out_of_the_blue || (few && mark.in_flight <= self.most()) || self.is_own(waited) {
            self.slowest = self.slowest.max(waited);
        }
        self.now.longest = self.now.longest.max(waited);
    }

    /// It took that long by itself, as far as is known.
    pub(super) fn is_own(&self, waited: Duration) -> bool {
        waited <= self.slowest.mul_f64(AS_SLOW)
    }

    pub(super) fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Those that were begun before it and are not answered yet: it would be behind them if they waited. Of those that ended meanwhile all
    /// are taken for such.
    fn overtaken(&self, mark: Mark) -> usize {
        let ended = usize::try_from(self.ended - mark.ended).unwrap_or(usize::MAX);
        mark.in_flight.saturating_sub(ended).max(1)
    }

    /// Those that are answered within less time than any takes: one worker does not do two of them.
    fn together(&mut self, mark: Mark, waited: Duration, now: Instant) -> usize {
        let own = waited.div_f64(mark.in_flight.max(1) as f64);
        let least = self.now.least.map_or(own, |least| least.min(own));
        self.now.least = Some(least);
        let least = self.before.least.map_or(least, |before| before.min(least)) / 2;
        match &mut self.burst {
            Some((since, answers)) if now.saturating_duration_since(*since) < least => {
                *answers += 1;
                *answers
            }
            burst => {
                *burst = Some((now, 1));
                1
            }
        }
    }

    /// None while there is doubt.
    pub(super) fn most(&self) -> usize {
        if self.now.doubt || self.before.doubt { 0 } else { self.now.most.max(self.before.most) }
    }

    /// Some failed, or took most of their time and not by themselves: so it may be that others overtake what waits.
    pub(super) fn doubt(&mut self) {
        self.now.doubt = true;
    }

    /// The endpoint is another one now.
    pub(super) fn forget(&mut self) {
        (self.now, self.before, self.burst) = (Seen::default(), Seen::default(), None);
        self.slowest = Duration::ZERO;
    }
}
