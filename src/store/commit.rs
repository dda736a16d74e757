//! The writer: the one thread that changes the store. Records are committed many per fsync; retention, erasing and the swap to a
//! rewritten file are done by it too, in slices between batches, so that mail never waits for more than one slice.
//!
//! A batch is appended to the journal, and with that it is durable; redb gets what the journal has, many batches in one transaction,
//! when it is much, when no record came for a moment, and before any other work. A batch that does not fit goes to redb at once.
//!
//! A record's `store_us` cannot hold the time of its own fsync, since it is written before: it is the time from `Store::commit`
//! to the transaction plus the time that the commit before took. The same is added to `processing_time_us`.
//!
//! Logs what is not stored: a record that is dropped unanswered is one error line with the whole record, redacted as configured, in the field
//! `record` (promise 3).

use super::disk::{FileStat, Lock};
use super::error::{CommitFailed, Fault, guarded};
use super::journal::Journal;
use super::redact::Address;
use super::schema::{Change, JOURNAL, State};
use super::shared::Shared;
use super::tables::Tables;
use super::trouble::Trouble;
use crate::record::Record;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use redb::Database;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Records in one commit.
const BATCH: usize = 512;
/// Where so many wait, more are about to come: a moment later they share the fsync. Beyond these it is not worth the moment.
const SIBLINGS: std::ops::Range<usize> = 4..64;
const DELAY: Duration = Duration::from_micros(150);
/// Records that redb gets in one transaction, and that a start after a kill may have to bring in: more of them cost less each, and hold up
/// those that come meanwhile.
const BEHIND_MOST: usize = 256;
/// They are no more than this part of `max_size`, so that retention keeps up with them.
const PART: u64 = 64;
/// Between looks at the disk and at what has expired.
const TICK: Duration = Duration::from_secs(1);

/// No step moves it.
type Boxed = Box<Pending>;

/// A record and whether its log line has been written.
struct Line {
    record: Record,
    is_written: AtomicBool,
}

impl Line {
    /// Once, whoever asks.
    fn write(&self) {
        if !self.is_written.swap(true, Ordering::AcqRel) {
            log_record(&self.record);
        }
    }
}

/// One record on its way. Dropped before it is answered, it becomes its log line.
pub(super) struct Pending {
    pub(super) record: Record,
    handed_over: Instant,
    line: Arc<Line>,
    answer: Option<oneshot::Sender<Result<(), CommitFailed>>>,
}

impl Pending {
    pub(super) fn new(record: Record) -> (Box<Self>, Commit) {
        // A copy: the writer completes its own, and who waits must be able to tell of the record without it.
        let line = Arc::new(Line { record: record.clone(), is_written: AtomicBool::new(false) });
        let (answer, receiver) = oneshot::channel();
        let commit = Commit { answer: receiver, line: Arc::clone(&line) };
        (Box::new(Self { record, handed_over: Instant::now(), line, answer: Some(answer) }), commit)
    }

    fn confirm(&mut self) {
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

/// What the writer is asked to do. Boxed, as its queue has its places made at the start.
pub(super) enum Message {
    Record(Boxed),
    Work(Box<Work>),
}

pub(super) enum Work {
    /// Erases addresses from records; answers how many of the records changed. Damaged records are removed: nobody can tell
    /// what they name.
    Erase { ids: Vec<u128>, addresses: Vec<Address>, done: Sender<Result<u64, Fault>> },
    /// From now on keeps what changes, for the rewrite.
    Watch { done: Sender<Result<(), Fault>> },
    /// Takes the rewritten file in place of the present one, and answers with that: closing it frees all its blocks, which takes long.
    Swap { database: Database, done: Sender<Result<Option<Database>, Fault>> },
    /// Brings what the journal has into redb; called when that is done or has failed.
    Settle { done: Box<dyn FnOnce() + Send> },
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    messages: Receiver<Message>,
    pub(super) lock: Option<Lock>,
    pub(super) lock_identity: Option<(u64, u64)>,
    pub(super) stat: FileStat,
    pub(super) state: State,
    pub(super) journal: Journal,
    /// Records that the journal has and redb has not.
    pub(super) behind: Vec<Boxed>,
    settle_at: Instant,
    pub(super) trouble: Option<Trouble>,
    pub(super) damages: u32,
    pub(super) last_damage: Instant,
    last_commit: Duration,
    records_in_redb: u64,
    pub(super) last_batch: usize,
    last_change: Instant,
    next_tick: Instant,
    /// Something was removed since the rewrite that is under way began.
    pub(super) removed: bool,
    /// Where a pass over the expired records goes on.
    pub(super) pass: Option<u128>,
    /// When it began, until it has found something to remove.
    pub(super) in_vain_since: Option<Instant>,
    /// No other pass before this.
    pub(super) rest_until: Instant,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        messages: Receiver<Message>,
        lock: Lock,
        stat: FileStat,
        state: State,
        journal: Journal,
    ) -> Self {
        let records_in_redb = shared.stats.store.records.get();
        let lock_identity = shared.files.disk.stat(&shared.files.beside(".lock")).ok().map(|stat| stat.identity);
        Self {
            shared,
            messages,
            lock: Some(lock),
            lock_identity,
            stat,
            state,
            journal,
            behind: Vec::new(),
            settle_at: Instant::now(),
            trouble: None,
            damages: 0,
            last_damage: Instant::now(),
            last_commit: Duration::ZERO,
            records_in_redb,
            last_batch: 0,
            last_change: Instant::now(),
            next_tick: Instant::now(),
            removed: false,
            pass: None,
            in_vain_since: None,
            rest_until: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let message = self.messages.recv_timeout(self.idle());
            self.shared.set_busy(true);
            match message {
                Ok(Message::Record(first)) => self.gather(first),
                Ok(Message::Work(work)) => self.work(*work),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.chores();
            self.shared.set_busy(false);
        }
        // Left in the journal it is not lost: the next start brings it in.
        self.unless_in_trouble(|writer| writer.journal.wipe()).unwrap_or(());
        // Closes the file properly, so that the next start has nothing to check.
        *self.shared.database_mut() = None;
    }

    fn idle(&self) -> Duration {
        match &self.trouble {
            Some(trouble) => trouble.retry_at.saturating_duration_since(Instant::now()),
            None if self.pass.is_some() => Duration::ZERO,
            None if self.behind.is_empty() => self.next_tick.saturating_duration_since(Instant::now()),
            None => self.next_tick.min(self.settle_at).saturating_duration_since(Instant::now()),
        }
    }

    fn gather(&mut self, first: Boxed) {
        let mut batch = vec![first];
        let mut work = self.take_more(&mut batch);
        if SIBLINGS.contains(&batch.len()) && work.is_none() {
            #[expect(clippy::disallowed_methods, reason = "a pause in which others come, not a wait for one")]
            std::thread::sleep(DELAY);
            work = self.take_more(&mut batch);
        }
        self.commit(batch);
        if let Some(work) = work {
            self.work(*work);
        }
    }

    /// The records that stand in line; ends at other work, which comes behind them.
    fn take_more(&self, batch: &mut Vec<Boxed>) -> Option<Box<Work>> {
        while batch.len() < BATCH {
            match self.messages.try_recv() {
                Ok(Message::Record(next)) => batch.push(next),
                Ok(Message::Work(work)) => return Some(work),
                Err(_) => break,
            }
        }
        None
    }

    fn commit(&mut self, mut batch: Vec<Boxed>) {
        if self.trouble.is_none()
            && let Err(fault) = self.look_at_file()
        {
            self.degrade(&fault);
        }
        if self.trouble.is_some() {
            return;
        }
        let begun = Instant::now();
        let erasing = self.shared.erasing();
        for pending in &mut batch {
            let Pending { record, handed_over, .. } = &mut **pending;
            let waited = microseconds(begun.saturating_duration_since(*handed_over) + self.last_commit);
            record.store_us = record.store_us.saturating_add(waited);
            record.processing_time_us = record.processing_time_us.saturating_add(waited);
            for address in &erasing {
                address.erase(record);
            }
        }
        match self.make_durable(&batch) {
            Ok(in_redb) => {
                self.last_commit = begun.elapsed();
                self.shared.stats.store.commits.add(1);
                for pending in &mut batch {
                    pending.confirm();
                    self.shared.show(&pending.record);
                }
                if !in_redb {
                    self.behind.append(&mut batch);
                }
                self.settle_at = Instant::now() + self.shared.tuning.settle_after;
            }
            Err(fault) => {
                drop(batch);
                self.degrade(&fault);
            }
        }
    }

    /// Whether redb has them already.
    fn make_durable(&mut self, batch: &[Boxed]) -> Result<bool, Fault> {
        let records = batch.iter().map(|pending| &pending.record);
        let few = self.behind.len() + batch.len() <= BEHIND_MOST && self.journal.written() <= self.shared.settings.load().max_size / PART;
        if few && self.journal.append(records, self.shared.ids.newest())? {
            // Said before the answers: who has one and asks for the record waits for redb.
            self.shared.behind.store(true, Ordering::Release);
            self.shared.stats.store.records.set(self.records_in_redb + (self.behind.len() + batch.len()) as u64);
            return Ok(false);
        }
        // What the journal has has its place already; redb may need more.
        self.room()?;
        self.settle_with(batch)?;
        Ok(true)
    }

    /// Brings what the journal has into redb.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        if self.behind.is_empty() { Ok(()) } else { self.settle_with(&[]) }
    }

    fn settle_with(&mut self, more: &[Boxed]) -> Result<(), Fault> {
        let mut behind = std::mem::take(&mut self.behind);
        let next = self.journal.epoch().saturating_add(1);
        let settled = self.write(|tables| {
            tables.insert(behind.iter().chain(more).map(|pending| &pending.record))?;
            Ok(tables.set_meta(JOURNAL, &next.to_le_bytes())?)
        });
        if let Err(fault) = settled {
            self.behind = behind;
            return Err(fault);
        }
        self.last_batch = behind.len() + more.len();
        behind.clear();
        self.behind = behind;
        self.journal.restart();
        self.shared.behind.store(false, Ordering::Release);
        Ok(())
    }

    /// One transaction, durable when this returns `Ok`.
    pub(super) fn write<T>(&mut self, work: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.shared.checkpointed.store(false, Ordering::Release);
        let result = self.transaction(false, work)?;
        self.last_change = Instant::now();
        Ok(result)
    }

    /// Leaves the file as one that opens at once, when nothing has changed for a while. It costs two fsyncs, so not with every commit.
    fn checkpoint(&mut self) -> Result<(), Fault> {
        if self.shared.checkpointed.load(Ordering::Acquire) || self.last_change.elapsed() < self.shared.tuning.checkpoint_after {
            return Ok(());
        }
        self.transaction(true, |_| Ok(()))?;
        self.shared.checkpointed.store(true, Ordering::Release);
        Ok(())
    }

    fn transaction<T>(&mut self, is_checkpoint: bool, work: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let shared = Arc::clone(&self.shared);
        let state = State { newest_id: shared.ids.newest().max(self.state.newest_id), ..self.state };
        let (result, outcomes, records, undelivered) = guarded(|| {
            let database = shared.database();
            let database = database.as_ref().ok_or(Fault::Closing)?;
            let tail = shared.tail();
            let mut txn = database.begin_write().map_err(redb::Error::from)?;
            txn.set_quick_repair(is_checkpoint);
            let mut tables = Tables::open(&txn, shared.index_key, &tail, state)?;
            tables.watched = shared.is_watched();
            tables.advance(shared.tuning.segment)?;
            let result = work(&mut tables)?;
            let (records, undelivered) = (tables.records()?, tables.undelivered()?);
            let outcomes = tables.finish()?;
            txn.commit().map_err(redb::Error::from)?;
            Ok((result, outcomes, records, undelivered))
        })?;
        self.state = outcomes.state;
        self.shared.set_state(outcomes.state);
        self.shared.tail_mut().apply(&outcomes.tail_changes);
        self.shared.note(&outcomes.changes);
        self.count(records, undelivered);
        Ok(result)
    }

    pub(super) fn count(&mut self, records: u64, undelivered: u64) {
        self.records_in_redb = records;
        let stats = &self.shared.stats;
        stats.store.records.set(records + self.behind.len() as u64);
        stats.messages.undelivered.set(undelivered);
        stats.store.file_bytes.set(self.stat.length);
    }

    fn work(&mut self, work: Work) {
        match work {
            Work::Erase { ids, addresses, done } => answer(&done, self.unless_in_trouble(|writer| writer.erase(&ids, &addresses))),
            Work::Watch { done } => answer(
                &done,
                self.unless_in_trouble(|writer| {
                    writer.shared.watch();
                    writer.removed = false;
                    Ok(())
                }),
            ),
            Work::Settle { done } => {
                self.unless_in_trouble(|_| Ok(())).unwrap_or(());
                done();
            }
            Work::Swap { database, done } => answer(&done, self.unless_in_trouble(|writer| writer.swap(database))),
        }
    }

    fn unless_in_trouble<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.trouble.is_some() {
            return Err(Fault::Io(self.shared.trouble()));
        }
        let result = self.settle().and_then(|()| work(self));
        if let Err(fault @ (Fault::Full(_) | Fault::Damaged(_) | Fault::Io(_) | Fault::Disk(_) | Fault::Lost)) = &result {
            self.degrade(fault);
        }
        result
    }

    fn erase(&mut self, ids: &[u128], addresses: &[Address]) -> Result<u64, Fault> {
        self.write(|tables| {
            let mut changed = 0;
            for id in ids {
                match tables.record(*id)? {
                    None => {}
                    Some(Err(_)) => {
                        tracing::error!(record = %crate::record::RecordId(*id), "a damaged record was removed: what it names cannot be told");
                        tables.remove(*id)?;
                    }
                    Some(Ok(old)) => {
                        let mut new = old.clone();
                        // Every address has its turn: no short cut.
                        if addresses.iter().fold(false, |any, address| address.erase(&mut new) | any) {
                            tables.replace(&old, &new)?;
                            changed += 1;
                        }
                    }
                }
            }
            super::retention::note_stale(&mut tables.state);
            Ok(changed)
        })
    }

    fn chores(&mut self) {
        let now = Instant::now();
        if let Some(trouble) = &self.trouble {
            if now >= trouble.retry_at {
                self.recover();
            }
            return;
        }
        if !self.behind.is_empty()
            && now >= self.settle_at
            && let Err(fault) = self.settle()
        {
            return self.degrade(&fault);
        }
        if self.pass.is_none() && now < self.next_tick && !self.too_large() {
            return self.checkpoint().unwrap_or_else(|fault| self.degrade(&fault));
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            let looked = self.look_at_file().and_then(|()| self.look_at_journal()).and_then(|()| self.room());
            if let Err(fault) = looked {
                return self.degrade(&fault);
            }
            self.keep_ballast();
        }
        if let Err(fault) = self.expire().and_then(|()| self.checkpoint()) {
            self.degrade(&fault);
        }
    }
}

/// What promise 3 leaves of a record that is not durable.
fn log_record(record: &Record) {
    match serde_json::to_string(record) {
        Ok(record) => tracing::error!(record, "the record could not be stored: this line is what there is of it"),
        Err(error) => tracing::error!(id = %record.id, %error, "the record could not be stored, nor written here"),
    }
}

/// Asks the writer and waits for its answer.
pub(super) fn ask<T>(writer: &Sender<Message>, work: impl FnOnce(Sender<Result<T, Fault>>) -> Work) -> Result<T, Fault> {
    let (done, answer) = crossbeam_channel::bounded(1);
    writer.send(Message::Work(Box::new(work(done)))).map_err(|_| Fault::Closing)?;
    answer.recv().map_err(|_| Fault::Closing)?
}

fn answer<T>(done: &Sender<T>, result: T) {
    if done.send(result).is_err() {
        tracing::debug!("nobody waits for the store's answer any more");
    }
}

pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// For the rewrite: applied in the order of the transactions.
pub(super) type Changes = Vec<Change>;
