//! The records on disk: one redb file, one writer thread, group commit.
//!
//! - `commit.rs` is the writer: it alone changes the store and answers after fsync. A record is durable in the journal (`journal.rs`)
//!   first, and soon after in redb; `trouble.rs` keeps it usable through faults,
//!   `retention.rs` within its bounds;
//! - `forget.rs` is the janitor: erasing, and the daily rewrite that makes expired records leave the file;
//! - readers (`query.rs`) use short transactions of their own, from any thread that may block.
//!
//! Whatever the disk does, nothing here panics or waits for ever: while nothing can be recorded, `writable` is false, and a record that
//! could not be made durable is a log line (promise 3). Only the fields of a `Record` can get here (promise 2).

mod commit;
mod disk;
mod encoding;
mod error;
mod filter;
mod forget;
mod id;
mod journal;
mod mention;
mod open;
mod query;
mod redact;
mod retention;
mod rewrite;
mod schema;
mod shared;
mod tables;
mod tail;
#[cfg(test)]
mod tests;
mod trouble;
mod verify;

pub use commit::Commit;
pub use disk::{Disk, DurableFile, FileStat, FileSystem, Lock};
pub use error::{CommitFailed, StoreError};
pub use filter::Filter;
/// What a simulated disk implements for one file.
pub use redb::StorageBackend;
pub use verify::{Verified, verify};

use crate::config;
use crate::record::{Outcome, Record, RecordId};
use crate::stats::Stats;
use arc_swap::ArcSwapOption;
use commit::{Message, Pending, Work, Writer};
use crossbeam_channel::{Sender, TrySendError};
use error::Fault;
use forget::{Errand, Janitor};
use open::Files;
use redact::Address;
use schema::IndexKey;
use shared::{Shared, now_ms};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, oneshot};

/// Records that may wait for the writer. More than the connections that can each have one under way; a full channel is answered
/// like a failed commit, and `writable` says no when three quarters of it are taken.
const QUEUE: usize = 16_384;
const QUEUE_HIGH: usize = QUEUE / 4 * 3;
/// While the disk has been silent for longer, nothing new is taken.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a reader waits for the records that only the journal has.
const SETTLE_PATIENCE: Duration = Duration::from_millis(500);

/// Filters of a query; all must match. Times are inclusive `since`, exclusive `until`.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub since: Option<jiff::Timestamp>,
    pub until: Option<jiff::Timestamp>,
    /// The whole address, in any letter case; empty for the null reverse-path.
    pub sender: Option<String>,
    pub recipient: Option<String>,
    /// With or without its `<>`.
    pub message_id: Option<String>,
    pub outcome: Option<Outcome>,
    /// A route's name.
    pub route: Option<String>,
    /// The endpoint's; 0 for none.
    pub status: Option<u16>,
    pub ip: Option<std::net::IpAddr>,
    /// Only the latest record of each message that no endpoint has taken or refused.
    pub undelivered: bool,
    /// Substring of subject, sender, recipient, Message-ID, response text, reply, Webhook-Id or address, any letter case (the search box).
    pub text: Option<String>,
    /// Records before this one (newest first).
    pub cursor: Option<RecordId>,
    /// At most 1000; 0 is 100.
    pub limit: usize,
}

/// One page, newest first. A search that took long may give a short or an empty page with a cursor, and long records a short one: go on
/// until there is none.
#[derive(Debug)]
pub struct Page {
    pub records: Vec<Record>,
    /// For the next page, if there may be one.
    pub cursor: Option<RecordId>,
}

/// A message that no endpoint has taken or refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Undelivered {
    pub attempts: u64,
    pub first_seen: jiff::Timestamp,
    pub last_seen: jiff::Timestamp,
    /// The latest attempt.
    pub record: Record,
}

/// One page of them, by their latest attempt, newest first.
#[derive(Debug, serde::Serialize)]
pub struct UndeliveredPage {
    pub undelivered: Vec<Undelivered>,
    /// For the next page, if there may be one.
    pub cursor: Option<RecordId>,
}

/// A point in the store's long works, for tests that look at the files there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A store of an older version has been brought up to date in part.
    Rebuilding,
    /// A rewrite has copied the store; the writer has still to bring the last changes after.
    Copied,
    /// The new file is complete and durable beside the old one.
    Synced,
    /// The new file stands under the store's name; the directory is not synced yet.
    Renamed,
}

/// How the store paces itself; the defaults are what a daemon uses.
#[derive(Clone)]
pub struct Tuning {
    /// How long octets of expired records may stay in the file after they went; well below the day that is promised.
    pub rewrite_after: Duration,
    /// Between looks at whether that time is over.
    pub housekeeping: Duration,
    /// After so long without a change the file is left as one that opens at once, should the daemon be killed then: otherwise redb reads
    /// all of it, some seconds for each million records.
    pub checkpoint_after: Duration,
    /// Index entries that make a segment full.
    pub segment: u32,
    /// Octets of the journal.
    pub journal: usize,
    /// After so long without a record redb gets what the journal has.
    pub settle_after: Duration,
    /// Called at each step, by the thread that takes it.
    pub at_step: Option<Arc<dyn Fn(Step) + Send + Sync>>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            rewrite_after: Duration::from_secs(12 * 3600),
            housekeeping: Duration::from_secs(60),
            checkpoint_after: Duration::from_secs(2),
            segment: schema::SEGMENT,
            journal: 1 << 20,
            settle_after: Duration::from_millis(5),
            at_step: None,
        }
    }
}

impl Tuning {
    fn reach(&self, step: Step) {
        if let Some(at_step) = &self.at_step {
            at_step(step);
        }
    }
}

/// Handle to the store; shared by all threads.
pub struct Store {
    shared: Arc<Shared>,
    /// `None` once it is closed: the writer ends when nobody can ask it for anything any more, so that all it was asked for is answered.
    writer: ArcSwapOption<Sender<Message>>,
    janitor: Sender<Errand>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates; an unreadable file is set aside. `Err` is an operator's line and an exit code in the caller.
    pub fn open(config: &config::Store, stats: &Arc<Stats>) -> Result<Arc<Self>, StoreError> {
        Self::open_on(Arc::new(FileSystem), config, stats, Tuning::default())
    }

    /// `open` on another disk, or at another pace.
    pub fn open_on(disk: Arc<dyn Disk>, config: &config::Store, stats: &Arc<Stats>, tuning: Tuning) -> Result<Arc<Self>, StoreError> {
        let files = Files { disk, path: config.path.clone() };
        let path = || config.path.clone();
        let failed = |fault: Fault| match fault {
            Fault::Locked => StoreError::Locked(path()),
            Fault::Newer(found) => StoreError::Newer { path: path(), found, known: schema::STORE_VERSION },
            Fault::Disk(source) => StoreError::Io { path: path(), source },
            Fault::Full(_) | Fault::Damaged(_) | Fault::Io(_) | Fault::Lost | Fault::Void | Fault::Closing => {
                StoreError::Failed { path: path(), what: fault.to_string() }
            }
        };
        let lock = files.lock().map_err(failed)?;
        files.remove_leftovers().map_err(|source| StoreError::Io { path: path(), source })?;
        let id_secret = files.secret(".id-secret").map_err(failed)?;
        let index_key = IndexKey(files.secret(".index-key").map_err(failed)?);
        let open::Opened { readable: opened, journal, full } = open::open(&files, index_key, &tuning, &[]).map_err(failed)?;
        let ids = id::Ids::new(opened.state.newest_id, now_ms(), open::random().map_err(failed)?);
        stats.store.records.set(opened.records);
        stats.store.file_bytes.set(opened.stat.length);
        stats.messages.undelivered.set(opened.undelivered);
        let (state, stat) = (opened.state, opened.stat);
        let shared = Arc::new(Shared::new(
            files,
            index_key,
            id_secret,
            ids,
            Arc::clone(stats),
            config.clone(),
            opened.database,
            state,
            opened.tail,
            tuning,
        ));
        let (writer, messages) = crossbeam_channel::bounded(QUEUE);
        let (janitor, errands) = crossbeam_channel::unbounded();
        let mut threads = Vec::new();
        let mut work = Writer::new(Arc::clone(&shared), messages, lock, stat, state, journal);
        if let Some(full) = full {
            work.start_full(&full);
        }
        threads.push(start("store-writer", &shared, move || work.run()).map_err(|source| StoreError::Io { path: path(), source })?);
        let work = Janitor { shared: Arc::clone(&shared), errands, writer: writer.clone(), not_before: Instant::now() };
        threads.push(start("store-janitor", &shared, move || work.run()).map_err(|source| StoreError::Io { path: path(), source })?);
        Ok(Arc::new(Self { shared, writer: ArcSwapOption::from_pointee(writer), janitor, threads: Mutex::new(threads) }))
    }

    /// Takes over what may change at run time; the path is what it was at the start.
    pub fn reload(&self, config: &config::Store) {
        if config.path != self.shared.files.path {
            tracing::warn!(path = %config.path.display(), "store.path takes effect at the next start");
        }
        self.shared.settings.store(Arc::new(config.clone()));
    }

    /// False while nothing can be recorded: mail is answered `452 4.3.1`.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.shared.writable()
            && self.shared.wait() <= DISK_PATIENCE
            && self.writer.load().as_ref().is_some_and(|writer| writer.len() < QUEUE_HIGH)
    }

    /// How long the disk has been keeping the store waiting.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.shared.wait()
    }

    /// Why nothing can be recorded at present, for `/readyz`.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if !self.shared.writable() {
            return Some(self.shared.trouble());
        }
        let wait = self.shared.wait();
        (wait > DISK_PATIENCE).then(|| format!("the disk has confirmed nothing for {} s", wait.as_secs()))
    }

    /// Waits until a thread of the store has ended that was not asked to: nothing can be recorded from then on. Its name.
    pub async fn died(&self) -> &'static str {
        let mut died = self.shared.died.subscribe();
        loop {
            if let Some(name) = *died.borrow_and_update() {
                return name;
            }
            if died.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The key of Webhook-Id kept beside the store, 32 octets, made once.
    #[must_use]
    pub fn id_secret(&self) -> [u8; 32] {
        self.shared.id_secret
    }

    /// Rising over restarts and clock steps; cheap.
    #[must_use]
    pub fn next_id(&self) -> RecordId {
        self.shared.ids.next(now_ms())
    }

    /// Hands the record to the writer; answers after fsync. Never blocks. The record is redacted as configured; the error carries
    /// nothing: the store has then written the redacted record as its log line (promise 3).
    ///
    /// The caller fills `queue_us`, `forward_us` and `processing_time_us` up to this call; `store_us` is added here.
    pub fn commit(&self, mut record: Record) -> Commit {
        // What is stored, shown and logged is the same instant.
        record.date = jiff::Timestamp::from_microsecond(record.date.as_microsecond()).unwrap_or(record.date);
        redact::configured(&mut record, self.shared.settings.load().redact);
        let (pending, commit) = Pending::new(record);
        // What finds no place is dropped, and that writes its line.
        drop(self.ask(Message::Record(pending)));
        commit
    }

    /// Reads one page; blocking, short read transactions: never on a ring thread.
    pub fn query(&self, query: &Query) -> Result<Page, StoreError> {
        self.settle();
        query::query(&self.shared, query)
    }

    pub fn record(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        self.settle();
        query::record(&self.shared, id)
    }

    /// All attempts at one message, oldest first: the last 1000, or fewer of very long ones.
    pub fn attempts(&self, webhook_id: &str) -> Result<Vec<Record>, StoreError> {
        self.settle();
        query::attempts(&self.shared, webhook_id)
    }

    /// Messages that no endpoint has taken or refused, by their latest attempt, newest first.
    pub fn undelivered(&self, cursor: Option<RecordId>, limit: usize) -> Result<UndeliveredPage, StoreError> {
        self.settle();
        query::undelivered(&self.shared, cursor, limit)
    }

    /// Every record naming the address, in pages like `query`: as sender or recipient, or anywhere in a text.
    pub fn export(&self, address: &str, cursor: Option<RecordId>) -> Result<Page, StoreError> {
        let address = Address::new(address).ok_or_else(|| StoreError::NotAnAddress(address.to_owned()))?;
        self.settle();
        query::export(&self.shared, address, cursor)
    }

    /// Erases the address; returns when it is absent from every file of the store. Blocking.
    pub fn forget(&self, address: &str) -> Result<u64, StoreError> {
        let address = Address::new(address).ok_or_else(|| StoreError::NotAnAddress(address.to_owned()))?;
        self.errand(|done| Errand::Forget { address, done })
    }

    /// Rewrites the file now, so that nothing but live records is left in it. Blocking.
    pub fn rewrite(&self) -> Result<(), StoreError> {
        self.errand(|done| Errand::Rewrite { done })
    }

    /// What has been acknowledged is to be read and counted: has redb get it, if it has not. Blocking, but not for long: a disk that hangs
    /// must not keep readers from what is there, and a store in trouble shows what redb has.
    fn settle(&self) {
        let (done, settled) = crossbeam_channel::bounded(1);
        if self.ask_to_settle(move || done.send(()).unwrap_or(())) {
            settled.recv_timeout(SETTLE_PATIENCE).unwrap_or(());
        }
    }

    /// The same where nothing may block; for the gauges, which count what redb has.
    pub async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        if self.ask_to_settle(move || done.send(()).unwrap_or(())) {
            drop(tokio::time::timeout(SETTLE_PATIENCE, settled).await);
        }
    }

    /// Whether the writer has been asked.
    fn ask_to_settle(&self, done: impl FnOnce() + Send + 'static) -> bool {
        let settle = || Message::Work(Box::new(Work::Settle { done: Box::new(done) }));
        self.shared.behind.load(Ordering::Acquire) && self.ask(settle()).is_ok()
    }

    /// Gives the message back if the writer has too much to do or the store is closed.
    fn ask(&self, message: Message) -> Result<(), Message> {
        match self.writer.load().as_ref() {
            Some(writer) => writer.try_send(message).map_err(TrySendError::into_inner),
            None => Err(message),
        }
    }

    fn errand<T>(&self, errand: impl FnOnce(Sender<Result<T, StoreError>>) -> Errand) -> Result<T, StoreError> {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.janitor.send(errand(done)).map_err(|_| StoreError::Closed)?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }

    /// Each record after its commit, for the live view.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.shared.live.subscribe()
    }

    /// Damaged records that were met since the start.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.shared.unreadable.load(Ordering::Relaxed)
    }

    /// Commits what is queued and ends the writer.
    pub fn close(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails where it has ended already, which is what is wanted.
        self.janitor.send(Errand::Close).unwrap_or(());
        drop(self.writer.swap(None));
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// A thread that logs where the one that starts it logs, and tells when it ends without having been asked to.
fn start(name: &'static str, shared: &Arc<Shared>, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let log = tracing::dispatcher::get_default(Clone::clone);
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        tracing::dispatcher::with_default(&log, || {
            let _watched = Watched { name, shared };
            work();
        });
    })
}

struct Watched {
    name: &'static str,
    shared: Arc<Shared>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.shared.stopping.load(Ordering::Acquire) {
            self.shared.set_trouble(Some(format!("the thread {} died", self.name)));
            self.shared.died.send_replace(Some(self.name));
        }
    }
}
