//! The writer: the one thread that appends to the journal. Records are committed many per write; with the write they are durable, get
//! their commit numbers and are to be seen. What is full it hands on to the keeper, and takes an empty journal in its place.
//!
//! A record's `store_us` cannot hold the time of its own write: it is the time from `Store::commit` to the write plus the time that the
//! write before took. The same is added to `processing_time_us`.
//!
//! While nothing can be recorded the writer tries again with longer and longer waits, and mail flows again by itself. Logs an error when
//! that begins and a warning when it ends.

use super::commit::Pending;
use super::frame;
use super::queue::Message;
use super::segment::Journal;
use crate::record::Record;
use crate::store::disk::Lock;
use crate::store::encoding;
use crate::store::error::Fault;
use crate::store::file::StoreFile;
use crate::store::folder::Files;
use crate::store::index::Property;
use crate::store::machine::{Machine, receive, receive_unparked};
use crate::store::memory::{Batch, Entry};
use crate::store::shared::{Shared, microseconds};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records in one commit.
const BATCH: usize = 512;
/// Where so many wait, more are about to come: a moment later they share the write. Beyond these it is not worth the moment.
const SIBLINGS: std::ops::Range<usize> = 4..64;
const DELAY: Duration = Duration::from_micros(150);
/// Between looks at the disk.
const TICK: Duration = Duration::from_secs(1);
/// So many journals may be there: while the keeper is held up, the writer makes new ones.
const JOURNALS_MOST: u32 = 8;
/// Then a batch waits for one that is free.
const FREE_PATIENCE: Duration = Duration::from_secs(5);
/// Below this much free space nothing is taken, since no file could be made of it; twice as much ends that.
const LOW_OCTETS: u64 = 4 << 20;
const LOW: &str = "less than 4 MiB are free in the store's file system";
/// Between two tries to use the store again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// What the keeper is to make a file of.
pub(in crate::store) struct Sealed {
    pub(in crate::store) batch: Arc<Batch>,
    /// That hold it: free when the file is durable.
    pub(in crate::store) journals: Vec<Journal>,
}

/// Why nothing can be recorded at present.
struct Trouble {
    retry_at: Instant,
    wait: Duration,
    is_lost: bool,
}

pub(in crate::store) struct Writer {
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    keeper: Sender<Sealed>,
    free: Receiver<Journal>,
    lock: Option<Lock>,
    lock_identity: Option<(u64, u64)>,
    journal: Option<Journal>,
    /// The last number that is durable, and the next one to be given.
    durable: u64,
    next: u64,
    frame: Vec<u8>,
    trouble: Option<Trouble>,
    last_commit: Duration,
    next_tick: Instant,
}

impl Writer {
    pub(in crate::store) fn new(
        shared: Arc<Shared>,
        messages: Receiver<Message>,
        keeper: Sender<Sealed>,
        free: Receiver<Journal>,
        lock: Lock,
        durable: u64,
    ) -> Self {
        let (lock_identity, next_tick) = (place(&shared.files), shared.now());
        Self {
            lock_identity,
            shared,
            messages,
            keeper,
            free,
            lock: Some(lock),
            journal: None,
            durable,
            next: durable.saturating_add(1),
            frame: Vec::new(),
            trouble: None,
            last_commit: Duration::ZERO,
            next_tick,
        }
    }

    pub(in crate::store) fn run(mut self) {
        if let Err(fault) = self.next_journal(0) {
            self.degrade(&fault);
        }
        loop {
            let mut next = match receive_unparked(self.disk(), &self.messages, self.idle_until()) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // A disk that hangs is noticed wherever it holds the writer up.
            self.shared.set_waiting(Some(self.shared.now()));
            while let Some(message) = next.take() {
                match message {
                    Message::Record(first) => next = self.gather(first),
                    Message::Seal(done) => self.answer_seal(&done),
                    Message::Close => return,
                }
            }
            self.chores();
            self.shared.set_waiting(None);
        }
    }

    fn disk(&self) -> &dyn Machine {
        &*self.shared.files.disk
    }

    fn idle_until(&self) -> Instant {
        self.trouble.as_ref().map_or(self.next_tick, |trouble| trouble.retry_at.min(self.next_tick))
    }

    fn gather(&mut self, first: Pending) -> Option<Message> {
        let mut batch = vec![first];
        let mut next = self.take_more(&mut batch);
        if SIBLINGS.contains(&batch.len()) && next.is_none() {
            self.disk().pause(DELAY);
            next = self.take_more(&mut batch);
        }
        self.shared.set_waiting(batch.first().map(|oldest| oldest.handed_over));
        self.commit(batch);
        next
    }

    /// The records that stand in line; ends at other work, which comes behind them.
    fn take_more(&self, batch: &mut Vec<Pending>) -> Option<Message> {
        while batch.len() < BATCH {
            match self.messages.try_recv() {
                Ok(Message::Record(next)) => batch.push(next),
                Ok(other) => return Some(other),
                Err(_) => break,
            }
        }
        None
    }

    /// What is left of the batch where it returns early becomes log lines.
    fn commit(&mut self, mut batch: Vec<Pending>) {
        if self.trouble.is_none() && !self.is_in_place() {
            self.degrade(&Fault::Lost);
        }
        let erasing = self.shared.erasing();
        while self.trouble.is_none() && !batch.is_empty() {
            let begun = self.shared.now();
            let (entries, erased) = self.encode(&batch, begun, &erasing);
            let rest = batch.split_off(entries.len());
            let part = std::mem::replace(&mut batch, rest);
            match self.append(&entries) {
                Ok(()) => {
                    self.last_commit = self.shared.now().saturating_duration_since(begun);
                    self.show(entries, part, &erased);
                }
                Err(fault) => {
                    tracing::error!(reason = %fault, records = part.len(), "a write to the journal failed");
                    drop(part);
                    if self.journal.is_none() {
                        self.degrade(&fault);
                    }
                }
            }
        }
    }

    /// The first records of a batch, as many as one frame should hold; and those of them that are others now.
    fn encode(&self, batch: &[Pending], now: Instant, erasing: &[crate::store::redact::Address]) -> (Vec<Entry>, Vec<Option<Record>>) {
        let most = self.shared.journal_length() / 2;
        let mut octets = 0;
        let (mut entries, mut erased) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (pending, commit) in batch.iter().zip(self.next..) {
            let mut record = None;
            for address in erasing {
                if address.is_named_by(record.as_ref().unwrap_or(&pending.line.record)) {
                    address.erase(record.get_or_insert_with(|| pending.line.record.clone()));
                }
            }
            let waited = now.saturating_duration_since(pending.handed_over) + self.last_commit;
            let mut out = Vec::with_capacity(512);
            encoding::encode_into(&mut out, record.as_ref().unwrap_or(&pending.line.record), microseconds(waited));
            octets += out.len();
            if octets > most && !entries.is_empty() {
                break;
            }
            entries.push(Entry { id: pending.line.record.id.0, commit, octets: out.into() });
            erased.push(record);
        }
        (entries, erased)
    }

    /// The entries are durable when this returns `Ok`; the numbers of those that are not are not given again.
    fn append(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        frame::put(&mut self.frame, self.durable, self.shared.ids.newest(), entries);
        if !self.journal.as_ref().is_some_and(|journal| journal.fits(&self.frame)) {
            self.next_journal(self.frame.len())?;
        }
        let journal = self.journal.as_mut().ok_or_else(|| Fault::Io("no journal".to_owned()))?;
        self.next = self.next.saturating_add(entries.len() as u64);
        if let Err(fault) = journal.append(&self.frame) {
            self.shared.undelivered().skip(self.next.saturating_sub(1));
            // What it has confirmed counts. It is never written again, and the next record goes to another one.
            self.next_journal(0).unwrap_or(());
            return Err(fault);
        }
        self.durable = self.next.saturating_sub(1);
        Ok(())
    }

    /// From here on readers see the records, and then their senders hear of it.
    fn show(&mut self, entries: Vec<Entry>, mut batch: Vec<Pending>, erased: &[Option<Record>]) {
        let shared = Arc::clone(&self.shared);
        let key = &shared.index_key;
        let has_followers = shared.live.receiver_count() > 0;
        let mut followed = Vec::new();
        {
            let mut view = shared.view_mut();
            view.filling.since.get_or_insert(shared.now());
            let mut undelivered = shared.undelivered();
            for ((entry, pending), erased) in entries.into_iter().zip(&batch).zip(erased) {
                let record = erased.as_ref().unwrap_or(&pending.line.record);
                if has_followers {
                    followed.extend(encoding::decode(entry.id, &entry.octets));
                }
                let message = key.hash(Property::Webhook, &record.webhook_id);
                undelivered.see(entry.commit, record, message, || view.settled(message));
                view.filling.take(entry, record, key);
            }
            shared.stats.store.records.set(view.records());
            shared.stats.messages.undelivered.set(undelivered.len() as u64);
        }
        shared.stats.store.commits.add(1);
        for pending in &mut batch {
            pending.confirm();
        }
        for record in followed {
            // Fails when every receiver has gone meanwhile.
            drop(shared.live.send(Arc::new(record)));
        }
    }

    /// Hands on what there is and takes an empty journal that has room for a frame.
    fn next_journal(&mut self, frame: usize) -> Result<(), Fault> {
        self.seal();
        let wanted = self.shared.journal_length().max(frame);
        let fits = |journal: &Journal| !journal.failed && journal.length() >= frame && journal.is_there(&self.shared.files);
        // One that nothing was written to is as good as another.
        self.journal = self.journal.take().and_then(|journal| if fits(&journal) { Some(journal) } else { self.hand_back(journal) });
        if self.journal.is_some() {
            return Ok(());
        }
        // As many as there are now: what is handed back may come again.
        for journal in self.free.try_iter().take(self.free.len()) {
            if fits(&journal) {
                self.journal = Some(journal);
                return Ok(());
            }
            self.hand_back(journal);
        }
        let journal = if self.shared.journals.load(Ordering::Acquire) < JOURNALS_MOST {
            self.make_journal(wanted)?
        } else {
            // The keeper is behind.
            let waited = receive(self.disk(), &self.free, self.shared.now() + FREE_PATIENCE).ok();
            let waited = waited.and_then(|journal| if fits(&journal) { Some(journal) } else { self.hand_back(journal) });
            waited.ok_or_else(|| Fault::Full("the journals are full: the disk is too slow, or takes no files".to_owned()))?
        };
        self.journal = Some(journal);
        Ok(())
    }

    /// To the keeper, as it is: one that nothing was written to, or that is of no use here.
    fn hand_back(&self, journal: Journal) -> Option<Journal> {
        self.keeper.send(Sealed { batch: Arc::new(Batch::new(self.durable)), journals: vec![journal] }).unwrap_or(());
        None
    }

    fn make_journal(&self, length: usize) -> Result<Journal, Fault> {
        let slot = self.shared.next_slot.fetch_add(1, Ordering::AcqRel);
        let journal = Journal::make(&self.shared.files, slot, length)?;
        self.shared.journals.fetch_add(1, Ordering::AcqRel);
        Ok(journal)
    }

    fn seal(&mut self) {
        let mut journal = self.journal.take();
        if let Some(unused) = journal.take_if(|journal| !journal.is_used()) {
            self.journal = Some(unused);
        }
        let batch = {
            let mut view = self.shared.view_mut();
            if view.filling.is_empty() && journal.is_none() {
                return;
            }
            let after = view.filling.through.max(self.durable);
            let mut batch = std::mem::replace(&mut view.filling, Batch::new(after));
            batch.newest_id = batch.newest_id.max(self.shared.ids.newest());
            let batch = Arc::new(batch);
            if !batch.is_empty() {
                view.sealed.push(Arc::clone(&batch));
            }
            batch
        };
        // The keeper ends behind the writer; else the journals hold it for the next start.
        self.keeper.send(Sealed { batch, journals: journal.into_iter().collect() }).unwrap_or(());
    }

    fn answer_seal(&mut self, done: &Sender<Result<(), Fault>>) {
        let sealed = match (&self.trouble, self.shared.trouble()) {
            (Some(_), Some(why)) => Err(Fault::Io(why)),
            _ => self.next_journal(0),
        };
        if let Err(fault) = &sealed
            && self.trouble.is_none()
        {
            self.degrade(fault);
        }
        done.send(sealed).unwrap_or(());
    }

    fn chores(&mut self) {
        let now = self.shared.now();
        let is_tick = now >= self.next_tick;
        if is_tick {
            self.next_tick = now + TICK;
        }
        let looked = self.seal_what_is_due(now, is_tick);
        if let Some(trouble) = self.trouble.take_if(|trouble| now >= trouble.retry_at) {
            return self.recover(&trouble);
        }
        let looked = looked.and_then(|()| if is_tick { self.look() } else { Ok(()) });
        if let Err(fault) = looked
            && self.trouble.is_none()
        {
            self.degrade(&fault);
        }
    }

    fn seal_what_is_due(&mut self, now: Instant, is_tick: bool) -> Result<(), Fault> {
        let is_sound = self.journal.as_ref().is_some_and(|journal| !journal.failed);
        let is_due = {
            let view = self.shared.view();
            let (batch, tuning) = (&view.filling, &self.shared.tuning);
            let expired = || batch.oldest_us < self.shared.cutoff_us();
            let age = batch.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            !batch.is_empty() && (batch.records.len() >= tuning.batch || age >= tuning.seal_after || (is_tick && expired()))
        };
        let length = self.shared.journal_length();
        let another = is_tick && self.journal.as_ref().is_some_and(|journal| journal.length() > length);
        if is_sound && another && self.journal.as_ref().is_some_and(|journal| !journal.is_used()) {
            // Not worth a file of its own: the keeper takes it as it is.
            self.journal = self.journal.take().and_then(|journal| self.hand_back(journal));
        }
        if is_sound && (is_due || another) { self.next_journal(0) } else { Ok(()) }
    }

    /// Whether everything is where it was, and can be written.
    fn look(&self) -> Result<(), Fault> {
        let files = &self.shared.files;
        if !self.is_in_place() || self.journal.as_ref().is_some_and(|journal| !journal.is_there(files)) {
            return Err(Fault::Lost);
        }
        if let Some(journal) = &self.journal {
            files.disk.can_write(journal.path())?;
        }
        self.room(LOW_OCTETS)
    }

    fn room(&self, least: u64) -> Result<(), Fault> {
        let files = &self.shared.files;
        if files.disk.free_space(files.directory())? >= least { Ok(()) } else { Err(Fault::Full(LOW.to_owned())) }
    }

    fn is_in_place(&self) -> bool {
        let files = &self.shared.files;
        self.lock_identity.is_some_and(|identity| files.has(&files.beside(".lock"), identity))
    }

    fn degrade(&mut self, fault: &Fault) {
        self.shared.set_trouble(Some(fault.to_string()));
        tracing::error!(store = %self.shared.files.path.display(), reason = %fault, "the store cannot be used: mail is answered 452 until it can");
        let is_lost = matches!(fault, Fault::Lost);
        self.trouble = Some(Trouble { retry_at: self.shared.now() + RETRY_FIRST, wait: RETRY_FIRST, is_lost });
    }

    fn recover(&mut self, trouble: &Trouble) {
        let found = if trouble.is_lost { self.find_place() } else { Ok(()) };
        let recovered = found.and_then(|()| self.room(2 * LOW_OCTETS)).and_then(|()| {
            if self.journal.as_ref().is_none_or(|journal| journal.failed) {
                self.next_journal(0)?;
            }
            let Some(journal) = &mut self.journal else { return Ok(()) };
            self.shared.files.disk.can_write(journal.path())?;
            journal.probe()
        });
        match recovered {
            Ok(()) => {
                self.shared.set_trouble(None);
                tracing::warn!(store = %self.shared.files.path.display(), "the store can be used again");
            }
            Err(fault) => {
                let wait = (trouble.wait * 2).min(RETRY_MOST);
                self.shared.set_trouble(Some(fault.to_string()));
                self.trouble = Some(Trouble { retry_at: self.shared.now() + wait, wait, is_lost: trouble.is_lost });
            }
        }
    }

    /// Where the directory or the lock was taken away: makes what is missing anew. What is in memory finds its place in new files.
    fn find_place(&mut self) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let files = &shared.files;
        self.lock = None;
        self.lock = Some(files.lock()?);
        self.lock_identity = place(files);
        files.keep_secret(".id-secret", &shared.id_secret)?;
        files.keep_secret(".index-key", &shared.index_key.0)?;
        // Journals that lie elsewhere now: nothing is written to them any more.
        let lost = self.free.try_iter().count();
        shared.journals.fetch_sub(u32::try_from(lost).unwrap_or(0), Ordering::AcqRel);
        if let Some(journal) = &mut self.journal {
            journal.failed = true;
        }
        for file in shared.view().files.clone() {
            let path = files.of(file.span());
            if files.has(&path, file.identity) {
                continue;
            }
            // What an erasure that was cut off has put in its place counts.
            let other = StoreFile::open(files, file.span()).ok().map(Arc::new);
            let is_gone = files.disk.stat(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            let mut view = shared.view_mut();
            view.files.retain(|there| !is_gone || !Arc::ptr_eq(there, &file));
            if let Some((place, other)) = view.files.iter_mut().find(|there| Arc::ptr_eq(there, &file)).zip(other) {
                *place = other;
            }
        }
        Ok(())
    }
}

/// The lock's file as it stands now: it goes with its directory.
fn place(files: &Files) -> Option<(u64, u64)> {
    files.disk.stat(&files.beside(".lock")).ok().map(|stat| stat.identity)
}
