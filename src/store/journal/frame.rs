//! One batch of records as octets, as a journal has them. Logs nothing.
//!
//! ```text
//! frame:  magic 8 octets | after u64 | first u64 | length u32 | newest id u128 | records | checksum 8 octets | zeros up to a page;
//!         the checksum is over the head and the records' own checksums
//! record: id u128 | length u32 | as in encoding.rs
//! ```
//!
//! Numbers are little-endian. `first` is the commit number of the first record, `after` the last number that was durable before: where
//! what stands before a frame ends earlier, something is missing. No frame shares a page with another.

use crate::store::encoding::{self, Reader, Unreadable};
use crate::store::memory::Entry;

const MAGIC: [u8; 8] = *b"msjrnl02";
pub(super) const PAGE: usize = 4096;
const CHECKSUM: usize = 8;
const HEAD: usize = 8 + 8 + 8 + 4 + 16;

/// What a frame holds; the records' numbers follow each other.
#[derive(Debug, PartialEq)]
pub(in crate::store) struct Frame {
    pub(in crate::store) after: u64,
    pub(in crate::store) first: u64,
    /// The greatest id that had been given.
    pub(in crate::store) newest_id: u128,
    pub(in crate::store) records: Vec<Entry>,
}

/// Over a frame's head and its records' own checksums: so each octet is hashed once.
fn checksum(head: &[u8], sums: &[u8]) -> [u8; CHECKSUM] {
    encoding::checksum(0, &[head, sums].concat())
}

/// Writes a frame, whole pages, in place of what is there.
pub(super) fn put(out: &mut Vec<u8>, after: u64, newest_id: u128, records: &[Entry]) {
    let first = records.first().map_or(after.saturating_add(1), |entry| entry.commit);
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&after.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    // Far below 4 GiB: no frame is larger than a journal.
    let length: usize = records.iter().map(|entry| 20 + entry.octets.len()).sum();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&newest_id.to_le_bytes());
    let mut sums = Vec::with_capacity(records.len().saturating_mul(CHECKSUM));
    for entry in records {
        out.extend_from_slice(&entry.id.to_le_bytes());
        out.extend_from_slice(&u32::try_from(entry.octets.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&entry.octets);
        sums.extend_from_slice(entry.octets.last_chunk::<CHECKSUM>().map_or(&[], |sum| sum));
    }
    let sum = checksum(out.get(..HEAD).unwrap_or_default(), &sums);
    out.extend_from_slice(&sum);
    out.resize(out.len().next_multiple_of(PAGE), 0);
}

/// Every whole frame of a journal, wherever it begins. What lies between them is a frame that was cut off, is damaged, or is of a use before.
pub(in crate::store) fn read_all(octets: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let step = match read(rest) {
            Ok((frame, length)) => {
                frames.push(frame);
                length
            }
            Err(Unreadable) => PAGE,
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    frames
}

fn read(octets: &[u8]) -> Result<(Frame, usize), Unreadable> {
    let mut head = Reader(octets);
    if head.array()? != MAGIC {
        return Err(Unreadable);
    }
    let (after, first) = (u64::from_le_bytes(head.array()?), u64::from_le_bytes(head.array()?));
    let length = usize::try_from(u32::from_le_bytes(head.array()?)).map_err(|_| Unreadable)?;
    let newest_id = u128::from_le_bytes(head.array()?);
    let end = HEAD.checked_add(length).ok_or(Unreadable)?;
    let (head, rest) = octets.split_at_checked(HEAD).ok_or(Unreadable)?;
    let (mut body, rest) = rest.split_at_checked(length).map(|(body, rest)| (Reader(body), rest)).ok_or(Unreadable)?;
    let (mut records, mut sums) = (Vec::new(), Vec::new());
    let mut commit = first;
    while !body.0.is_empty() {
        let id = u128::from_le_bytes(body.array()?);
        let length = usize::try_from(u32::from_le_bytes(body.array()?)).map_err(|_| Unreadable)?;
        let octets = body.octets(length)?;
        sums.extend_from_slice(octets.last_chunk::<CHECKSUM>().ok_or(Unreadable)?);
        encoding::decode(id, octets)?;
        records.push(Entry { id, commit, octets: octets.into() });
        commit = commit.checked_add(1).ok_or(Unreadable)?;
    }
    if after >= first || rest.first_chunk::<CHECKSUM>() != Some(&checksum(head, &sums)) {
        return Err(Unreadable);
    }
    Ok((Frame { after, first, newest_id, records }, (end + CHECKSUM).next_multiple_of(PAGE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::store::encoding::tests::any_record;
    use proptest::prelude::*;

    fn entries(records: &[Record], first: u64) -> Vec<Entry> {
        let commits = first..;
        records
            .iter()
            .zip(commits)
            .map(|(record, commit)| Entry { id: record.id.0, commit, octets: encoding::encode(record).into() })
            .collect()
    }

    /// Frames one behind the other, and where each begins.
    fn written(batches: &[Vec<Record>]) -> (Vec<u8>, Vec<usize>, Vec<Frame>) {
        let (mut octets, mut starts, mut frames, mut after) = (Vec::new(), Vec::new(), Vec::new(), 6);
        for batch in batches {
            starts.push(octets.len());
            let records = entries(batch, after + 1);
            let mut frame = Vec::new();
            put(&mut frame, after, 7, &records);
            octets.extend(frame);
            frames.push(Frame { after, first: after + 1, newest_id: 7, records });
            after += batch.len() as u64;
        }
        (octets, starts, frames)
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<Record>>> {
        proptest::collection::vec(proptest::collection::vec(any_record(), 1..4), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_appended_is_read(batches in batches(), zeros in 0usize..3) {
            let (mut octets, _, frames) = written(&batches);
            octets.resize(octets.len() + zeros * PAGE, 0);
            prop_assert_eq!(read_all(&octets), frames);
        }

        #[test]
        fn an_octet_that_changed_costs_its_frame_and_no_other(batches in batches(), at in any::<prop::sample::Index>(), by in 1u8..) {
            let (mut octets, starts, mut frames) = written(&batches);
            // The zeros behind a frame say nothing.
            let meant: Vec<usize> = starts
                .iter()
                .flat_map(|start| {
                    let length = u32::from_le_bytes(octets[start + 24..start + 28].try_into().unwrap());
                    *start..start + HEAD + length as usize + CHECKSUM
                })
                .collect();
            let at = meant[at.index(meant.len())];
            octets[at] ^= by;
            frames.remove(starts.iter().rposition(|start| *start <= at).unwrap());
            prop_assert_eq!(read_all(&octets), frames);
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(octets);
            prop_assert_eq!(read_all(&with_magic), []);
        }
    }
}
