//! How far a sink has been brought: a shipper whose cursor outlives the daemon, and what is shown of it.

use super::shared::{STEP, Shared, make_way};
use super::shipper::{Batch, Shipper, octets_of};
use crate::stats::Sink;
use crate::store::{Committed, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

const KEEP: Duration = Duration::from_secs(1);

pub(super) struct Course<'s> {
    name: &'static str,
    shared: &'s Arc<Shared>,
    pub(super) shipper: Shipper,
    /// Cursor, lost, mended, as they stand in the file.
    kept: Option<(u64, u64, u64)>,
    looked: Instant,
}

impl<'s> Course<'s> {
    /// As it was left; from the oldest record on where the cursor is not to be used, or is of a store that was begun anew.
    pub(super) fn begin(shared: &'s Arc<Shared>, name: &'static str, uses_cursor: bool) -> Self {
        let seed = u64::from_str_radix(shared.token.get(..8).unwrap_or_default(), 16).unwrap_or(1);
        let kept = shared.place.progress(name);
        let cursor = kept.map(|(cursor, ..)| cursor).filter(|cursor| uses_cursor && *cursor <= shared.store.newest());
        let mut shipper = Shipper::new(cursor, seed);
        (shipper.lost, shipper.mended) = kept.map_or((0, 0), |(_, lost, mended)| (lost, mended));
        shared.stats.minutes.want(name);
        Self { name, shared, shipper, kept, looked: Instant::now() }
    }

    /// Something had been brought, and all is brought again.
    pub(super) fn begins_anew(&self) -> bool {
        self.kept.is_some() && self.shipper.cursor().is_none()
    }

    /// What is brought next; `None` where the store has nothing.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, StoreError> {
        // Asked before: what is older than that and is not there has gone.
        let newest = self.shared.store.newest();
        let read = known(self.read())?;
        if read.as_ref().is_some_and(Vec::is_empty) {
            self.shipper.passed(newest);
        }
        Ok(self.shipper.batch(read.unwrap_or_default()))
    }

    /// A little at a time: the store is not held for long, nor is the processor.
    fn read(&self) -> Result<Vec<Committed>, StoreError> {
        let (mut read, mut octets) = (Vec::new(), 0);
        while read.len() < self.shipper.limit() && octets < self.shipper.octets() {
            let after = read.last().map_or(self.shipper.after(), |last: &Committed| last.number);
            let more = match self.shared.store.all_after(after, STEP) {
                // What stands before the damage.
                Err(StoreError::Damaged(_)) if !read.is_empty() => break,
                more => more?,
            };
            if more.is_empty() {
                break;
            }
            octets += more.iter().map(|committed| octets_of(&committed.record)).sum::<usize>();
            read.extend(more);
            make_way();
        }
        Ok(read)
    }

    pub(super) fn behind(&self) -> u64 {
        self.shared.store.newest().saturating_sub(self.shipper.after())
    }

    pub(super) fn show(&self, up: bool) {
        let sink = Sink { up: up && !self.shipper.is_failing(), behind: self.behind(), lost: self.shipper.lost };
        self.shared.stats.fleet.set(self.name, sink);
    }

    /// Never beyond what stands in files: after a kill the numbers behind may be given again.
    pub(super) fn keep(&mut self, at_once: bool) {
        if !at_once && self.looked.elapsed() < KEEP {
            return;
        }
        self.looked = Instant::now();
        let Some(cursor) = self.shipper.cursor() else { return };
        let progress = (cursor.min(self.shared.store.in_files()), self.shipper.lost, self.shipper.mended);
        if self.kept != Some(progress) {
            self.shared.place.keep_progress(self.name, progress);
            self.kept = Some(progress);
        }
    }
}

/// `None`: a file is damaged, and the store looks after it; what it brings back is there then.
pub(super) fn known<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Damaged(_)) => Ok(None),
        read => read.map(Some),
    }
}
