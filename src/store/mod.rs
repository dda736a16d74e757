//! The records on disk: one redb file, one writer thread, group commit.

use crate::config;
use crate::record::{Outcome, Record, RecordId};
use crate::stats::Stats;
use std::sync::Arc;
use tokio::sync::{broadcast, oneshot};

/// Filters of a query; all must match. Times are inclusive `since`, exclusive `until`.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub since: Option<jiff::Timestamp>,
    pub until: Option<jiff::Timestamp>,
    pub sender: Option<String>,
    pub recipient: Option<String>,
    pub message_id: Option<String>,
    pub outcome: Option<Outcome>,
    pub undelivered: bool,
    /// Substring of subject, sender, recipient, Message-ID or response text, any letter case (the page's search box).
    pub text: Option<String>,
    /// Records before this one (newest first).
    pub cursor: Option<RecordId>,
    /// At most 1000.
    pub limit: usize,
}

/// One page, newest first.
pub struct Page {
    pub records: Vec<Record>,
    /// For the next page, if there may be one.
    pub cursor: Option<RecordId>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Todo(String),
}

/// Handle to the store; shared by all threads.
pub struct Store { _todo: () }

impl Store {
    /// Opens or creates; an unreadable file is set aside. `Err` is an operator's line and an exit code in the caller.
    pub fn open(_config: &config::Store, _stats: &Arc<Stats>) -> Result<Arc<Self>, StoreError> { todo!() }
    pub fn reload(&self, _config: &config::Store) { todo!() }
    /// False while nothing can be recorded: mail is answered `452 4.3.1`.
    pub fn writable(&self) -> bool { todo!() }
    /// The key of Webhook-Id kept beside the store, 32 octets, made once.
    pub fn id_secret(&self) -> [u8; 32] { todo!() }
    /// Rising over restarts and clock steps; cheap.
    pub fn next_id(&self) -> RecordId { todo!() }
    /// Hands the record to the writer; answers after fsync. Never blocks. The record is redacted as configured; the error carries
    /// nothing: the store has then written the redacted record as its log line (promise 3).
    pub fn commit(&self, _record: Record) -> oneshot::Receiver<Result<(), CommitFailed>> { todo!() }
    /// Reads one page; blocking, short read transaction: never on a ring thread.
    pub fn query(&self, _query: &Query) -> Result<Page, StoreError> { todo!() }
    pub fn record(&self, _id: RecordId) -> Result<Option<Record>, StoreError> { todo!() }
    /// All attempts at one message, oldest first, at most 1000.
    pub fn attempts(&self, _webhook_id: &str) -> Result<Vec<Record>, StoreError> { todo!() }
    /// Every record naming the address, in pages like `query`.
    pub fn export(&self, _address: &str, _cursor: Option<RecordId>) -> Result<Page, StoreError> { todo!() }
    /// Erases the address; returns when it is absent from every file of the store. Blocking.
    pub fn forget(&self, _address: &str) -> Result<u64, StoreError> { todo!() }
    /// Each record after its commit, for the live view.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> { todo!() }
    /// Commits what is queued and ends the writer.
    pub fn close(&self) { todo!() }
}

/// The record could not be made durable; it stands in the log.
#[derive(Debug)]
pub struct CommitFailed;
