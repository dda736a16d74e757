//! One batch of records as octets, as a journal has them. Logs nothing.
//!
//! ```text
//! frame:  magic 8 octets | after u64 | first u64 | length u32 | newest id u128 | records | checksum 8 octets | zeros up to a page;
//!         the checksum is over the head and the records' own checksums
//! record: id u128 | length u32 | as in encoding.rs
//! ```
//!
//! Numbers are little-endian. `first` is the commit number of the first record, `after` the last number that was durable before: where
//! what stands before a frame ends earlier, something is missing. No frame shares a page with another. A journal's last page says that it
//! is the last one: a journal without it was cut short, and nobody can tell what stood there.

use crate::store::encoding::{self, CHECKSUM, Reader, Unreadable};
use crate::store::memory::Entry;
use std::ops::Range;

const MAGIC: [u8; 8] = *b"msjrnl02";
const LAST: [u8; 8] = *b"msjrnend";
pub(super) const PAGE: usize = 4096;
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

/// What a journal holds.
#[derive(Debug, PartialEq)]
pub(in crate::store) struct Found {
    pub(in crate::store) frames: Vec<Frame>,
    /// Where the last one stands.
    pub(in crate::store) last: Range<usize>,
    pub(in crate::store) end: End,
}

/// What stands behind the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum End {
    Zeros,
    /// A write that was cut off: some of its sectors are zeros still, as they were before it.
    Torn,
    /// All of it was written, and it is not what was written.
    Damaged,
    /// The file is shorter than it was made.
    CutShort,
}

pub(super) fn last_page() -> Vec<u8> {
    let mut page = LAST.to_vec();
    page.resize(PAGE, 0);
    page
}

/// Where a journal's last page begins.
pub(super) fn room(octets: &[u8]) -> Option<usize> {
    octets.chunks_exact(PAGE).rposition(|page| page.starts_with(&LAST)).map(|page| page * PAGE)
}

/// The frames of all journals behind a number, in their order, and how many numbers are missing before and between them.
pub(in crate::store) fn in_order(mut frames: Vec<Frame>, through: u64) -> (Vec<Frame>, u64) {
    frames.sort_by_key(|frame| frame.first);
    let (mut through, mut lost) = (through, 0);
    frames.retain(|frame| {
        let end = frame.records.last().map_or(frame.after, |entry| entry.commit);
        let is_new = end > through;
        if is_new {
            lost += frame.after.saturating_sub(through);
            through = end;
        }
        is_new
    });
    (frames, lost)
}

/// What a journal holds.
pub(in crate::store) fn read_all(octets: &[u8]) -> Found {
    let room = room(octets);
    let found = read_frames(octets.get(..room.unwrap_or(octets.len())).unwrap_or_default());
    Found { end: if room.is_some() { found.end } else { End::CutShort }, ..found }
}

/// Every whole frame, wherever it begins. What lies between them is a frame that was cut off, is damaged, or is of a use before.
fn read_frames(octets: &[u8]) -> Found {
    let (mut frames, mut last) = (Vec::new(), 0..0);
    let (mut rest, mut behind) = (octets, octets);
    while !rest.is_empty() {
        let step = match read(rest) {
            Ok((frame, length)) => {
                frames.push(frame);
                let start = octets.len() - rest.len();
                last = start..start.saturating_add(length).min(octets.len());
                behind = rest.get(length..).unwrap_or_default();
                length
            }
            Err(Unreadable) => PAGE,
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    Found { frames, last, end: end(behind) }
}

fn end(behind: &[u8]) -> End {
    /// The unit that a disk writes whole or not at all.
    const SECTOR: usize = 512;
    let is_zero = |octets: &[u8]| octets.iter().all(|octet| *octet == 0);
    if is_zero(behind) {
        return End::Zeros;
    }
    let mut head = Reader(behind);
    let is_whole = head.array() == Ok(MAGIC) && head.octets(16).is_ok();
    let length = if is_whole { head.array().map_or(0, u32::from_le_bytes) } else { 0 };
    let written = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(HEAD + CHECKSUM).min(behind.len());
    let is_torn = behind.get(..written).unwrap_or_default().chunks(SECTOR).any(is_zero);
    if is_torn { End::Torn } else { End::Damaged }
}

fn read(octets: &[u8]) -> Result<(Frame, usize), Unreadable> {
    let mut head = Reader(octets);
    if head.array()? != MAGIC {
        return Err(Unreadable);
    }
    let (after, first) = (u64::from_le_bytes(head.array()?), u64::from_le_bytes(head.array()?));
    let length = usize::try_from(u32::from_le_bytes(head.array()?)).map_err(|_| Unreadable)?;
    let newest_id = u128::from_le_bytes(head.array()?);
    let (records, octets) = records(octets, HEAD, length)?;
    // As many as there are numbers left.
    let count = records.len() as u64;
    if after >= first || first.checked_add(count).is_none() {
        return Err(Unreadable);
    }
    let records = records.into_iter().zip(first..).map(|((id, octets), commit)| Entry { id, commit, octets: octets.into() }).collect();
    Ok((Frame { after, first, newest_id, records }, octets))
}

/// Ids and octets.
type Records<'a> = Vec<(u128, &'a [u8])>;

/// The records of a frame of any version, by the lengths of its head and of what they take; and what all of it takes. Each is whole.
pub(in crate::store) fn records(octets: &[u8], head: usize, length: usize) -> Result<(Records<'_>, usize), Unreadable> {
    let (head, mut rest) = octets.split_at_checked(head).map(|(head, rest)| (head, Reader(rest))).ok_or(Unreadable)?;
    let mut body = Reader(rest.octets(length)?);
    let (mut records, mut sums) = (Vec::new(), Vec::new());
    while !body.0.is_empty() {
        let id = u128::from_le_bytes(body.array()?);
        let length = usize::try_from(u32::from_le_bytes(body.array()?)).map_err(|_| Unreadable)?;
        let octets = body.octets(length)?;
        sums.extend_from_slice(octets.last_chunk::<CHECKSUM>().ok_or(Unreadable)?);
        if !encoding::is_whole(id, octets) {
            return Err(Unreadable);
        }
        records.push((id, octets));
    }
    if rest.array()? == checksum(head, &sums) {
        Ok((records, (octets.len() - rest.0.len()).next_multiple_of(PAGE)))
    } else {
        Err(Unreadable)
    }
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
            let (mut octets, starts, frames) = written(&batches);
            octets.resize(octets.len() + zeros * PAGE, 0);
            let last = starts[starts.len() - 1]..octets.len() - zeros * PAGE;
            prop_assert_eq!(read_frames(&octets), Found { frames, last, end: End::Zeros });
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
            let damaged = starts.iter().rposition(|start| *start <= at).unwrap();
            frames.remove(damaged);
            let found = read_frames(&octets);
            prop_assert_eq!(&found.frames, &frames);
            // A length that is another one looks as if it had been cut off; what stands between whole frames is missed by its numbers.
            let in_length = (starts[damaged] + 24..starts[damaged] + 28).contains(&at);
            let is_last = damaged + 1 == starts.len();
            prop_assert!(in_length || found.end == if is_last { End::Damaged } else { End::Zeros }, "{:?}", found.end);
            prop_assert_eq!(in_order(found.frames, 6).1, if is_last { 0 } else { batches[damaged].len() as u64 });
        }

        #[test]
        fn a_write_that_was_cut_off_is_no_damage(batches in batches(), kept in any::<prop::sample::Index>()) {
            let (mut octets, starts, mut frames) = written(&batches);
            let start = starts[starts.len() - 1];
            let length = u32::from_le_bytes(octets[start + 24..start + 28].try_into().unwrap());
            let sectors = (HEAD + length as usize + CHECKSUM).div_ceil(512);
            let lost = start + kept.index(sectors) * 512;
            octets[lost..lost + 512].fill(0);
            frames.pop();
            let expected = if sectors == 1 { End::Zeros } else { End::Torn };
            let found = read_frames(&octets);
            prop_assert_eq!((found.frames, found.end), (frames, expected));
        }

        #[test]
        fn one_that_was_cut_is_known_wherever_it_was(batches in batches(), zeros in 0usize..3, cut in any::<prop::sample::Index>()) {
            let (mut octets, _, frames) = written(&batches);
            octets.resize(octets.len() + zeros * PAGE, 0);
            octets.extend(last_page());
            let whole = read_all(&octets);
            prop_assert_eq!((&whole.frames, whole.end), (&frames, End::Zeros));
            // What stands behind its last page is none of it.
            let longer = read_all(&[&octets[..], &[7; 5000]].concat());
            prop_assert_eq!((longer.frames, longer.end), (whole.frames, End::Zeros));
            // The zeros behind its mark say nothing.
            octets.truncate(cut.index(octets.len() - PAGE + LAST.len()));
            prop_assert_eq!(read_all(&octets).end, End::CutShort);
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(octets);
            prop_assert_eq!(read_frames(&with_magic).frames, []);
        }
    }
}
