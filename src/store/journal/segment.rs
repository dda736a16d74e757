//! Journals: files beside the store's, to which each batch of records is appended, and with that it is durable. Their blocks were
//! written before, so that an append changes no metadata, and each append is one durable write: an error belongs to it. Logs nothing.

use super::frame::PAGE;
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
    length: usize,
    /// Where the next frame goes; behind it there are zeros.
    at: usize,
    /// A write failed: what it holds counts, and nothing is written to it any more.
    pub(in crate::store) failed: bool,
}

impl Journal {
    /// Opens a file or makes it, of zeros where it is shorter than wanted.
    pub(in crate::store) fn open(files: &Files, slot: u32, length: usize) -> Result<Self, Fault> {
        let path = files.journal(slot);
        let mut file = files.disk.open_durable(&path)?;
        let lock = files.disk.lock(&path)?.ok_or(Fault::Locked)?;
        let there = file.length()?.min(LENGTH_MOST);
        let there = usize::try_from(there).unwrap_or(usize::MAX) / PAGE * PAGE;
        if there < length {
            let made = zero(&mut *file, there, length).and_then(|()| files.sync());
            made.inspect_err(|_| files.disk.remove(&path).unwrap_or(()))?;
        }
        let identity = files.disk.stat(&path)?.identity;
        Ok(Self { path, identity, file, _lock: lock, length: there.max(length), at: 0, failed: false })
    }

    pub(in crate::store) fn octets(&mut self) -> Result<Vec<u8>, Fault> {
        let mut octets = vec![0; self.length];
        // All of it is wiped before the file is used again: the disk may have what reading does not show.
        self.at = self.length;
        self.file.read(0, &mut octets)?;
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

    /// Whether it still stands under its name. Not asked with every frame: Linux gives a file whose times were asked for a new time at its
    /// next write, and then writes the inode as well.
    pub(super) fn is_there(&self, files: &Files) -> bool {
        files.has(&self.path, self.identity)
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
