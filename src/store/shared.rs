//! What the threads and the readers of one store share. Logs nothing.

use super::changes::Changes;
use super::clock::Clock;
use super::error::Fault;
use super::file::StoreFile;
use super::folder::Files;
use super::id::Ids;
use super::index::IndexKey;
use super::redact::Address;
use super::undelivered::Undelivered;
use super::view::View;
use crate::config;
use crate::record::Record;
use crate::stats::Stats;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// While the oldest record has been waiting for the disk for longer, nothing new is taken.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Shared {
    pub(super) files: Files,
    pub(super) index_key: IndexKey,
    pub(super) id_secret: [u8; 32],
    pub(super) ids: Ids,
    pub(super) stats: Arc<Stats>,
    pub(super) settings: ArcSwap<config::Store>,
    pub(super) live: broadcast::Sender<Arc<Record>>,
    pub(super) stopping: AtomicBool,
    /// The name of a thread that ended and was not asked to.
    pub(super) died: watch::Sender<Option<&'static str>>,
    /// Damaged records that were met.
    pub(super) unreadable: AtomicU64,
    pub(super) tuning: super::Tuning,
    /// Journals that are there, and the number of the next one.
    pub(super) journals: AtomicU32,
    pub(super) next_slot: AtomicU32,
    /// Only the writer and the keeper take it for writing, for a moment.
    view: RwLock<View>,
    /// Taken behind the view, where both are.
    undelivered: Mutex<Undelivered>,
    changes: Mutex<Option<Changes>>,
    writable: AtomicBool,
    trouble: Mutex<String>,
    erasing: Mutex<Vec<Address>>,
    /// A reader met damage that nobody has met before.
    has_suspicion: AtomicBool,
    /// Odd while something is being erased.
    erasures: AtomicU64,
    clock: Mutex<Clock>,
    /// Since when the oldest record waits for the disk, in microseconds after `began`; 0: none does.
    waiting_since: AtomicU64,
    pub(super) began: Instant,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "made in one place, of what was opened there")]
    pub(super) fn new(
        files: Files,
        index_key: IndexKey,
        id_secret: [u8; 32],
        ids: Ids,
        stats: Arc<Stats>,
        settings: config::Store,
        tuning: super::Tuning,
        view: View,
        undelivered: Undelivered,
        changes: Option<Changes>,
        next_slot: u32,
    ) -> Self {
        /// Records that a slow reader of the live view may lag behind before it misses some.
        const LIVE: usize = 1024;
        let began = files.disk.now();
        let clock = Clock::new(&view, began, files.disk.clock_us());
        Self {
            files,
            clock: Mutex::new(clock),
            index_key,
            id_secret,
            ids,
            stats,
            settings: ArcSwap::from_pointee(settings),
            live: broadcast::channel(LIVE).0,
            stopping: AtomicBool::new(false),
            died: watch::channel(None).0,
            unreadable: AtomicU64::new(0),
            tuning,
            journals: AtomicU32::new(0),
            next_slot: AtomicU32::new(next_slot),
            view: RwLock::new(view),
            undelivered: Mutex::new(undelivered),
            changes: Mutex::new(changes),
            writable: AtomicBool::new(true),
            trouble: Mutex::default(),
            erasing: Mutex::default(),
            has_suspicion: AtomicBool::new(false),
            erasures: AtomicU64::new(0),
            waiting_since: AtomicU64::new(0),
            began,
        }
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn undelivered(&self) -> MutexGuard<'_, Undelivered> {
        lock(&self.undelivered)
    }

    pub(super) fn changes(&self) -> MutexGuard<'_, Option<Changes>> {
        lock(&self.changes)
    }

    /// Before records are changed: whoever brings them elsewhere is to hear of it.
    pub(super) fn note_changes(&self, numbers: &[u64]) -> Result<(), Fault> {
        match self.changes().as_mut() {
            Some(changes) if !numbers.is_empty() => changes.note(&self.files, numbers),
            Some(_) | None => Ok(()),
        }
    }

    /// Looks where a filter could only say perhaps. Blocking: never in the writer.
    pub(super) fn resolve_doubts(&self) -> Result<(), Fault> {
        let doubts = self.undelivered().doubts();
        for message in doubts {
            let files = self.view().files.clone();
            let mut settled = false;
            for file in files {
                match file.settles(message) {
                    Err(Fault::Damaged(_)) => _ = self.suspect(&file),
                    looked => settled |= looked?,
                }
            }
            let view = self.view();
            let settled = settled || view.batches().any(|batch| batch.settles(message));
            self.undelivered().resolve(message, settled);
        }
        Ok(())
    }

    /// Writes the copy of what is undelivered.
    pub(super) fn keep_undelivered(&self) -> Result<(), Fault> {
        let in_files = self.view().files.last().map_or(0, |file| file.span().last);
        let copy = {
            let mut undelivered = self.undelivered();
            let copy = if undelivered.is_dirty { undelivered.encode(&self.index_key, in_files) } else { None };
            undelivered.is_dirty &= copy.is_none();
            copy
        };
        if let Some(copy) = copy {
            let written = self.files.disk.write(&self.files.undelivered(), &copy);
            written.inspect_err(|_| self.undelivered().is_dirty = true)?;
        }
        Ok(())
    }

    /// The gauges, as things are.
    pub(super) fn count(&self) {
        let view = self.view();
        let stats = &self.stats;
        stats.store.records.set(view.records());
        stats.messages.undelivered.set(self.undelivered().len() as u64);
    }

    /// How long the oldest record has been waiting for the disk.
    pub(super) fn wait(&self) -> Duration {
        match self.waiting_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => self.now().saturating_duration_since(self.began).saturating_sub(Duration::from_micros(since)),
        }
    }

    pub(super) fn set_waiting(&self, since: Option<Instant>) {
        let since = since.map_or(0, |since| microseconds(since.saturating_duration_since(self.began)).max(1));
        self.waiting_since.store(since, Ordering::Release);
    }

    pub(super) fn writable(&self) -> bool {
        self.writable.load(Ordering::Acquire) && self.wait() <= PATIENCE
    }

    /// Why nothing can be recorded, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        if !self.writable.load(Ordering::Acquire) {
            return Some(lock(&self.trouble).clone());
        }
        let wait = self.wait();
        (wait > PATIENCE).then(|| format!("the disk has confirmed nothing for {} s", wait.as_secs()))
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.stats.store.degraded.set(u64::from(trouble.is_some()));
        let usable = trouble.is_none();
        *lock(&self.trouble) = trouble.unwrap_or_default();
        self.writable.store(usable, Ordering::Release);
    }

    /// Addresses that are being erased right now: a record that comes in meanwhile is stored without them.
    pub(super) fn erasing(&self) -> Vec<Address> {
        lock(&self.erasing).clone()
    }

    pub(super) fn set_erasing(&self, addresses: Vec<Address>) {
        let mut erasing = lock(&self.erasing);
        if erasing.is_empty() != addresses.is_empty() {
            self.erasures.fetch_add(1, Ordering::AcqRel);
        }
        *erasing = addresses;
    }

    /// The number of the last erasure that ended; `None` in the midst of one.
    pub(super) fn quiet_since(&self) -> Option<u64> {
        Some(self.erasures.load(Ordering::Acquire)).filter(|turn| turn.is_multiple_of(2))
    }

    /// A reader met damage in a file: the keeper looks. Whether that is news.
    pub(super) fn suspect(&self, file: &StoreFile) -> bool {
        let is_news = file.suspect();
        self.has_suspicion.fetch_or(is_news, Ordering::AcqRel);
        is_news
    }

    /// Whether there is one that nobody has acted upon.
    pub(super) fn take_suspicion(&self) -> bool {
        self.has_suspicion.swap(false, Ordering::AcqRel)
    }

    /// What is older is not shown and has to go.
    pub(super) fn cutoff_us(&self) -> i64 {
        let believed = lock(&self.clock).believed(self.now(), self.files.disk.clock_us());
        let retention_us = i64::try_from(self.settings.load().retention.as_micros()).unwrap_or(i64::MAX);
        believed.map_or(i64::MIN, |now| now.saturating_sub(retention_us))
    }

    pub(super) fn now(&self) -> Instant {
        self.files.disk.now()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Octets of a new journal: two that take turns and their spares are a small part of what may be used.
    pub(super) fn journal_length(&self) -> usize {
        const LEAST: u64 = 256 << 10;
        let part = (self.settings.load().max_size / 64).max(LEAST);
        usize::try_from(part).unwrap_or(usize::MAX).min(self.tuning.journal).next_multiple_of(4096)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
