//! A record on its way to the journal, and who waits for it. Logs what is not stored: a record that is dropped unanswered is one error line
//! with the whole record, redacted as configured, in the field `record` (promise 3).

use crate::record::Record;
use crate::store::error::CommitFailed;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::oneshot;

/// A record and whether its log line has been written.
pub(super) struct Line {
    pub(super) record: Record,
    is_written: AtomicBool,
}

impl Line {
    fn new(record: Record) -> Arc<Self> {
        Arc::new(Self { record, is_written: AtomicBool::new(false) })
    }

    /// Once, whoever asks.
    fn write(&self) {
        if self.is_written.swap(true, Ordering::AcqRel) {
            return;
        }
        match serde_json::to_string(&self.record) {
            Ok(record) => tracing::error!(record, "the record could not be stored: this line is what there is of it"),
            Err(error) => tracing::error!(id = %self.record.id, %error, "the record could not be stored, nor written here"),
        }
    }
}

/// One record on its way. Dropped before it is answered, it becomes its log line.
pub(in crate::store) struct Pending {
    pub(super) line: Arc<Line>,
    pub(super) handed_over: Instant,
    answer: Option<oneshot::Sender<Result<(), CommitFailed>>>,
}

impl Pending {
    pub(in crate::store) fn new(record: Record, handed_over: Instant) -> (Self, Commit) {
        let line = Line::new(record);
        let (answer, receiver) = oneshot::channel();
        let commit = Commit { answer: receiver, line: Arc::clone(&line) };
        (Self { line, handed_over, answer: Some(answer) }, commit)
    }

    pub(super) fn confirm(&mut self) {
        if let Some(answer) = self.answer.take() {
            // Nobody may be waiting any more: the client is gone.
            answer.send(Ok(())).unwrap_or(());
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.line.write();
            answer.send(Err(CommitFailed)).unwrap_or(());
        }
    }
}

/// What `Store::commit` answers with: done when the record is durable, or when its log line is written.
pub struct Commit {
    answer: oneshot::Receiver<Result<(), CommitFailed>>,
    line: Arc<Line>,
}

impl Commit {
    /// Waits no longer: the record's log line is written now, unless it has been. It may come into the store later.
    pub fn give_up(self) {
        self.line.write();
    }

    /// For a thread that may block.
    ///
    /// # Errors
    /// As the future's; the outer one does not happen.
    pub fn blocking_recv(self) -> Result<Result<(), CommitFailed>, oneshot::error::RecvError> {
        self.answer.blocking_recv()
    }
}

impl Future for Commit {
    type Output = Result<(), CommitFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(CommitFailed)))
    }
}
