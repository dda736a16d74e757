//! What every request can see, and how one reads the store: in turn, and with room for its answer. Logs nothing.

use super::answer::Problem;
use super::history::History;
use super::kept::Inspector;
use super::live::Live;
use super::page::Page;
use crate::config::{Config, Origin};
use crate::fleet::Fleet;
use crate::message::Budget;
use crate::stats::{Ready, Stats};
use crate::store::{Store, StoreError};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::body::Bytes;
use jiff::Timestamp;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Blocking reads of the store at once; more wait.
const STORE_CALLS: usize = 4;
/// Erasures at once, which take long and share their work; reads do not wait for them.
const ERASURES: usize = 4;
/// Of both.
pub(super) const BLOCKING_CALLS: usize = STORE_CALLS + ERASURES;
/// How long a request waits for its turn at the store, and for room for its answer.
const STORE_WAIT: Duration = Duration::from_secs(10);
/// KiB of records that clients have asked for and not read yet.
const UNREAD_KIB: usize = 64 * 1024;

/// What the listener reads from.
pub struct Deps {
    pub config: Arc<ArcSwap<Config>>,
    pub stats: Arc<Stats>,
    pub store: Arc<Store>,
    pub ready: Arc<Ready>,
    pub budget: Arc<Budget>,
    pub fleet: Arc<ArcSwapOption<Fleet>>,
}

/// Everything a request can see.
pub(super) struct App {
    pub(super) deps: Deps,
    pub(super) page: Page,
    pub(super) inspector: Inspector,
    pub(super) live: Live,
    pub(super) history: Arc<History>,
    /// Since when no mail is taken, to a second: whoever looks later wants to know.
    pub(super) not_ready_since: Mutex<Option<Timestamp>>,
    pub(super) store_calls: Arc<Semaphore>,
    pub(super) erasures: Arc<Semaphore>,
    unread: Arc<Semaphore>,
}

/// Records as text, counted as unread until the client has them or is gone.
struct Unread {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl App {
    pub(super) fn new(deps: Deps) -> Self {
        Self {
            page: Page::new(deps.config.load().origin == Origin::Development, &deps.config.load().smtp.hostname),
            inspector: Inspector::default(),
            live: Live::default(),
            history: Arc::default(),
            not_ready_since: Mutex::default(),
            store_calls: Arc::new(Semaphore::new(STORE_CALLS)),
            erasures: Arc::new(Semaphore::new(ERASURES)),
            unread: Arc::new(Semaphore::new(UNREAD_KIB)),
            deps,
        }
    }

    /// Whether the daemon runs the development configuration, whose inspector is open then.
    pub(super) fn development(&self) -> bool {
        self.deps.config.load().origin == Origin::Development
    }

    /// The budget's numbers, where every reader of the stats finds them.
    pub(super) fn refresh_gauges(&self) {
        self.deps.stats.body_bytes.set(self.deps.budget.held());
        self.deps.stats.body_budget_bytes.set(self.deps.budget.limit());
        self.deps.stats.store.wait_us.set(u64::try_from(self.deps.store.wait().as_micros()).unwrap_or(u64::MAX));
    }

    /// What a read of the store found, as text for an answer.
    pub(super) async fn records(&self, read: impl FnOnce(&Store) -> Result<String, StoreError> + Send + 'static) -> Result<Bytes, Problem> {
        // The turn is kept while the text waits for room: so no more than a few wait.
        let (text, _turn) = self.call(&self.store_calls, read).await?;
        let kib = u32::try_from(text.len() / 1024 + 1).unwrap_or(u32::MAX);
        match tokio::time::timeout(STORE_WAIT, Arc::clone(&self.unread).acquire_many_owned(kib)).await {
            Ok(Ok(room)) => Ok(Bytes::from_owner(Unread { text, _room: room })),
            _ => Err(Problem::unavailable("too many answers wait to be read; try again")),
        }
    }

    /// Runs a blocking call into the store, a few of a kind at a time. A turn lasts as long as its call, also when whoever asked
    /// has gone meanwhile.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Problem> {
        let Ok(Ok(turn)) = tokio::time::timeout(STORE_WAIT, Arc::clone(turns).acquire_owned()).await else {
            return Err(Problem::unavailable("the store is busy with other requests; try again"));
        };
        let store = Arc::clone(&self.deps.store);
        match tokio::task::spawn_blocking(move || (call(&store), turn)).await {
            Ok((Ok(value), turn)) => Ok((value, turn)),
            Ok((Err(error), _)) => Err(error.into()),
            Err(_) => Err(Problem::internal("the store's call ended with a panic")),
        }
    }
}
