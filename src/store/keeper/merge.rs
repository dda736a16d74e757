//! Which files become one: neighbours of one size, so that a record is written some two times in all. Cannot fail.

use crate::store::file::StoreFile;
use std::ops::Range;
use std::sync::Arc;

/// So many become one.
const FAN: usize = 8;
/// Files up to here are of one size.
const SMALL: u64 = 1 << 20;
/// More than these are too many, of whatever size: each is a descriptor, and a look at a start and at a look-up.
const FILES_MOST: usize = 48;

/// What a merged file may be at the most.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) octets: u64,
    /// Between its oldest and its newest record: they leave the disk together.
    pub(super) microseconds: i64,
}

impl Bounds {
    pub(super) fn new(max_size: u64, retention: std::time::Duration) -> Self {
        const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
        let longest = (retention / 30).min(DAY);
        Self { octets: max_size / 16, microseconds: i64::try_from(longest.as_micros()).unwrap_or(i64::MAX) }
    }

    fn allow(&self, files: &[Arc<StoreFile>]) -> bool {
        let octets: u64 = files.iter().map(|file| file.octets).sum();
        let filled = || files.iter().filter(|file| file.summary.records > 0);
        let oldest = filled().map(|file| file.summary.oldest_us).min().unwrap_or(0);
        let newest = filled().map(|file| file.summary.newest_us).max().unwrap_or(0);
        octets <= self.octets && newest.saturating_sub(oldest) <= self.microseconds
    }
}

/// Each eight times as large as the one below.
fn tier(octets: u64) -> u32 {
    (octets / SMALL).max(1).ilog2() / FAN.ilog2()
}

pub(super) fn choose(files: &[Arc<StoreFile>], bounds: Bounds) -> Option<Range<usize>> {
    let alike = |run: &[Arc<StoreFile>]| {
        let mut tiers = run.iter().map(|file| tier(file.octets));
        let first = tiers.next();
        tiers.all(|tier| Some(tier) == first)
    };
    let run = files.windows(FAN).position(|run| alike(run) && bounds.allow(run)).map(|start| start..start + FAN);
    run.or_else(|| {
        if files.len() <= FILES_MOST {
            return None;
        }
        let pairs = files.windows(2).enumerate().filter(|(_, pair)| bounds.allow(pair));
        let smallest = pairs.min_by_key(|(_, pair)| pair.iter().map(|file| file.octets).sum::<u64>());
        smallest.map(|(start, _)| start..start + 2)
    })
}
