//! The journal: a file beside the store's, to which each batch of records is appended, and with that it is durable: one write of pages
//! that stand side by side and one fsync, where a commit of redb writes pages all over its file. redb gets the records soon after, many
//! in one transaction, which also says that the journal's records up to there are in it. Logs nothing.
//!
//! ```text
//! frame:  magic 8 octets | epoch u64 | number u32 | length u32 | newest id u128 | records | checksum 8 octets | zeros up to a page;
//!         the checksum is over the head and the records' own checksums
//! record: id u128 | length u32 | as in encoding.rs
//! ```
//!
//! Numbers are little-endian. Frames of an epoch are numbered from 0 at the start of the file, and the store's `journal` value is the
//! first epoch that it has not got. A frame that was cut off, or is of an epoch before, ends what counts. No frame shares a page
//! with another, so that writing one cannot harm one that was acknowledged.

use super::Tuning;
use super::encoding::{self, Reader, Unreadable};
use super::error::Fault;
use super::open::Files;
use crate::record::Record;
use redb::StorageBackend;
use std::fs::File;
use std::io::{self, Read as _};

const MAGIC: [u8; 8] = *b"msjrnl01";
const PAGE: usize = 4096;
const CHECKSUM: usize = 8;
/// Beyond this nothing is looked at.
const LENGTH_MOST: usize = 64 << 20;
/// What a frame has before its records.
const HEAD: usize = 8 + 8 + 4 + 4 + 16;

/// An open journal.
pub(super) struct Journal {
    file: Box<dyn StorageBackend>,
    pub(super) identity: (u64, u64),
    /// Octets of the file that have their place on the disk: no frame goes beyond.
    length: usize,
    epoch: u64,
    number: u32,
    /// Where the next frame goes.
    at: usize,
    /// Behind here the file holds zeros.
    used: usize,
    /// The last frame, for its memory.
    frame: Vec<u8>,
}

/// What a journal holds when it is opened.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Left {
    pub(super) epoch: u64,
    /// The greatest id that had been given.
    pub(super) newest_id: u128,
    pub(super) records: Vec<Record>,
}

impl Left {
    /// What a store has not got, whose `journal` value is this.
    pub(super) fn since(&self, first_epoch: u64) -> &[Record] {
        if self.epoch >= first_epoch { &self.records } else { &[] }
    }
}

/// A store's `journal` value.
pub(super) fn first_epoch(value: Option<&[u8]>) -> u64 {
    value.and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What lies in a store's journal; nothing is made or changed.
pub(super) fn look(files: &Files) -> io::Result<Left> {
    let mut octets = Vec::new();
    match File::open(files.journal()) {
        Ok(file) => file.take(LENGTH_MOST as u64).read_to_end(&mut octets)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(read(&octets))
}

impl Journal {
    /// Opens the file or makes it; what it holds is still to be brought into the store.
    pub(super) fn open(files: &Files, tuning: &Tuning) -> Result<(Self, Left), Fault> {
        let path = files.journal();
        let file = files.disk.open(&path)?;
        // All of it, also what a longer journal of before holds.
        let there = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(LENGTH_MOST);
        let mut octets = vec![0; there];
        file.read(0, &mut octets)?;
        let left = read(&octets);
        let used = octets.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        let identity = files.disk.stat(&path)?.identity;
        let mut journal =
            Self { file, identity, length: 0, epoch: left.epoch.saturating_add(1), number: 0, at: 0, used, frame: Vec::new() };
        journal.lay_in(there, tuning.journal)?;
        files.disk.sync_directory(files.directory())?;
        Ok((journal, left))
    }

    /// Zeros from the file's end to its full length: an append then changes no metadata. Without the space for it the journal stays as
    /// it is, and commits go to redb at once.
    fn lay_in(&mut self, there: usize, wanted: usize) -> Result<(), Fault> {
        if there < wanted {
            let laid = self.file.write(there as u64, &vec![0; wanted - there]).and_then(|()| self.file.sync_data());
            match laid.map_err(Fault::from) {
                Ok(()) => self.length = wanted,
                Err(Fault::Full(_)) => self.length = there,
                Err(fault) => return Err(fault),
            }
        } else {
            self.length = wanted;
        }
        Ok(())
    }

    /// The epoch of the next frame: what redb is told when it has all records of the frames before.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Octets that redb has not got yet.
    pub(super) fn written(&self) -> u64 {
        self.at as u64
    }

    /// Never an epoch that redb has already.
    pub(super) fn raise(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Appends records; they are durable when this returns true. False: there is no room for them, and nothing was done.
    pub(super) fn append<'a>(&mut self, records: impl Iterator<Item = &'a Record>, newest_id: u128) -> Result<bool, Fault> {
        self.frame.clear();
        put_frame(&mut self.frame, self.epoch, self.number, newest_id, records);
        if self.frame.len() > self.length.saturating_sub(self.at) {
            self.frame.shrink_to(self.length);
            return Ok(false);
        }
        self.used = self.used.max(self.at.saturating_add(self.frame.len()));
        self.file.write(self.at as u64, &self.frame)?;
        self.file.sync_data()?;
        self.at += self.frame.len();
        self.number = self.number.saturating_add(1);
        Ok(true)
    }

    /// redb has it all: begins anew.
    pub(super) fn restart(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        (self.number, self.at) = (0, 0);
    }

    /// Overwrites what has been written; only after `restart`, before another frame.
    pub(super) fn wipe(&mut self) -> Result<(), Fault> {
        if self.used > 0 {
            self.file.write(0, &vec![0; self.used])?;
            self.file.sync_data()?;
            self.used = 0;
        }
        Ok(())
    }
}

fn put_frame<'a>(frame: &mut Vec<u8>, epoch: u64, number: u32, newest_id: u128, records: impl Iterator<Item = &'a Record>) {
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&epoch.to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    let length_at = frame.len();
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&newest_id.to_le_bytes());
    let start = frame.len();
    let mut sums = Vec::new();
    for record in records {
        frame.extend_from_slice(&record.id.0.to_le_bytes());
        let at = frame.len();
        frame.extend_from_slice(&[0; 4]);
        // Its segment is found when redb gets it.
        encoding::encode_into(frame, record, 0);
        put_length(frame, at, at + 4);
        sums.extend_from_slice(frame.last_chunk::<CHECKSUM>().map_or(&[], |sum| sum));
    }
    put_length(frame, length_at, start);
    let sum = checksum(frame.get(..start).unwrap_or_default(), &sums);
    frame.extend_from_slice(&sum);
    frame.resize(frame.len().next_multiple_of(PAGE), 0);
}

/// Over a frame's head and its records' own checksums: so each octet is hashed once.
fn checksum(head: &[u8], sums: &[u8]) -> [u8; CHECKSUM] {
    encoding::checksum(0, &[head, sums].concat())
}

/// How many octets there are from `start` on, at `at`. Frames are far below 4 GiB: a record has bounded fields, a batch bounded records.
fn put_length(frame: &mut [u8], at: usize, start: usize) {
    let length = u32::try_from(frame.len().saturating_sub(start)).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = frame.get_mut(at..at + 4) {
        place.copy_from_slice(&length);
    }
}

/// The frames of the first one's epoch, one after the other.
fn read(octets: &[u8]) -> Left {
    let mut left = Left::default();
    let mut rest = octets;
    let mut number = 0;
    while let Ok(frame) = read_frame(rest) {
        if frame.number != number || (number > 0 && frame.epoch != left.epoch) {
            break;
        }
        left.epoch = frame.epoch;
        left.newest_id = left.newest_id.max(frame.newest_id);
        left.records.extend(frame.records);
        number += 1;
        rest = rest.get(frame.octets..).unwrap_or_default();
    }
    left
}

struct Frame {
    epoch: u64,
    number: u32,
    newest_id: u128,
    records: Vec<Record>,
    /// That it takes in the file.
    octets: usize,
}

fn read_frame(octets: &[u8]) -> Result<Frame, Unreadable> {
    let mut head = Reader(octets);
    if head.array()? != MAGIC {
        return Err(Unreadable);
    }
    let (epoch, number) = (u64::from_le_bytes(head.array()?), u32::from_le_bytes(head.array()?));
    let length = usize::try_from(u32::from_le_bytes(head.array()?)).map_err(|_| Unreadable)?;
    let newest_id = u128::from_le_bytes(head.array()?);
    let end = HEAD.checked_add(length).ok_or(Unreadable)?;
    let (head, rest) = octets.split_at_checked(HEAD).ok_or(Unreadable)?;
    let (mut body, rest) = rest.split_at_checked(length).map(|(body, rest)| (Reader(body), rest)).ok_or(Unreadable)?;
    let (mut records, mut sums) = (Vec::new(), Vec::new());
    while !body.0.is_empty() {
        let id = u128::from_le_bytes(body.array()?);
        let length = usize::try_from(u32::from_le_bytes(body.array()?)).map_err(|_| Unreadable)?;
        let record = body.octets(length)?;
        sums.extend_from_slice(record.last_chunk::<CHECKSUM>().ok_or(Unreadable)?);
        records.push(encoding::decode(id, record)?);
    }
    if rest.first_chunk::<CHECKSUM>() != Some(&checksum(head, &sums)) {
        return Err(Unreadable);
    }
    Ok(Frame { epoch, number, newest_id, records, octets: (end + CHECKSUM).next_multiple_of(PAGE) })
}

#[cfg(test)]
mod tests {
    use super::super::encoding::tests::any_record;
    use super::*;
    use proptest::prelude::*;

    /// Frames one behind the other, as a journal has them; and where each begins.
    fn written(epoch: u64, batches: &[Vec<Record>]) -> (Vec<u8>, Vec<usize>) {
        let (mut octets, mut starts) = (Vec::new(), Vec::new());
        for (number, batch) in batches.iter().enumerate() {
            starts.push(octets.len());
            let mut frame = Vec::new();
            put_frame(&mut frame, epoch, u32::try_from(number).unwrap(), 7, batch.iter());
            octets.extend(frame);
        }
        (octets, starts)
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<Record>>> {
        proptest::collection::vec(proptest::collection::vec(any_record(), 1..4), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_appended_is_read_and_frames_of_before_are_not(batches in batches(), before in batches(), epoch in 1..u64::MAX) {
            let (mut octets, starts) = written(epoch - 1, &before);
            let (newer, _) = written(epoch, &batches);
            let shown = starts.iter().position(|start| *start == newer.len());
            octets.resize(octets.len().max(newer.len()), 0);
            octets[..newer.len()].copy_from_slice(&newer);
            let left = read(&octets);
            // A frame of before with the next number is of another epoch.
            prop_assert_eq!(left, Left { epoch, newest_id: 7, records: batches.concat() }, "{:?}", shown);
        }

        #[test]
        fn an_octet_that_changed_ends_what_counts_before_its_frame(batches in batches(), at in any::<prop::sample::Index>(), by in 1u8..) {
            let (mut octets, starts) = written(3, &batches);
            // The zeros behind a frame say nothing.
            let meant: Vec<usize> = starts
                .iter()
                .flat_map(|start| {
                    let length = u32::from_le_bytes(octets[start + 20..start + 24].try_into().unwrap());
                    *start..start + HEAD + length as usize + CHECKSUM
                })
                .collect();
            let at = meant[at.index(meant.len())];
            octets[at] ^= by;
            let whole = starts.iter().rposition(|start| *start <= at).unwrap();
            prop_assert_eq!(read(&octets).records, batches[..whole].concat());
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(octets);
            prop_assert_eq!(read(&with_magic), Left::default());
        }
    }
}
