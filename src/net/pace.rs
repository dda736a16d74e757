//! The three clocks of arriving data: a block's, the whole message's, and the least rate (RFC 5321 section 4.5.3.2). They go on between
//! two chunks, so that what a message holds is held for no longer in small pieces than in one.

use crate::config::Smtp;
use std::time::{Duration, Instant};

/// `min_data_rate` is averaged over this.
const WINDOW: Duration = Duration::from_secs(60);

pub(super) struct Pace {
    data_timeout: Duration,
    message_deadline: Instant,
    window_end: Instant,
    window_octets: u64,
    window_octets_min: u64,
    block_deadline: Instant,
}

impl Pace {
    pub(super) fn new(limits: &Smtp, now: Instant) -> Self {
        Self {
            data_timeout: limits.data_timeout,
            message_deadline: now + limits.message_timeout,
            window_end: now + WINDOW,
            window_octets: 0,
            window_octets_min: limits.min_data_rate.saturating_mul(WINDOW.as_secs()),
            block_deadline: now + limits.data_timeout,
        }
    }

    /// While data are waited for.
    pub(super) fn deadline(&self) -> Instant {
        self.block_deadline.min(self.pause_deadline())
    }

    /// Between two chunks, where a command is waited for, which has a time of its own.
    pub(super) fn pause_deadline(&self) -> Instant {
        self.message_deadline.min(self.window_end)
    }

    /// Data are waited for from now on.
    pub(super) fn block(&mut self, now: Instant) {
        self.block_deadline = now + self.data_timeout;
    }

    pub(super) fn came(&mut self, octets: usize, now: Instant) {
        if octets > 0 {
            self.window_octets = self.window_octets.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
            self.block(now);
        }
    }

    /// False: a clock has run out. The end of a window in which enough came is none.
    pub(super) fn is_good(&mut self, now: Instant) -> bool {
        now < self.block_deadline && self.goes_on(now)
    }

    /// As [`Pace::is_good`], between two chunks.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        if now < self.pause_deadline() {
            return true;
        }
        let enough = now < self.message_deadline && self.window_octets >= self.window_octets_min;
        self.window_end = now + WINDOW;
        self.window_octets = 0;
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, WINDOW};
    use crate::config::Config;
    use std::time::{Duration, Instant};

    fn pace(now: Instant) -> Pace {
        let mut limits = Config::load(None).unwrap().smtp;
        (limits.data_timeout, limits.message_timeout, limits.min_data_rate) = (WINDOW * 3, WINDOW * 5, 10);
        Pace::new(&limits, now)
    }

    #[test]
    fn enough_in_each_window_is_good_up_to_the_end() {
        let start = Instant::now();
        let mut pace = pace(start);
        for minute in 1..5 {
            pace.came(600, start + WINDOW * minute - Duration::from_secs(1));
            assert!(pace.is_good(start + WINDOW * minute), "{minute}");
        }
        pace.came(1 << 20, start + WINDOW * 5 - Duration::from_secs(1));
        assert!(!pace.is_good(start + WINDOW * 5), "the message as a whole");
    }

    #[test]
    fn too_little_in_one_window_or_nothing_in_a_block_is_not() {
        let start = Instant::now();
        let mut slow = pace(start);
        slow.came(599, start);
        assert!(slow.is_good(start + WINDOW - Duration::from_secs(1)));
        assert!(!slow.is_good(start + WINDOW));
        let mut stopped = pace(start);
        stopped.came(1 << 20, start);
        assert_eq!(stopped.deadline(), start + WINDOW);
        assert!(stopped.is_good(start + WINDOW) && !stopped.is_good(start + WINDOW * 3));
    }
}
