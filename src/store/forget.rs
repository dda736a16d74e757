//! The janitor: a thread for what takes long and must not hold up the writer. It finds the records that name an address, has the
//! writer erase it from them, and rewrites the store's file so that the octets are gone; once expired records have left octets in the
//! file for half a day, or the file is larger than `max_size` allows, it rewrites the file as well.
//!
//! Logs what it did and, as a warning, what it could not do. An erasure that fails changes nothing or is complete in the records and not
//! yet on the disk; the caller is told, and asking again is right.

use super::commit::{Message, Work, ask};
use super::error::StoreError;
use super::redact::Address;
use super::retention::live_limit;
use super::schema::RECORDS;
use super::shared::{Shared, now_ms};
use super::{encoding, rewrite};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Records that one read transaction looks at, and that one write transaction changes.
const PAGE: usize = 1000;
const SLICE: usize = 256;
/// Between two rewrites that nobody asked for.
const RETRY: Duration = Duration::from_secs(3600);

pub(super) enum Errand {
    Forget { address: Address, done: Sender<Result<u64, StoreError>> },
    Rewrite { done: Sender<Result<(), StoreError>> },
    Close,
}

pub(super) struct Janitor {
    pub(super) shared: Arc<Shared>,
    pub(super) errands: Receiver<Errand>,
    pub(super) writer: Sender<Message>,
    pub(super) not_before: Instant,
}

impl Janitor {
    pub(super) fn run(mut self) {
        loop {
            match self.errands.recv_timeout(self.shared.tuning.housekeeping) {
                Ok(first) => {
                    if !self.together(first) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.keep_house(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// All that stand in line share one search and one rewrite. False at the end.
    fn together(&self, first: Errand) -> bool {
        let (mut addresses, mut waiting, mut rewrites) = (Vec::new(), Vec::new(), Vec::new());
        for errand in std::iter::once(first).chain(self.errands.try_iter()) {
            match errand {
                Errand::Forget { address, done } => {
                    addresses.push(address);
                    waiting.push(done);
                }
                Errand::Rewrite { done } => rewrites.push(done),
                Errand::Close => return false,
            }
        }
        let result =
            if addresses.is_empty() { rewrite::rewrite(&self.shared, &self.writer).map(|()| Vec::new()) } else { self.forget(&addresses) };
        match result {
            Ok(counts) => {
                for (done, count) in waiting.into_iter().zip(counts) {
                    tell(&done, Ok(count));
                }
                for done in rewrites {
                    tell(&done, Ok(()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "erasing from the store failed");
                for done in waiting {
                    tell(&done, Err(error.copy()));
                }
                for done in rewrites {
                    tell(&done, Err(error.copy()));
                }
            }
        }
        true
    }

    /// How many records named each address.
    fn forget(&self, addresses: &[Address]) -> Result<Vec<u64>, StoreError> {
        rewrite::check_space(&self.shared)?;
        self.shared.set_erasing(addresses.to_vec());
        let result = self.erase(addresses).and_then(|counts| {
            rewrite::rewrite(&self.shared, &self.writer)?;
            Ok(counts)
        });
        self.shared.set_erasing(Vec::new());
        result
    }

    fn erase(&self, addresses: &[Address]) -> Result<Vec<u64>, StoreError> {
        // The writer's answer means: whatever is committed from now on does not name them.
        self.change(Vec::new(), addresses)?;
        let mut counts = vec![0; addresses.len()];
        let mut found = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            let last = self.search(start, addresses, &mut counts, &mut found)?;
            from = last.and_then(|last| last.checked_add(1));
            while found.len() >= SLICE || (from.is_none() && !found.is_empty()) {
                let rest = found.split_off(found.len().min(SLICE));
                self.change(std::mem::replace(&mut found, rest), addresses)?;
            }
            if self.shared.stopping.load(Ordering::Acquire) {
                return Err(StoreError::Closed);
            }
        }
        self.remove_set_aside(|_| true)?;
        Ok(counts)
    }

    fn change(&self, ids: Vec<u128>, addresses: &[Address]) -> Result<u64, StoreError> {
        let addresses = addresses.to_vec();
        ask(&self.writer, |done| Work::Erase { ids, addresses, done }).map_err(|fault| self.shared.error(fault))
    }

    /// Looks through a page; the last id of it if there may be more.
    fn search(&self, start: u128, addresses: &[Address], counts: &mut [u64], found: &mut Vec<u128>) -> Result<Option<u128>, StoreError> {
        self.shared.read(|txn| {
            let table = txn.open_table(RECORDS)?;
            let (mut seen, mut last) = (0, None);
            for item in table.range(start..)?.take(PAGE) {
                let (id, octets) = item?;
                let id = id.value();
                (seen, last) = (seen + 1, Some(id));
                let Ok(record) = encoding::decode(id, octets.value()) else {
                    found.push(id);
                    continue;
                };
                let mut named = false;
                for (address, count) in addresses.iter().zip(counts.iter_mut()) {
                    if address.is_named_by(&record) {
                        named = true;
                        *count += 1;
                    }
                }
                if named {
                    found.push(id);
                }
            }
            Ok(last.filter(|_| seen == PAGE))
        })
    }

    /// Stores that were set aside cannot be searched: they go as a whole.
    fn remove_set_aside(&self, is_due: impl Fn(SystemTime) -> bool) -> Result<(), StoreError> {
        let files = &self.shared.files;
        let removed = files.set_aside().and_then(|paths| {
            for path in paths {
                if is_due(files.disk.stat(&path)?.modified) {
                    files.disk.remove(&path)?;
                    files.disk.sync_directory(files.directory())?;
                    tracing::warn!(file = %path.display(), "a store that was set aside as unreadable was removed, as its records may not be kept");
                }
            }
            Ok(())
        });
        removed.map_err(|error| self.shared.error(error.into()))
    }

    fn keep_house(&mut self) {
        let retention = self.shared.settings.load().retention;
        let too_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > retention);
        if let Err(error) = self.remove_set_aside(too_old) {
            tracing::warn!(%error, "stores that were set aside could not be looked after");
        }
        if !self.is_due() || !self.shared.writable() || Instant::now() < self.not_before {
            return;
        }
        // Also after a success: a file that is still too large then would be rewritten without end.
        self.not_before = Instant::now() + self.shared.tuning.rewrite_after.min(RETRY);
        if let Err(error) = rewrite::rewrite(&self.shared, &self.writer) {
            tracing::warn!(%error, "the store's file could not be rewritten yet; trying again in an hour");
        }
    }

    /// Expired records have been in the file for long enough, or it is larger than it may be and what is live would fit.
    fn is_due(&self) -> bool {
        let state = self.shared.state();
        let waited = Duration::from_millis(now_ms().saturating_sub(state.stale_since_ms));
        let max_size = self.shared.settings.load().max_size;
        let length = self.shared.stats.store.file_bytes.get();
        (state.stale_since_ms != 0 && waited >= self.shared.tuning.rewrite_after)
            || (length > max_size && state.live_octets <= live_limit(max_size, length))
    }
}

fn tell<T>(done: &Sender<T>, answer: T) {
    if done.send(answer).is_err() {
        tracing::debug!("nobody waits for the store's answer any more");
    }
}
