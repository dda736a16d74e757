//! The records on disk: a journal, memory, and files that are written once.
//!
//! - `journal/` is where a record is durable first: a thread that answers when its write is done, and waits for nothing else;
//! - `memory.rs` has what the journal has, to be found by readers, until a file has it;
//! - `file/` is such a file: built in one go, and from then on only read;
//! - `keeper/` is the thread that builds, merges, drops and erases: whatever fails there is thrown away and made again;
//! - `query.rs` reads all of it, from any thread that may block; `open.rs` finds it again, `migrate.rs` takes over what was before.
//!
//! Commit numbers order everything: a record gets the next one when it is durable. Whatever the disk does, nothing here panics or waits
//! for ever: while nothing can be recorded, `writable` is false, and a record that could not be made durable is a log line (promise 3).
//! Only the fields of a `Record` can get here (promise 2).

mod changes;
mod clock;
mod disk;
mod encoding;
mod error;
mod file;
mod filter;
mod folder;
mod id;
mod index;
mod journal;
mod keeper;
mod machine;
mod memory;
mod mention;
mod merged;
mod migrate;
mod open;
mod place;
mod query;
mod redact;
mod shared;
#[cfg(test)]
mod tests;
mod undelivered;
mod verify;
mod view;

pub use disk::{Disk, DurableFile, FileStat, FileSystem, Lock};
pub use error::{CommitFailed, StoreError};
pub use filter::Filter;
pub use journal::Commit;
pub use machine::Machine;
pub use redact::{Address, configured as redact, fold as folded, trimmed};
/// What a simulated disk implements for one file.
pub use redb::StorageBackend;
pub use verify::{Verified, is_there, verify};

use crate::config;
use crate::record::{Outcome, Record, RecordId};
use crate::stats::Stats;
use arc_swap::ArcSwapOption;
use changes::Changes;
use crossbeam_channel::{Receiver, SendError, Sender};
use error::Fault;
use folder::Files;
use index::IndexKey;
use journal::{Message, Pending, Queue, Writer};
use keeper::{Errand, Keeper};
use query::AtDamage;
use shared::Shared;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::broadcast;

/// Records that may wait for the writer. More than the connections that can each have one under way; what comes beyond is answered
/// like a failed commit, and `writable` says no when three quarters of it are taken.
const QUEUE: usize = 16_384;
const QUEUE_HIGH: usize = QUEUE / 4 * 3;
/// Octets of a journal where there is hardly any space.
const JOURNAL_LEAST: u64 = 1 << 20;
/// Empty journals that may lie ready.
const FREE: usize = 16;

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

/// A record with the number that it got when it was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub number: u64,
    pub record: Record,
}

/// A record that `forget` changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Among all changes; rising.
    pub position: u64,
    pub number: u64,
    /// As it is now; `None` where it is gone.
    pub record: Option<Record>,
}

/// A point in the store's long works, for tests that look at the files there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A store of an older version has been taken over in part.
    Rebuilding,
    /// A new file is complete and durable, under a name that nothing reads.
    Built,
    /// It bears its own name; the directory is not synced yet.
    Renamed,
    /// It is durable under its name; what it takes the place of may still be there.
    Synced,
}

/// How the store paces itself; the defaults are what a daemon uses.
#[derive(Clone)]
pub struct Tuning {
    /// Between looks at what has expired, and at how much room there is.
    pub housekeeping: Duration,
    /// Octets of a journal, at the most.
    pub journal: usize,
    /// Records of which a file is made, at the most.
    pub batch: usize,
    /// After so long a file is made of fewer.
    pub seal_after: Duration,
    /// Called at each step, by the thread that takes it.
    pub at_step: Option<Arc<dyn Fn(Step) + Send + Sync>>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { housekeeping: Duration::from_secs(20), journal: 8 << 20, batch: 16_384, seal_after: Duration::from_secs(600), at_step: None }
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
    writer: ArcSwapOption<Queue>,
    keeper: Sender<Errand>,
    threads: Mutex<Vec<(JoinHandle<()>, Receiver<()>)>>,
}

impl Store {
    /// Opens or creates; a file that cannot be read is set aside. `Err` is an operator's line and an exit code in the caller.
    pub fn open(config: &config::Store, stats: &Arc<Stats>) -> Result<Arc<Self>, StoreError> {
        // Where links lead now is where the store stays, and where whoever comes by another link finds its lock.
        let path = place::resolved(&config.path).map_err(|source| StoreError::Io { path: config.path.clone(), source })?;
        place::close_to_others(&path);
        Self::open_on(Arc::new(FileSystem), &config::Store { path, ..config.clone() }, stats, Tuning::default())
    }

    /// `open` on another disk, or at another pace.
    pub fn open_on(disk: Arc<dyn Disk>, config: &config::Store, stats: &Arc<Stats>, tuning: Tuning) -> Result<Arc<Self>, StoreError> {
        let path = || config.path.clone();
        Self::start(disk, config, stats, tuning).map_err(|fault| match fault {
            Fault::Locked => StoreError::Locked(path()),
            Fault::Newer(found) => StoreError::Newer { path: path(), found, known: file::VERSION },
            Fault::NoSpace { needed, free } => StoreError::NoSpace { needed, free },
            Fault::Disk(source) => StoreError::Io { path: path(), source },
            Fault::CannotRead { path, source } => StoreError::CannotRead { path, source },
            Fault::Full(_) | Fault::Damaged(_) | Fault::Io(_) | Fault::Lost | Fault::Closing => {
                StoreError::Failed { path: path(), what: fault.to_string() }
            }
        })
    }

    fn start(disk: Arc<dyn Disk>, config: &config::Store, stats: &Arc<Stats>, mut tuning: Tuning) -> Result<Arc<Self>, Fault> {
        let files = Files { disk, path: config.path.clone() };
        let lock = files.lock()?;
        let free = files.disk.free_space(files.directory())?;
        // On a small disk journals are a small part of it.
        tuning.journal = tuning.journal.min(usize::try_from((free / 16).max(JOURNAL_LEAST)).unwrap_or(usize::MAX));
        let listing = open::patiently(&files, files.directory(), || Ok(files.list()?))?;
        for leftover in &listing.unfinished {
            files.remove_if_there(leftover).map_err(|source| Fault::CannotRead { path: leftover.clone(), source })?;
        }
        let secret = |suffix| open::patiently(&files, &files.beside(suffix), || files.secret(suffix));
        let (id_secret, has_secrets) = secret(".id-secret")?;
        let index_key = IndexKey(secret(".index-key")?.0);
        if has_secrets {
            say_what_is_missing(&files, &listing);
        }
        migrate::migrate(&files, &index_key, &tuning, &listing)?;
        let opened = open::open(&files, index_key, &tuning)?;
        let changes = open::patiently(&files, &files.changes(), || Changes::read(&files))?;
        let ids = id::Ids::new(opened.newest_id, ms(&*files.disk), files.disk.random()?);
        // The first one is of a later millisecond: so ids rise over a start in the midst of this one.
        files.disk.pause(Duration::from_millis(1));
        let shared = Arc::new(Shared::new(
            files,
            index_key,
            id_secret,
            ids,
            Arc::clone(stats),
            config.clone(),
            tuning,
            opened.view,
            opened.undelivered,
            changes,
            opened.next_slot,
        ));
        shared.journals.store(u32::try_from(opened.sealed.journals.len()).unwrap_or(u32::MAX), Ordering::Release);
        // Else a message of which a filter says "perhaps" would not be counted before the keeper looks.
        // Where that cannot be read just now it is no reason not to start.
        let resolved = shared.resolve_doubts();
        // Whoever is killed before the keeper comes to it would read those files again.
        let kept = if opened.has_read_files { resolved.and_then(|()| shared.keep_undelivered()) } else { resolved };
        kept.unwrap_or_else(|fault| tracing::warn!(reason = %fault, "what is undelivered is not known in full yet"));
        shared.count();
        // Bounded by `commit`. A bounded channel would keep what waits in it when its reader has died; this one drops it, and each record
        // that is dropped becomes its log line.
        let (asked, messages) = crossbeam_channel::unbounded();
        let (keeper, errands) = crossbeam_channel::unbounded();
        let (hand_on, sealed) = crossbeam_channel::unbounded();
        let (free, empty) = crossbeam_channel::bounded(FREE);
        hand_on.send(opened.sealed).unwrap_or(());
        let work = Writer::new(Arc::clone(&shared), messages, hand_on, empty.clone(), lock, opened.durable);
        let writing = start("store-writer", &shared, Box::new(move || work.run()))?;
        let writer = Queue::new(asked, writing.0.thread().clone());
        let mut threads = vec![writing];
        let work = Keeper::new(Arc::clone(&shared), sealed, (free, empty), errands, writer.clone());
        threads.push(start("store-keeper", &shared, Box::new(move || work.run()))?);
        Ok(Arc::new(Self { shared, writer: ArcSwapOption::from_pointee(writer), keeper, threads: Mutex::new(threads) }))
    }

    /// Takes over what may change at run time; the path is what it was at the start.
    pub fn reload(&self, config: &config::Store) {
        self.shared.settings.store(Arc::new(config.clone()));
    }

    /// False while nothing can be recorded: mail is answered `452 4.3.1`.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.shared.writable() && self.writer.load().as_ref().is_some_and(|writer| writer.len() < QUEUE_HIGH)
    }

    /// Why nothing can be recorded at present, for `/readyz`.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    /// The key of Webhook-Id kept beside the store, 32 octets, made once.
    #[must_use]
    pub fn id_secret(&self) -> [u8; 32] {
        self.shared.id_secret
    }

    /// Rising over restarts and clock steps; cheap.
    #[must_use]
    pub fn next_id(&self) -> RecordId {
        self.shared.ids.next(ms(&*self.shared.files.disk))
    }

    /// How long the oldest record has been waiting for the disk.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.shared.wait()
    }

    /// Ends when a thread of the store has ended otherwise than asked, with its name.
    pub async fn died(&self) -> &'static str {
        let mut died = self.shared.died.subscribe();
        let name = died.wait_for(Option::is_some).await.ok().and_then(|name| *name);
        name.unwrap_or("store")
    }

    /// Hands the record to the writer; done when it is durable. Never blocks. The record is redacted as configured; the error carries
    /// nothing: the store has then written the redacted record as its log line (promise 3).
    ///
    /// The caller fills `queue_us`, `forward_us` and `processing_time_us` up to this call; `store_us` is added here.
    pub fn commit(&self, mut record: Record) -> Commit {
        // What is stored, shown and logged is the same instant.
        record.date = jiff::Timestamp::from_microsecond(record.date.as_microsecond()).unwrap_or(record.date);
        redact::configured(&mut record, self.shared.settings.load().redact);
        let (pending, commit) = Pending::new(record, self.shared.now());
        // Given back where the writer has too much to do or has ended: dropped, it is its log line.
        let given_back = match self.writer.load().as_ref() {
            Some(writer) if writer.len() < QUEUE => writer.send(Message::Record(pending)).map_err(SendError::into_inner).err(),
            Some(_) | None => Some(Message::Record(pending)),
        };
        drop(given_back);
        commit
    }

    /// Reads one page; blocking: never on a ring thread.
    pub fn query(&self, query: &Query) -> Result<Page, StoreError> {
        query::query(self.opened()?, query)
    }

    pub fn record(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        query::record(self.opened()?, id)
    }

    /// All attempts at one message, oldest first: the last 1000, or fewer of very long ones.
    pub fn attempts(&self, webhook_id: &str) -> Result<Vec<Record>, StoreError> {
        query::attempts(self.opened()?, webhook_id)
    }

    /// Messages that no endpoint has taken or refused, by their latest attempt, newest first.
    pub fn undelivered(&self, cursor: Option<RecordId>, limit: usize) -> Result<UndeliveredPage, StoreError> {
        query::undelivered(self.opened()?, cursor, limit)
    }

    /// Every record naming the address, in pages like `query`: as sender or recipient, or anywhere in a text.
    pub fn export(&self, address: &str, cursor: Option<RecordId>) -> Result<Page, StoreError> {
        let address = Address::new(address).ok_or_else(|| StoreError::NotAnAddress(address.to_owned()))?;
        query::export(self.opened()?, address, cursor)
    }

    /// Records with numbers above this one, in the order of their numbers; at most 1000.
    pub fn records_after(&self, number: u64, limit: usize) -> Result<Vec<Committed>, StoreError> {
        query::after(self.opened()?, number, limit, AtDamage::GoesOn)
    }

    /// The same for whoever comes by each number once: it ends where a file is damaged, until that was looked after and what a salvage brings
    /// back stands there again; `StoreError::Damaged` where nothing stands before.
    pub fn all_after(&self, number: u64, limit: usize) -> Result<Vec<Committed>, StoreError> {
        let found = query::after(self.opened()?, number, limit, AtDamage::Ends);
        if found.is_err() && self.shared.take_suspicion() {
            self.keeper.send(Errand::Look).unwrap_or(());
        }
        found
    }

    /// The last number that stands in a file: no number up to here is ever given again.
    #[must_use]
    pub fn in_files(&self) -> u64 {
        self.shared.view().files.last().map_or(0, |file| file.span().last)
    }

    /// The last number that was given.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.shared.view().filling.through
    }

    /// The least number of which the store knows what became of it: what was below has gone.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.shared.view().oldest()
    }

    /// Whether `forget` keeps a list of what it changes, for whoever brings records elsewhere; says whether it was kept before. Where it was
    /// not, changes may have been missed: whoever wants them begins with the oldest record. Blocking.
    pub fn keep_changes(&self, is_wanted: bool) -> Result<bool, StoreError> {
        Changes::keep(&mut self.shared.changes(), &self.shared.files, is_wanted).map_err(|error| Fault::from(error).into())
    }

    /// What `forget` changed, in the order in which it did, behind a position; at most 1000. What was taken may come again after a kill.
    /// It ends at damage as `all_after` does.
    pub fn changes_after(&self, position: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        query::changes(self.opened()?, position, limit)
    }

    /// What stands up to this position has been taken by all who want it.
    pub fn changes_taken(&self, position: u64) {
        if let Some(changes) = self.shared.changes().as_mut() {
            changes.taken(position);
        }
    }

    /// `None` while something is being erased; the same as before: nothing was erased since.
    #[must_use]
    pub fn quiet_since(&self) -> Option<u64> {
        self.shared.quiet_since()
    }

    /// Erases the address; returns when it is absent from every file of the store. Blocking.
    pub fn forget(&self, address: &str) -> Result<u64, StoreError> {
        let address = Address::new(address).ok_or_else(|| StoreError::NotAnAddress(address.to_owned()))?;
        self.errand(|done| Errand::Forget { address, done })
    }

    /// Makes files of what is in memory now, and merges what is to be merged. Blocking.
    pub fn tidy(&self) -> Result<(), StoreError> {
        self.errand(|done| Errand::Tidy { done })
    }

    fn opened(&self) -> Result<&Shared, StoreError> {
        if self.shared.is_stopping() { Err(StoreError::Closed) } else { Ok(&self.shared) }
    }

    fn errand<T>(&self, errand: impl FnOnce(Sender<Result<T, StoreError>>) -> Errand) -> Result<T, StoreError> {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.keeper.send(errand(done)).map_err(|_| StoreError::Closed)?;
        machine::answer(&*self.shared.files.disk, &answer).unwrap_or(Err(StoreError::Closed))
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

    /// Commits what is queued and ends the threads.
    pub fn close(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // Both fail where the thread has ended already, which is what is wanted.
        self.keeper.send(Errand::Close).unwrap_or(());
        if let Some(writer) = self.writer.swap(None) {
            writer.send(Message::Close).unwrap_or(());
        }
        for (thread, ended) in threads.drain(..) {
            // Nothing comes: it ends.
            machine::answer(&*self.shared.files.disk, &ended);
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

/// A store that was opened before has a journal, or it is one of an older version.
fn say_what_is_missing(files: &Files, listing: &folder::Listing) {
    if files.disk.stat(&files.path).is_ok() || !listing.journals.is_empty() {
        return;
    }
    let store = files.path.display();
    if listing.spans.is_empty() {
        tracing::error!(%store, "there are the secrets of a store, but none of its records: a new one is begun");
    } else {
        tracing::error!(%store, "the store's journals are missing: the last records that were acknowledged may be, too");
    }
}

/// A thread that logs where the one that starts it logs, and says when it ends and was not asked to; and how to hear of its end.
fn start(name: &'static str, shared: &Arc<Shared>, work: Box<dyn FnOnce() + Send>) -> std::io::Result<(JoinHandle<()>, Receiver<()>)> {
    let log = tracing::dispatcher::get_default(Clone::clone);
    let (done, ended) = crossbeam_channel::bounded(1);
    let end = Ending { name, shared: Arc::clone(shared), done };
    shared.files.disk.begins(name);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let end = end;
        end.shared.files.disk.await_turn(end.shared.began, &|| true);
        tracing::dispatcher::with_default(&log, work);
    })?;
    Ok((thread, ended))
}

/// Milliseconds since 1970.
fn ms(machine: &dyn Machine) -> u64 {
    u64::try_from(machine.clock_us() / 1000).unwrap_or(0)
}

/// Dropped with its thread, also by a panic.
struct Ending {
    name: &'static str,
    shared: Arc<Shared>,
    done: Sender<()>,
}

impl Ending {
    /// Whether another thread has died, after which this one has nobody to work for. That one's end may be told a little later.
    fn follows_another(&self) -> bool {
        const LOOKS: u32 = 20;
        (0..LOOKS).any(|_| {
            let is_told = self.shared.died.borrow().is_some() || self.shared.is_stopping();
            if !is_told {
                self.shared.files.disk.pause(Duration::from_millis(10));
            }
            is_told
        })
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() || (!self.shared.is_stopping() && !self.follows_another()) {
            self.shared.set_trouble(Some(format!("the thread {} has ended", self.name)));
            self.shared.died.send_replace(Some(self.name));
        }
        self.done.send(()).unwrap_or(());
        self.shared.files.disk.ends();
    }
}
