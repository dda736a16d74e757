//! Maps of large messages that have gone, kept for a moment for those that come: to make a map's pages and to give them back is a third of
//! what a large message costs.
//!
//! They count in no message's lease, so they are a small part of the budget beside it, and none is kept for longer than a moment. The lock is
//! taken twice for a large message and never for a small one. Logs nothing.

use memmap2::MmapMut;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// All that are kept are this part of the budget at the most: messages that come side by side end side by side, and each is followed by
/// another. An eighth makes a large message cheaper still, and the peak higher.
const PART_OF_BUDGET: u64 = 16;
/// Of a small budget, more.
const OCTETS_MIN: u64 = 8 * 1024 * 1024;
const AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Spares(Mutex<Vec<Spare>>);

struct Spare {
    map: MmapMut,
    since: Instant,
}

impl Spares {
    fn maps(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest that has as many octets as fit.
    pub(super) fn take(&self, fits: RangeInclusive<usize>) -> Option<MmapMut> {
        let mut maps = self.maps();
        let (at, _) =
            maps.iter().enumerate().filter(|(_, spare)| fits.contains(&spare.map.len())).min_by_key(|(_, spare)| spare.map.len())?;
        Some(maps.swap_remove(at).map)
    }

    /// Keeps it, if there is room.
    pub(super) fn put(&self, map: MmapMut, budget: u64) {
        let mut maps = self.maps();
        let kept: usize = maps.iter().map(|spare| spare.map.len()).sum();
        if kept.saturating_add(map.len()) as u64 <= (budget / PART_OF_BUDGET).max(OCTETS_MIN) {
            maps.push(Spare { map, since: Instant::now() });
        }
    }

    /// Frees those that nobody has taken.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        let mut maps = self.maps();
        let old = maps.extract_if(.., |spare| now.saturating_duration_since(spare.since) >= AGE_MAX).collect::<Vec<_>>();
        // Freed without the lock.
        drop(maps);
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::{AGE_MAX, Instant, MmapMut, Spares};

    fn map(octets: usize) -> MmapMut {
        MmapMut::map_anon(octets).unwrap()
    }

    #[test]
    fn the_smallest_that_fits_and_none_that_is_far_too_large() {
        let spares = Spares::default();
        for octets in [4 << 20, 1 << 20, 2 << 20] {
            spares.put(map(octets), 0);
        }
        assert!(spares.take(5 << 20..=80 << 20).is_none());
        assert!(spares.take(64 << 10..=1 << 20).is_some_and(|map| map.len() == 1 << 20));
        assert!(spares.take(64 << 10..=1 << 20).is_none(), "the others are too large");
        assert!(spares.take(1 << 20..=16 << 20).is_some_and(|map| map.len() == 2 << 20));
        assert!(spares.take(64 << 10..=usize::MAX).is_some_and(|map| map.len() == 4 << 20));
    }

    #[test]
    fn a_bound_and_an_end() {
        let spares = Spares::default();
        for _ in 0..20 {
            spares.put(map(1 << 20), 0);
        }
        assert_eq!(spares.maps().len(), 8);
        spares.tidy();
        assert_eq!(spares.maps().len(), 8, "for a moment");
        for spare in spares.maps().iter_mut() {
            spare.since = Instant::now().checked_sub(AGE_MAX).unwrap();
        }
        spares.tidy();
        assert!(spares.maps().is_empty());
    }
}
