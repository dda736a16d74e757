//! A Bloom filter over the messages that a file's records have settled: a message that is put off is looked for in no file that cannot
//! know it. Logs nothing.

use crate::store::encoding;
use crate::store::index::Hash;

/// Bits for each message, and how many of them are set: one message in two thousand is looked for in vain.
const BITS: usize = 16;
const PROBES: u64 = 11;

/// Empty: everything may be in it.
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    pub(super) fn of(messages: &[Hash]) -> Self {
        let mut filter = Self(vec![0; (messages.len() * BITS).div_ceil(8).max(8)]);
        for message in messages {
            for (octet, bit) in filter.places(*message) {
                if let Some(octet) = filter.0.get_mut(octet) {
                    *octet |= bit;
                }
            }
        }
        filter
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encoding::summed(3, self.0.clone())
    }

    /// A damaged one is empty.
    pub(super) fn decode(octets: &[u8]) -> Self {
        Self(encoding::checked(3, octets).unwrap_or_default().to_vec())
    }

    pub(super) fn may_hold(&self, message: Hash) -> bool {
        self.0.is_empty() || self.places(message).all(|(octet, bit)| self.0.get(octet).is_some_and(|octet| octet & bit != 0))
    }

    /// The hash is a keyed one already: its halves make all the places.
    fn places(&self, message: Hash) -> impl Iterator<Item = (usize, u8)> + use<> {
        let whole = u128::from_le_bytes(message);
        let (one, other) = (u64::try_from(whole >> 64).unwrap_or(0), u64::try_from(whole & u128::from(u64::MAX)).unwrap_or(0) | 1);
        let bits = (self.0.len() as u64).saturating_mul(8).max(1);
        (0..PROBES).map(move |probe| {
            let bit = one.wrapping_add(other.wrapping_mul(probe)) % bits;
            (usize::try_from(bit / 8).unwrap_or(0), 1 << (bit % 8))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> Hash {
        blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk().copied().unwrap()
    }

    #[test]
    fn it_misses_none_and_is_seldom_wrong_and_a_flipped_bit_makes_it_say_perhaps() {
        let messages: Vec<_> = (0..5000).map(message).collect();
        let filter = Filter::decode(&Filter::of(&messages).encode());
        assert!(messages.iter().all(|message| filter.may_hold(*message)));
        let wrong = (5000..25_000).filter(|number| filter.may_hold(message(*number))).count();
        assert!(wrong < 60, "{wrong} of 20000");
        assert!(!Filter::of(&[]).may_hold(message(1)), "one that holds nothing says so");
        for at in [0, 700, 10_007] {
            let mut octets = Filter::of(&messages).encode();
            octets[at] ^= 4;
            assert!(Filter::decode(&octets).may_hold(message(999_999)));
        }
    }
}
