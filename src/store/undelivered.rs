//! Messages that no endpoint has taken or refused: derived of the records, in memory, with a copy on the disk so that a start need not
//! read every record. Made again where the copy is missing, damaged or of another index key. Logs nothing.

use super::encoding::{self, Reader, Unreadable};
use super::index::{Hash, IndexKey};
use crate::record::{Outcome, Record};
use std::collections::{BTreeMap, HashMap};

const MAGIC: [u8; 8] = *b"msundlv1";

/// How often a message was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) attempts: u64,
    pub(super) first_seen_us: i64,
    pub(super) last_seen_us: i64,
    pub(super) last_id: u128,
}

impl Tries {
    fn of(id: u128, date_us: i64) -> Self {
        Self { attempts: 1, first_seen_us: date_us, last_seen_us: date_us, last_id: id }
    }

    fn and(self, other: Self) -> Self {
        Self {
            attempts: self.attempts.saturating_add(other.attempts),
            first_seen_us: self.first_seen_us.min(other.first_seen_us),
            last_seen_us: self.last_seen_us.max(other.last_seen_us),
            last_id: self.last_id.max(other.last_id),
        }
    }
}

/// Whether an endpoint has taken or refused a message before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    No,
    Yes,
    /// A filter says that it may be: only reading tells.
    Perhaps,
}

#[derive(Debug, Default)]
pub(super) struct Undelivered {
    tries: HashMap<Hash, Tries>,
    by_last: BTreeMap<u128, Hash>,
    /// Tries of messages that may have been settled before: nobody has looked yet.
    doubtful: BTreeMap<Hash, Tries>,
    /// The last record that was taken into account.
    pub(super) through: u64,
    /// The last number of a write that failed: the next start may find it all the same, as long as no file has numbers beyond.
    skipped: u64,
    /// Changed since the copy was made.
    pub(super) is_dirty: bool,
}

impl Undelivered {
    /// Takes the next record into account.
    pub(super) fn see(&mut self, commit: u64, record: &Record, message: Hash, settled: impl FnOnce() -> Settled) {
        self.through = self.through.max(commit);
        if record.outcome != Outcome::Deferred {
            self.doubtful.remove(&message);
            self.forget(message);
            return;
        }
        let tries = Tries::of(record.id.0, record.date.as_microsecond());
        if self.tries.contains_key(&message) {
            self.count(message, tries);
        } else if let Some(doubtful) = self.doubtful.get_mut(&message) {
            *doubtful = doubtful.and(tries);
        } else {
            match settled() {
                Settled::Yes => {}
                Settled::No => self.count(message, tries),
                Settled::Perhaps => _ = self.doubtful.insert(message, tries),
            }
        }
    }

    /// The numbers up to this one were not written, or perhaps they were.
    pub(super) fn skip(&mut self, commit: u64) {
        self.skipped = commit;
    }

    fn count(&mut self, message: Hash, tries: Tries) {
        self.is_dirty = true;
        let tries = self.tries.get(&message).map_or(tries, |old| old.and(tries));
        if let Some(old) = self.tries.insert(message, tries) {
            self.by_last.remove(&old.last_id);
        }
        self.by_last.insert(tries.last_id, message);
    }

    fn forget(&mut self, message: Hash) {
        if let Some(old) = self.tries.remove(&message) {
            self.is_dirty = true;
            self.by_last.remove(&old.last_id);
        }
    }

    pub(super) fn doubts(&self) -> Vec<Hash> {
        self.doubtful.keys().copied().collect()
    }

    /// Somebody has looked; counts only if no record has settled it meanwhile.
    pub(super) fn resolve(&mut self, message: Hash, is_settled: bool) {
        if let Some(tries) = self.doubtful.remove(&message)
            && !is_settled
        {
            self.count(message, tries);
        }
    }

    /// The record is gone: a message whose last attempt it was is not known any more.
    pub(super) fn drop_record(&mut self, id: u128) {
        if let Some(message) = self.by_last.get(&id).copied() {
            self.forget(message);
        }
    }

    /// Messages whose last attempt is older than this go with it.
    pub(super) fn expire(&mut self, cutoff_us: i64) {
        let gone: Vec<_> = self.tries.iter().filter(|(_, tries)| tries.last_seen_us < cutoff_us).map(|(message, _)| *message).collect();
        gone.into_iter().for_each(|message| self.forget(message));
    }

    pub(super) fn len(&self) -> usize {
        self.tries.len()
    }

    pub(super) fn holds(&self, id: u128) -> bool {
        self.by_last.contains_key(&id)
    }

    /// By their last attempt, newest first.
    pub(super) fn newest(&self, below: u128, most: usize) -> Vec<Tries> {
        self.by_last.range(..below).rev().take(most).filter_map(|(_, message)| self.tries.get(message).copied()).collect()
    }

    /// Ids of last attempts in a range, newest first.
    pub(super) fn ids(&self, ids: &std::ops::Range<u128>) -> Vec<u128> {
        self.by_last.range(ids.clone()).rev().map(|(id, _)| *id).collect()
    }

    /// The copy; `None` while there are doubts, which it has no place for, of messages or of what was written.
    pub(super) fn encode(&self, key: &IndexKey, in_files: u64) -> Option<Vec<u8>> {
        if !self.doubtful.is_empty() || (in_files < self.skipped && self.skipped < self.through) {
            return None;
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&key.check());
        out.extend_from_slice(&self.through.to_le_bytes());
        for (message, tries) in &self.tries {
            out.extend_from_slice(message);
            out.extend_from_slice(&tries.attempts.to_le_bytes());
            out.extend_from_slice(&tries.first_seen_us.to_le_bytes());
            out.extend_from_slice(&tries.last_seen_us.to_le_bytes());
            out.extend_from_slice(&tries.last_id.to_le_bytes());
        }
        Some(encoding::summed(2, out))
    }

    pub(super) fn decode(octets: &[u8], key: &IndexKey) -> Result<Self, Unreadable> {
        let mut rest = Reader(encoding::checked(2, octets)?);
        if rest.array()? != MAGIC || rest.array()? != key.check() {
            return Err(Unreadable);
        }
        let mut state = Self { through: u64::from_le_bytes(rest.array()?), ..Self::default() };
        while !rest.0.is_empty() {
            let message = rest.array()?;
            let tries = Tries {
                attempts: u64::from_le_bytes(rest.array()?),
                first_seen_us: i64::from_le_bytes(rest.array()?),
                last_seen_us: i64::from_le_bytes(rest.array()?),
                last_id: u128::from_le_bytes(rest.array()?),
            };
            state.count(message, tries);
        }
        state.is_dirty = false;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_copy_is_what_was_copied_and_a_changed_octet_is_none(
            messages in proptest::collection::hash_map(any::<[u8; 16]>(), (1u64..9, any::<i64>(), any::<u128>()), 0..20),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let key = IndexKey([3; 32]);
            let mut state = Undelivered { through: 17, ..Undelivered::default() };
            for (message, (attempts, seen, id)) in messages {
                state.count(message, Tries { attempts, first_seen_us: seen, last_seen_us: seen, last_id: id });
            }
            let mut octets = state.encode(&key, 0).unwrap();
            let again = Undelivered::decode(&octets, &key).unwrap();
            prop_assert_eq!((&again.tries, &again.by_last, again.through), (&state.tries, &state.by_last, 17));
            prop_assert!(Undelivered::decode(&octets, &IndexKey([4; 32])).is_err());
            let at = at.index(octets.len());
            octets[at] ^= 1 << bit;
            prop_assert!(Undelivered::decode(&octets, &key).is_err());
        }
    }
}
