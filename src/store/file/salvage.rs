//! What can still be had of a file that is damaged, wherever that is: its records, for a new one with a new index. redb is not asked, since
//! one bit in its first page or in the root of a table may cost all of them: each page is looked at as if it were a leaf, and what has a
//! record's checksum is a record. Logs nothing.
//!
//! ```text
//! a leaf of redb's: 1 u8 | u8 | entries u16 | where each value ends u32, if lengths differ | keys | values; numbers are little-endian
//! ```

use super::split;
use crate::store::encoding;
use crate::store::error::Fault;
use crate::store::folder::Span;
use crate::store::index::IndexKey;
use crate::store::memory::{Batch, Entry};
use redb::StorageBackend;
use std::collections::{HashMap, HashSet};

const PAGE: usize = 4096;
/// Records that are long make long leaves; what says that it is longer is none.
const LEAF_MOST: usize = 4 << 20;

/// What is whole of a file, to be built anew, and what is known of it from elsewhere. An error is the disk's.
pub(in crate::store) fn salvage(file: &dyn StorageBackend, span: Span, key: &IndexKey, known: Vec<Entry>) -> Result<Batch, Fault> {
    let mut batch = Batch::new(span.first.saturating_sub(1));
    for entry in whole(file, span, known)? {
        if let Ok(record) = encoding::decode(entry.id, &entry.octets) {
            batch.take(entry, &record, key);
        }
    }
    Ok(batch)
}

/// In the order of their numbers.
pub(in crate::store) fn whole(file: &dyn StorageBackend, span: Span, known: Vec<Entry>) -> Result<Vec<Entry>, Fault> {
    let (mut entries, mut numbers, mut page) = (known, HashMap::new(), Vec::new());
    let mut ids: HashSet<u128> = entries.iter().map(|entry| entry.id).collect();
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    for at in (0..length).step_by(PAGE) {
        let most = (length - at).min(LEAF_MOST);
        let mut leaf = read(file, at, most.min(PAGE), &mut page)?;
        if let Some(longer) = leaf.end().map(|end| end.min(most)).filter(|end| *end > PAGE) {
            leaf = read(file, at, longer, &mut page)?;
        }
        entries.extend(leaf.records().filter(|entry| ids.insert(entry.id)));
        numbers.extend(leaf.numbers().filter(|(_, number)| span.has(*number)));
    }
    set_right(&mut entries, &numbers, span);
    entries.retain(|entry| span.has(entry.commit));
    entries.sort_unstable_by_key(|entry| entry.commit);
    entries.dedup_by_key(|entry| entry.commit);
    Ok(entries)
}

/// Where the two tables say different things, the number counts that no other record has.
fn set_right(entries: &mut [Entry], numbers: &HashMap<u128, u64>, span: Span) {
    let agree = |entry: &Entry| numbers.get(&entry.id).is_none_or(|number| *number == entry.commit);
    let taken: HashSet<u64> = entries.iter().filter(|entry| agree(entry)).map(|entry| entry.commit).collect();
    for entry in entries.iter_mut().filter(|entry| !agree(entry)) {
        let is_taken = taken.contains(&entry.commit) || !span.has(entry.commit);
        if is_taken && let Some(number) = numbers.get(&entry.id) {
            entry.commit = *number;
        }
    }
}

struct Leaf<'a>(&'a [u8]);

fn read<'a>(file: &dyn StorageBackend, at: usize, length: usize, page: &'a mut Vec<u8>) -> Result<Leaf<'a>, Fault> {
    page.resize(length, 0);
    file.read(at as u64, page)?;
    Ok(Leaf(page))
}

impl Leaf<'_> {
    fn count(&self) -> usize {
        if let [1, _, low, high, ..] = self.0 { u16::from_le_bytes([*low, *high]).into() } else { 0 }
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    /// Of a leaf of `records`: where a value ends.
    fn end_of(&self, number: usize) -> Option<usize> {
        self.array(4 + 4 * number).and_then(|end| usize::try_from(u32::from_le_bytes(end)).ok())
    }

    fn end(&self) -> Option<usize> {
        self.end_of(self.count().checked_sub(1)?)
    }

    fn records(&self) -> impl Iterator<Item = Entry> {
        let keys = 4 + 4 * self.count();
        let values = keys + 16 * self.count();
        (0..self.count()).filter_map(move |number| {
            let id = u128::from_le_bytes(self.array(keys + 16 * number)?);
            let start = number.checked_sub(1).map_or(Some(values), |before| self.end_of(before))?;
            let (commit, octets) = split(self.0.get(start..self.end_of(number)?)?)?;
            encoding::is_whole(id, octets).then(|| Entry { id, commit, octets: octets.into() })
        })
    }

    /// Of a leaf of `commits`.
    fn numbers(&self) -> impl Iterator<Item = (u128, u64)> {
        let values = 4 + 8 * self.count();
        (0..self.count()).map_while(move |number| {
            let id = u128::from_le_bytes(self.array(values + 16 * number)?);
            Some((id, u64::from_le_bytes(self.array(4 + 8 * number)?)))
        })
    }
}
