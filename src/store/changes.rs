//! What `forget` changed, for whoever brings records elsewhere: their commit numbers, in the order of the erasures, until they were taken.
//! Durable before the change is, so that none is missed; one that was not made after all is brought again as it is, which does no harm.
//! Kept only while somebody wants it. Logs a list that is damaged.

use super::encoding::{self, Reader, Unreadable};
use super::error::Fault;
use super::folder::Files;
use std::collections::{HashSet, VecDeque};
use std::io;

const MAGIC: [u8; 8] = *b"mschngs1";
const CHECKSUM_KEY: u128 = 4;

/// Each has a position, which is given once.
#[derive(Debug, PartialEq)]
pub(super) struct Changes {
    first: u64,
    numbers: VecDeque<u64>,
    /// Taken since the list was written: that alone need not be durable.
    is_dirty: bool,
    /// With so many it is looked for those that stand in it twice: it is never longer than twice the records that there are.
    most: usize,
}

const MOST: usize = 1 << 16;

impl Changes {
    fn new() -> Self {
        Self { first: 1, numbers: VecDeque::new(), is_dirty: false, most: MOST }
    }

    /// `None` where nobody wants it, or where it is damaged: whoever wants it then begins with the oldest record.
    pub(super) fn read(files: &Files) -> Result<Option<Self>, Fault> {
        let octets = match files.disk.read(&files.changes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            octets => octets?,
        };
        let found = Self::decode(&octets);
        if found.is_err() {
            tracing::error!(file = %files.changes().display(), "the list of erased records that are to be brought elsewhere is damaged");
        }
        Ok(found.ok())
    }

    /// Begins the list, or ends it; says whether it was kept before.
    pub(super) fn keep(this: &mut Option<Self>, files: &Files, is_wanted: bool) -> io::Result<bool> {
        let was_kept = this.is_some();
        if is_wanted && !was_kept {
            let new = Self::new();
            files.disk.write(&files.changes(), &new.encode())?;
            *this = Some(new);
        } else if !is_wanted {
            files.remove_if_there(&files.changes())?;
            *this = None;
        }
        Ok(was_kept)
    }

    pub(super) fn note(&mut self, files: &Files, numbers: &[u64]) -> Result<(), Fault> {
        self.shorten();
        let before = self.numbers.len();
        self.numbers.extend(numbers);
        files.disk.write(&files.changes(), &self.encode()).inspect_err(|_| self.numbers.truncate(before))?;
        self.is_dirty = false;
        Ok(())
    }

    /// Of what stands in it more than once the last counts. Positions become greater, never less: what was taken stays taken.
    fn shorten(&mut self) {
        if self.numbers.len() <= self.most {
            return;
        }
        let end = self.first.saturating_add(self.numbers.len() as u64);
        let mut seen = HashSet::new();
        let last: Vec<_> = self.numbers.iter().rev().copied().filter(|number| seen.insert(*number)).collect();
        self.numbers = last.into_iter().rev().collect();
        self.first = end.saturating_sub(self.numbers.len() as u64);
        self.most = self.numbers.len().saturating_mul(2).max(MOST);
    }

    /// Positions and commit numbers behind a position.
    pub(super) fn after(&self, position: u64, most: usize) -> Vec<(u64, u64)> {
        let positions = self.first..;
        positions.zip(self.numbers.iter().copied()).skip_while(|(at, _)| *at <= position).take(most).collect()
    }

    pub(super) fn taken(&mut self, position: u64) {
        while self.first <= position && self.numbers.pop_front().is_some() {
            self.first += 1;
            self.is_dirty = true;
        }
    }

    /// What is gone from the store anyway need not be brought anywhere.
    pub(super) fn expire(&mut self, oldest: u64) {
        while self.numbers.front().is_some_and(|number| *number < oldest) {
            self.taken(self.first);
        }
    }

    pub(super) fn save(&mut self, files: &Files) -> io::Result<()> {
        if self.is_dirty {
            files.disk.write(&files.changes(), &self.encode())?;
            self.is_dirty = false;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        [self.first].iter().chain(&self.numbers).for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        encoding::summed(CHECKSUM_KEY, out)
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Reader(encoding::checked(CHECKSUM_KEY, octets)?);
        if rest.array()? != MAGIC {
            return Err(Unreadable);
        }
        let mut changes = Self { first: u64::from_le_bytes(rest.array()?), ..Self::new() };
        while !rest.0.is_empty() {
            changes.numbers.push_back(u64::from_le_bytes(rest.array()?));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_nobody_takes_does_not_grow_for_ever_and_what_was_taken_stays_so() {
        let mut changes = Changes::new();
        for round in 0..20_u64 {
            changes.numbers.extend((0..10_000).map(|number| number * 3 + round % 2));
            changes.shorten();
        }
        assert!(changes.numbers.len() <= MOST + 10_000, "{}", changes.numbers.len());
        let distinct: HashSet<_> = changes.numbers.iter().copied().collect();
        assert_eq!(distinct.len(), 20_000);
        let (last, read) = changes.after(0, 500).pop().unwrap();
        changes.most = 0;
        changes.shorten();
        changes.taken(last);
        assert!(changes.after(last, 20_000).len() >= 20_000 - 500, "what comes behind {read} is there");
    }

    #[test]
    fn a_list_comes_back_as_it_was_and_a_changed_bit_is_none() {
        let mut changes = Changes::new();
        changes.numbers.extend([7, 3, 900]);
        changes.taken(1);
        assert_eq!(changes.after(0, 10), [(2, 3), (3, 900)]);
        assert_eq!((changes.after(2, 10), changes.after(0, 1), changes.after(9, 1)), (vec![(3, 900)], vec![(2, 3)], vec![]));
        changes.is_dirty = false;
        let octets = changes.encode();
        assert_eq!(Changes::decode(&octets), Ok(changes));
        for bit in 0..octets.len() * 8 {
            let mut damaged = octets.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Changes::decode(&damaged), Err(Unreadable));
        }
        let mut changes = Changes::decode(&octets).unwrap();
        changes.expire(4);
        assert_eq!(changes.after(0, 10), [(3, 900)]);
    }
}
