//! The time by which records expire: a clock that is wrong (no battery, a bad time server) would empty the store at once. Says when the
//! clock is not believed, and when it is again.

use super::encoding;
use super::view::View;
use std::time::{Duration, Instant};

/// Within it whoever looks after the machine can set the clock right.
const DOUBT: Duration = Duration::from_secs(3600);
/// Between records that come one after the other there is less.
const GAP_US: i64 = 86_400_000_000;
/// A clock that differs more from what the machine has counted has jumped.
const JUMP_US: u64 = 60_000_000;

/// What the clock showed at a moment.
#[derive(Clone, Copy)]
struct Reading {
    clock_us: i64,
    at: Instant,
}

impl Reading {
    /// What it should show by now.
    fn counted(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.at);
        self.clock_us.saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }
}

pub(super) struct Clock {
    believed: Option<Reading>,
    /// One that is another one than that, and from when on it is believed.
    doubted: Option<(Reading, Instant)>,
}

impl Clock {
    /// A store of which all records were taken long ago, or within the last day and long ago, speaks against the clock, or for a machine
    /// that was off. So it waits after each start within that day: a clock that goes on jumping makes no hour pass.
    pub(super) fn new(view: &View, now: Instant, clock_us: i64) -> Self {
        let reading = Reading { clock_us, at: now };
        if !is_doubtful(view, clock_us) {
            return Self { believed: Some(reading), doubted: None };
        }
        tracing::warn!("no record is of the day before, or the clock is wrong: nothing expires for an hour");
        Self { believed: None, doubted: Some((reading, now + DOUBT)) }
    }

    /// Microseconds since 1970 by which records expire; `None` where there is nothing to be believed.
    pub(super) fn believed(&mut self, now: Instant, clock_us: i64) -> Option<i64> {
        let reading = Reading { clock_us, at: now };
        let counted = self.doubted.map(|(doubted, _)| doubted).or(self.believed).map_or(clock_us, |latest| latest.counted(now));
        if counted.abs_diff(clock_us) > JUMP_US {
            tracing::warn!(
                seconds = clock_us.saturating_sub(counted) / 1_000_000,
                "the clock has jumped: nothing expires by it for an hour"
            );
            self.doubted = Some((reading, now + DOUBT));
        } else if self.doubted.is_none_or(|(_, until)| now >= until) {
            if self.doubted.take().is_some() {
                tracing::warn!("the clock is believed from now on: what is too old by it goes");
            }
            self.believed = Some(reading);
        } else if let Some((doubted, _)) = &mut self.doubted {
            *doubted = reading;
        }
        match self.doubted {
            None => Some(clock_us),
            // What has come since it was set back bears its dates.
            Some(_) => self.believed.map(|believed| believed.counted(now).min(clock_us)),
        }
    }
}

fn is_doubtful(view: &View, clock_us: i64) -> bool {
    let in_memory = view.batches().flat_map(|batch| batch.records.values());
    let mut dates: Vec<_> = in_memory.filter_map(|(_, octets)| encoding::date_us(octets)).map(|date| (date, date)).collect();
    for file in view.files.iter().filter(|file| file.summary.records > 0) {
        let (newest, oldest) = (file.summary.newest_us, file.summary.oldest_us);
        if newest.saturating_sub(oldest) <= GAP_US {
            dates.push((newest, oldest));
            continue;
        }
        // No file has so much but one in which the clock was set.
        for record in file.all() {
            let Ok((_, _, octets)) = record else { return true };
            dates.extend(encoding::date_us(&octets).map(|date| (date, date)));
        }
    }
    dates.sort_unstable();
    // Back to where nothing came for so long.
    let mut since = clock_us;
    while let Some((newest, oldest)) = dates.pop() {
        if since.saturating_sub(newest) > GAP_US {
            return clock_us.saturating_sub(since) <= GAP_US;
        }
        since = since.min(oldest);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const FIRST_US: i64 = 1_800_000_000_000_000;

    #[test]
    fn a_clock_that_jumps_is_believed_an_hour_later_and_one_that_creeps_at_once() {
        let begun = Instant::now();
        let mut clock = Clock { believed: Some(Reading { clock_us: FIRST_US, at: begun }), doubted: None };
        let after = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        let by_count = |minutes: i64| FIRST_US + minutes * 60_000_000;
        assert_eq!(clock.believed(after(10), by_count(10) + 50_000_000), Some(by_count(10) + 50_000_000));
        assert_eq!(clock.believed(after(20), by_count(20) + 90_000_000), Some(by_count(20) + 90_000_000), "fifty seconds, and forty");
        let year = 365 * 24 * HOUR_US;
        for minute in 30..90 {
            let counted = by_count(i64::try_from(minute).unwrap()) + 90_000_000;
            assert_eq!(clock.believed(after(minute), counted + year), Some(counted), "{minute}");
        }
        // It jumps again before it is believed.
        assert_eq!(clock.believed(after(89), by_count(89) - year), Some(by_count(89) - year));
        assert_eq!(clock.believed(after(120), by_count(120) - year), Some(by_count(120) - year));
        assert_eq!(clock.believed(after(148), by_count(148) + 90_000_000), Some(by_count(148) + 90_000_000));
        assert_eq!(clock.believed(after(210), by_count(210) + year), Some(by_count(210) + 90_000_000));
        assert_eq!(clock.believed(after(271), by_count(271) + year), Some(by_count(271) + year));
    }
}
