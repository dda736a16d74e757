//! Where a rendered request grows: pieces whose memory is paid for before it is taken. Logs nothing; fails with
//! [`OverBudget`].

use super::Piece;
use crate::message::OverBudget;
use std::ops::Range;

/// The first step; most requests need no other.
const STEP_MIN: usize = 4 * 1024;

pub(super) type Hold<'h> = &'h mut dyn FnMut(u64) -> Result<(), OverBudget>;

pub(super) struct Out<'h> {
    hold: Hold<'h>,
    pieces: Vec<Piece>,
    /// The piece that grows.
    octets: Vec<u8>,
    /// Capacity of the finished pieces, and what is held for a while beside them.
    beside: usize,
}

impl<'h> Out<'h> {
    pub(super) fn new(hold: Hold<'h>) -> Self {
        Self { hold, pieces: Vec::new(), octets: Vec::new(), beside: 0 }
    }

    /// Makes room for at least this many more octets, exactly if nothing more is known.
    pub(super) fn room(&mut self, more: usize) -> Result<(), OverBudget> {
        let needed = self.octets.len().checked_add(more).ok_or(OverBudget)?;
        if needed <= self.octets.capacity() {
            return Ok(());
        }
        let comfortable = needed.max(self.octets.capacity() / 8 * 9).max(STEP_MIN);
        let capacity = if self.pay(comfortable).is_ok() {
            comfortable
        } else {
            self.pay(needed)?;
            needed
        };
        self.octets.try_reserve_exact(capacity - self.octets.len()).map_err(|_| OverBudget)
    }

    pub(super) fn push(&mut self, octets: &[u8]) -> Result<(), OverBudget> {
        self.room(octets.len())?;
        self.octets.extend_from_slice(octets);
        Ok(())
    }

    /// Lets `fill` append at most `most` octets.
    pub(super) fn fill<T>(&mut self, most: usize, fill: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, OverBudget> {
        self.room(most)?;
        Ok(fill(&mut self.octets))
    }

    /// Goes on with a part of the message as it came.
    pub(super) fn message(&mut self, range: Range<usize>) {
        self.seal();
        self.pieces.push(Piece::Message(range));
    }

    /// Holds memory beside the pieces; to be given back by [`Self::release`].
    pub(super) fn borrow(&mut self, octets: usize) -> Result<(), OverBudget> {
        self.beside = self.beside.saturating_add(octets);
        self.pay(self.octets.capacity()).inspect_err(|_| self.beside = self.beside.saturating_sub(octets))
    }

    /// Of what was borrowed. The budget hears of it with the next growth, or at the end.
    pub(super) fn release(&mut self, octets: usize) {
        self.beside = self.beside.saturating_sub(octets);
    }

    /// The pieces, and that nothing beside them is held any more.
    pub(super) fn finish(mut self) -> Result<Vec<Piece>, OverBudget> {
        self.seal();
        let held: usize = self.pieces.iter().map(Piece::capacity).sum();
        (self.hold)(held as u64)?;
        Ok(self.pieces)
    }

    fn seal(&mut self) {
        if !self.octets.is_empty() {
            let octets = std::mem::take(&mut self.octets);
            self.beside = self.beside.saturating_add(octets.capacity());
            self.pieces.push(Piece::Octets(octets));
        }
    }

    fn pay(&mut self, capacity: usize) -> Result<(), OverBudget> {
        (self.hold)(self.beside.saturating_add(capacity) as u64)
    }
}
