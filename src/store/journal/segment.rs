//! Journals: files beside the store's, to which each batch of records is appended, and with that it is durable. Their blocks were
//! written before, so that an append changes no metadata, and each append is one durable write: an error belongs to it. Logs nothing.

use super::frame::{PAGE, last_page, room};
use crate::store::disk::{DurableFile, Lock};
use crate::store::error::Fault;
use crate::store::folder::Files;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Zeros that are written at once.
const PIECE: usize = 256 << 10;
/// Beyond this nothing is looked at.
const LENGTH_MOST: u64 = 256 << 20;

/// One journal, open and locked for as long as it is used.
pub(in crate::store) struct Journal {
    path: PathBuf,
    /// Another file under its name differs.
    identity: (u64, u64),
    file: Box<dyn DurableFile>,
    _lock: Lock,
    /// In front of its last page.
    length: usize,
    /// Where the next frame goes; behind it there are zeros.
    at: usize,
    /// A write failed: what it holds counts, and nothing is written to it any more.
    pub(in crate::store) failed: bool,
}

impl Journal {
    /// Makes one of zeros. It bears its name only when it is whole.
    pub(in crate::store) fn make(files: &Files, slot: u32, length: usize) -> Result<Self, Fault> {
        let (path, part) = (files.journal(slot), files.unfinished_journal(slot));
        let lay_in = || {
            files.remove_if_there(&part)?;
            let mut file = files.disk.open_durable(&part)?;
            zero(&mut *file, 0, length)?;
            file.write(length as u64, &last_page())?;
            drop(file);
            files.disk.rename(&part, &path)?;
            files.sync()
        };
        let made = lay_in().map_err(Fault::from).and_then(|()| Self::open(files, slot)).and_then(|made| {
            // A directory that was taken away meanwhile has it.
            if made.length == length + PAGE { Ok(Self { length, ..made }) } else { Err(Fault::Lost) }
        });
        made.inspect_err(|_| [&part, &path].into_iter().for_each(|path| files.remove_if_there(path).unwrap_or(())))
    }

    pub(in crate::store) fn open(files: &Files, slot: u32) -> Result<Self, Fault> {
        let path = files.journal(slot);
        let lock = files.disk.lock(&path)?.ok_or(Fault::Locked)?;
        let identity = files.disk.stat(&path)?.identity;
        let file = files.disk.open_durable(&path)?;
        if !files.has(&path, identity) {
            return Err(Fault::Lost);
        }
        let length = usize::try_from(file.length()?.min(LENGTH_MOST)).unwrap_or(usize::MAX) / PAGE * PAGE;
        Ok(Self { path, identity, file, _lock: lock, length, at: 0, failed: false })
    }

    /// All of it.
    pub(in crate::store) fn octets(&mut self) -> Result<Vec<u8>, Fault> {
        let mut octets = vec![0; self.length];
        self.file.read(0, &mut octets)?;
        match room(&octets) {
            Some(room) => self.length = room,
            // It is not used again.
            None => self.failed = true,
        }
        // It is wiped before it is used again: the disk may have what reading does not show.
        self.at = self.length;
        Ok(octets)
    }

    /// Writes what was read: its write may have failed, and what reading shows since then is not what the disk has.
    pub(in crate::store) fn confirm(&mut self, octets: &[u8], part: Range<usize>) -> Result<(), Fault> {
        let at = part.start as u64;
        if let Some(part) = octets.get(part).filter(|part| !part.is_empty()) {
            self.file.write(at, part)?;
        }
        Ok(())
    }

    pub(in crate::store) fn fits(&self, frame: &[u8]) -> bool {
        !self.failed && frame.len() <= self.length.saturating_sub(self.at)
    }

    /// A frame is durable when this returns `Ok`.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), Fault> {
        let at = self.at as u64;
        self.at += frame.len();
        self.file.write(at, frame).inspect_err(|_| self.failed = true)?;
        Ok(())
    }

    /// Overwrites what has been written: it can be used again.
    pub(in crate::store) fn wipe(&mut self) -> Result<(), Fault> {
        zero(&mut *self.file, 0, self.at).inspect_err(|_| self.failed = true)?;
        self.at = 0;
        Ok(())
    }

    /// Whether it can be written at all: nothing that counts is in it yet.
    pub(super) fn probe(&mut self) -> Result<(), Fault> {
        if self.at == 0 {
            zero(&mut *self.file, 0, PAGE).inspect_err(|_| self.failed = true)?;
        }
        Ok(())
    }

    pub(super) fn is_used(&self) -> bool {
        self.at > 0
    }

    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still stands under its name, and is as long as it was made. Not asked with every frame: Linux gives a file whose times
    /// were asked for a new time at its next write, and then writes the inode as well.
    pub(in crate::store) fn is_there(&self, files: &Files) -> bool {
        let is_cut_short = files.disk.stat(&self.path).is_ok_and(|stat| stat.length <= self.length as u64);
        files.has(&self.path, self.identity) && !is_cut_short
    }

    pub(in crate::store) fn length(&self) -> usize {
        self.length
    }
}

fn zero(file: &mut dyn DurableFile, from: usize, to: usize) -> std::io::Result<()> {
    let zeros = vec![0; PIECE.min(to.saturating_sub(from))];
    let mut at = from;
    while at < to {
        let piece = zeros.len().min(to - at);
        file.write(at as u64, zeros.get(..piece).unwrap_or_default())?;
        at += piece;
    }
    Ok(())
}
