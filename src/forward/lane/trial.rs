//! How many more than an endpoint was seen at work on at once it is given to find out whether it does those, too. Pure.

use std::time::Duration;

/// So many times as many. Where answers take so small a part of the deadline, no more than are answered within three quarters of it
/// though there are no more workers; where they take longer, some may come too late, once.
const TIMES: f64 = 4.0;
const SLOW: f64 = 0.27;
const IN_TIME: f64 = 0.76;
/// Who has waited is given as if it had so much less time left.
const CARE: f64 = 0.97;
/// It is judged by what was begun beside a half of it, of slow ones a third, if it is more than so many.
const TELLS: (f64, f64) = (2.0, 3.0);
const SMALL: f64 = 9.0;

#[derive(Clone, Copy)]
pub(super) struct Trial {
    pub(super) timeout: Duration,
    /// As long as an answer takes by itself.
    pub(super) long: Duration,
    /// Seen at work at once.
    pub(super) abreast: usize,
}

impl Trial {
    /// How often an answer goes into this time.
    fn rounds(self, time: Duration) -> f64 {
        time.as_secs_f64() / self.long.as_secs_f64().max(1e-6)
    }

    pub(super) fn is_slow(self) -> bool {
        self.rounds(self.timeout) * SLOW < 1.0
    }

    /// At once.
    pub(super) fn most(self) -> f64 {
        let times = if self.is_slow() { TIMES } else { (IN_TIME * self.rounds(self.timeout)).min(TIMES) };
        self.abreast as f64 * times
    }

    /// As many as that, of so many given, say something of it.
    pub(super) fn tells(self, in_flight: usize, of: f64) -> bool {
        let times = if self.is_slow() { TELLS.1 } else { TELLS.0 };
        of <= SMALL || in_flight as f64 * times >= of
    }

    /// How many may be in flight so that one which has so much time left is in time, though there are no more workers than were seen.
    pub(super) fn bears(self, left: Duration) -> usize {
        let rounds = self.rounds(left);
        let rounds = if self.is_slow() { rounds.ceil() + 1.0 } else { (CARE * rounds).floor().max(1.0) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
        let most = (self.abreast as f64 * rounds) as usize;
        most
    }

    /// How many answers come within it, if each round of them is so many times the one before, beginning with so many.
    pub(super) fn answers_within(self, time: Duration, first: f64, most: usize) -> f64 {
        let rounds = self.rounds(time);
        (first * (TIMES.powf(rounds) - 1.0) / (TIMES - 1.0)).min(rounds * most as f64)
    }
}
