//! Record ids: ULIDs that rise over restarts and when the clock is set back. Logs nothing, cannot fail.

use crate::record::RecordId;
use std::sync::{Mutex, PoisonError};

/// A ULID is 48 bits of milliseconds above 80 random bits.
const RANDOM_BITS: u32 = 80;

/// Gives out ids. One short lock for each; random octets are drawn once per millisecond at most.
pub(super) struct Ids {
    newest: Mutex<u128>,
    seed: [u8; 32],
}

impl Ids {
    /// Ids will be above `newest`, the greatest that the store remembers, and above those of this millisecond, by some: a daemon that was
    /// killed may have given out ids that no commit remembers, and none is given again. They rise over it too where the first is asked for
    /// in a later millisecond.
    pub(super) fn new(newest: u128, clock_ms: u64, seed: [u8; 32]) -> Self {
        let some = seed.first_chunk().copied().map_or(0, u64::from_le_bytes);
        Self { newest: Mutex::new(newest.max(last_of(clock_ms)).saturating_add(some.into())), seed }
    }

    pub(super) fn next(&self, clock_ms: u64) -> RecordId {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let now = u128::from(clock_ms);
        *newest = if now > milliseconds(*newest) {
            (now << RANDOM_BITS) | self.random(clock_ms)
        } else {
            // The same millisecond, or the clock went back: the next number. It may run over into the
            // milliseconds, which is still a rising id.
            newest.saturating_add(1)
        };
        RecordId(*newest)
    }

    /// The greatest id given out so far: kept in the store, so that it also holds after its record is gone.
    pub(super) fn newest(&self) -> u128 {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self, clock_ms: u64) -> u128 {
        let hash = blake3::keyed_hash(&self.seed, &clock_ms.to_le_bytes());
        let octets = hash.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        // One bit short of 80, so that a millisecond has room for counting up.
        u128::from_le_bytes(octets) >> (128 - RANDOM_BITS + 1)
    }
}

/// The time an id speaks of, in milliseconds since 1970.
pub(super) fn milliseconds(id: u128) -> u128 {
    id >> RANDOM_BITS
}

/// The greatest id of a millisecond.
fn last_of(ms: u64) -> u128 {
    (u128::from(ms).saturating_add(1) << RANDOM_BITS).saturating_sub(1)
}

/// The least id of a millisecond.
pub(super) fn first_of(ms: i64) -> u128 {
    u128::from(ms.max(0).unsigned_abs()) << RANDOM_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_rise_whatever_the_clock_does(newest in 0u64..1 << 47, clocks in proptest::collection::vec(0u64..1 << 47, 1..200)) {
            let start = u128::from(newest) << RANDOM_BITS;
            let ids = Ids::new(start, 0, [7; 32]);
            let mut last = RecordId(start);
            for clock in clocks {
                let id = ids.next(clock);
                prop_assert!(id > last);
                prop_assert!(milliseconds(id.0) >= u128::from(clock));
                last = id;
            }
            prop_assert_eq!(ids.newest(), last.0);
        }
    }

    #[test]
    fn an_id_shows_the_clock_and_two_daemons_differ() {
        let id = Ids::new(0, 0, [1; 32]).next(1_800_000_000_000);
        assert_eq!(milliseconds(id.0), 1_800_000_000_000);
        assert_ne!(id, Ids::new(0, 0, [2; 32]).next(1_800_000_000_000));
        assert_eq!(id.to_string().len(), 26);
    }

    #[test]
    fn ids_rise_over_a_restart_in_the_same_millisecond() {
        let before = Ids::new(0, 0, [1; 32]);
        for seed in 2..50 {
            let last = before.next(1_800_000_000_000);
            assert!(Ids::new(0, 1_800_000_000_000, [seed; 32]).next(1_800_000_000_000) > last);
        }
    }

    #[test]
    fn starts_that_nobody_remembers_give_no_id_twice() {
        let mut given = std::collections::HashSet::new();
        for seed in 0..50 {
            for (newest, clock) in [(0, 1_800_000_000_000), (last_of(1_800_000_000_001), 1_700_000_000_000)] {
                let ids = Ids::new(newest, clock, *blake3::hash(&[seed]).as_bytes());
                assert!((0..50).all(|_| given.insert(ids.next(clock))), "{seed}");
            }
        }
    }
}
