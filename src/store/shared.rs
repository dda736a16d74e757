//! What the writer, the janitor and the readers of one store share. Logs nothing.

use super::commit::{Changes, microseconds};
use super::error::{Fault, StoreError, guarded};
use super::id::Ids;
use super::open::Files;
use super::redact::Address;
use super::schema::{Change, IndexKey, State};
use super::tail::Tail;
use crate::config;
use crate::record::Record;
use crate::stats::Stats;
use arc_swap::ArcSwap;
use redb::{Database, ReadTransaction, ReadableDatabase};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// Changes kept for a rewrite at most; it fetches them after every page, so they are few unless it stands still.
const CHANGES_MOST: usize = 4_000_000;

pub(super) struct Shared {
    pub(super) files: Files,
    pub(super) index_key: IndexKey,
    pub(super) id_secret: [u8; 32],
    pub(super) ids: Ids,
    pub(super) stats: Arc<Stats>,
    pub(super) settings: ArcSwap<config::Store>,
    pub(super) live: broadcast::Sender<Arc<Record>>,
    pub(super) stopping: AtomicBool,
    /// Damaged records that were met.
    pub(super) unreadable: AtomicU64,
    pub(super) tuning: super::Tuning,
    /// Cut off as it is, the file would open at once.
    pub(super) checkpointed: AtomicBool,
    /// The journal has records that redb has not.
    pub(super) behind: AtomicBool,
    /// Only the writer takes it for writing, and readers hold it for one page: a file that was replaced is let go at once.
    database: RwLock<Option<Database>>,
    writable: AtomicBool,
    trouble: Mutex<String>,
    state: Mutex<State>,
    /// Only the writer takes it for writing, for the moment after a commit. Readers look here before they open their transaction: an
    /// entry that is moved meanwhile is seen twice, never missed.
    tail: RwLock<Tail>,
    /// What changed since the rewrite looked last; `None` while there is none.
    changes: Mutex<Option<Changes>>,
    erasing: Mutex<Vec<Address>>,
    /// The name of a thread that ended and was not asked to.
    pub(super) died: watch::Sender<Option<&'static str>>,
    /// Since when the writer has been at one piece of work, in microseconds after `began`; 0: it waits for work.
    busy_since: AtomicU64,
    began: Instant,
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
        database: Database,
        state: State,
        tail: Tail,
        tuning: super::Tuning,
    ) -> Self {
        /// Records that a slow reader of the live view may lag behind before it misses some.
        const LIVE: usize = 1024;
        Self {
            files,
            index_key,
            id_secret,
            ids,
            stats,
            settings: ArcSwap::from_pointee(settings),
            live: broadcast::channel(LIVE).0,
            stopping: AtomicBool::new(false),
            unreadable: AtomicU64::new(0),
            tuning,
            checkpointed: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            database: RwLock::new(Some(database)),
            writable: AtomicBool::new(true),
            trouble: Mutex::default(),
            state: Mutex::new(state),
            tail: RwLock::new(tail),
            changes: Mutex::new(None),
            erasing: Mutex::default(),
            died: watch::channel(None).0,
            busy_since: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    pub(super) fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn database_mut(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One short read transaction, for a caller from outside.
    pub(super) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.look(work).map_err(|fault| self.error(fault))
    }

    /// One short read transaction.
    pub(super) fn look<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Fault> {
        let database = self.database();
        let Some(database) = database.as_ref() else {
            return Err(if self.stopping.load(Ordering::Acquire) { Fault::Closing } else { Fault::Io(self.trouble()) });
        };
        guarded(|| {
            let txn = database.begin_read().map_err(redb::Error::from)?;
            Ok(work(&txn)?)
        })
    }

    pub(super) fn error(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Damaged(what) => StoreError::Damaged(what),
            Fault::Closing => StoreError::Closed,
            Fault::Full(what) | Fault::Io(what) => StoreError::Degraded(what),
            Fault::Disk(_) | Fault::Lost | Fault::Newer(_) | Fault::Locked | Fault::Void => StoreError::Degraded(fault.to_string()),
        }
    }

    /// How long the writer has been waiting for the disk.
    pub(super) fn wait(&self) -> Duration {
        match self.busy_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => self.began.elapsed().saturating_sub(Duration::from_micros(since)),
        }
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        let since = if is_busy { microseconds(self.began.elapsed()).max(1) } else { 0 };
        self.busy_since.store(since, Ordering::Release);
    }

    pub(super) fn writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Why nothing can be recorded, in words.
    pub(super) fn trouble(&self) -> String {
        lock(&self.trouble).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.stats.store.degraded.set(u64::from(trouble.is_some()));
        let usable = trouble.is_none();
        *lock(&self.trouble) = trouble.unwrap_or_default();
        self.writable.store(usable, Ordering::Release);
    }

    pub(super) fn state(&self) -> State {
        *lock(&self.state)
    }

    pub(super) fn set_state(&self, state: State) {
        *lock(&self.state) = state;
    }

    pub(super) fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tail_mut(&self) -> RwLockWriteGuard<'_, Tail> {
        self.tail.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts keeping changes.
    pub(super) fn watch(&self) {
        *lock(&self.changes) = Some(Vec::new());
    }

    /// Ends that; a rewrite that still goes on is void.
    pub(super) fn unwatch(&self) {
        *lock(&self.changes) = None;
    }

    /// Whether changes are kept; only the writer begins that.
    pub(super) fn is_watched(&self) -> bool {
        lock(&self.changes).is_some()
    }

    pub(super) fn note(&self, new: &[Change]) {
        let mut changes = lock(&self.changes);
        if let Some(kept) = changes.as_mut() {
            kept.extend_from_slice(new);
            if kept.len() > CHANGES_MOST {
                *changes = None;
            }
        }
    }

    /// What changed since the last call; `None` if the rewrite is void.
    pub(super) fn changes(&self) -> Option<Changes> {
        lock(&self.changes).as_mut().map(std::mem::take)
    }

    /// Addresses that are being erased right now: a record that comes in meanwhile is stored without them.
    pub(super) fn erasing(&self) -> Vec<Address> {
        lock(&self.erasing).clone()
    }

    pub(super) fn set_erasing(&self, addresses: Vec<Address>) {
        *lock(&self.erasing) = addresses;
    }

    /// Shows a record to whoever follows.
    pub(super) fn show(&self, record: &Record) {
        if self.live.receiver_count() > 0 {
            // Fails when every receiver has gone meanwhile.
            drop(self.live.send(Arc::new(record.clone())));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
