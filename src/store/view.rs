//! Where every record is. Logs nothing, cannot fail.

use super::file::StoreFile;
use super::index::Hash;
use super::memory::Batch;
use super::undelivered::Settled;
use std::sync::Arc;

/// A reader that looks at it under its lock misses no record and sees none twice.
pub(super) struct View {
    /// In the order of their numbers.
    pub(super) files: Vec<Arc<StoreFile>>,
    /// What files are to be made of, oldest first.
    pub(super) sealed: Vec<Arc<Batch>>,
    pub(super) filling: Batch,
}

impl View {
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.sealed.iter().map(|batch| &**batch).chain([&self.filling])
    }

    pub(super) fn records(&self) -> u64 {
        let in_memory: usize = self.batches().map(|batch| batch.records.len()).sum();
        self.files.iter().map(|file| file.summary.records).sum::<u64>() + in_memory as u64
    }

    /// The least number of which it is known what became of it.
    pub(super) fn oldest(&self) -> u64 {
        let in_files = self.files.first().map(|file| file.span().first);
        in_files.or_else(|| self.batches().next().map(|batch| batch.after.saturating_add(1))).unwrap_or(1)
    }

    /// Whether an endpoint has taken or refused a message, as far as it can be told without reading.
    pub(super) fn settled(&self, message: Hash) -> Settled {
        if self.batches().any(|batch| batch.settles(message)) {
            Settled::Yes
        } else if self.files.iter().any(|file| file.may_settle(message)) {
            Settled::Perhaps
        } else {
            Settled::No
        }
    }
}
