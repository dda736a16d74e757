//! The keeper: a thread that makes files of what the journal has, merges them, lets them go by age and by size, and erases; one after
//! the other, so that nothing races. Nobody waits for it but who asks it. Logs what it did and, as a warning, what it could not do.

mod forget;
mod merge;
mod work;

use super::error::{Fault, StoreError};
use super::file::StoreFile;
use super::folder::Span;
use super::journal::{Journal, Message, Queue, Sealed};
use super::machine::{self, Machine};
use super::redact::Address;
use super::shared::Shared;
use super::verify::look_through;
use crossbeam_channel::{Receiver, Sender, select};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use work::Work;

const DAY: Duration = Duration::from_secs(86_400);
const BALLAST_OCTETS: u64 = 8 << 20;
const LOOK_FAILED: &str = "the store's files could not be looked after";

pub(super) enum Errand {
    Forget {
        address: Address,
        done: Sender<Result<u64, StoreError>>,
    },
    /// Makes files of all that is in memory, and merges what is to be merged.
    Tidy {
        done: Sender<Result<(), StoreError>>,
    },
    /// Looks through files in which a reader met damage.
    Look,
    Close,
}

pub(super) struct Keeper {
    work: Work,
    sealed: Receiver<Sealed>,
    errands: Receiver<Errand>,
    writer: Queue,
    next_look: Instant,
    /// What was sealed cannot be built before.
    not_before: Instant,
    wait: Duration,
    next_report: Instant,
    /// When each file was looked through.
    looked_through: BTreeMap<Span, Instant>,
}

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        sealed: Receiver<Sealed>,
        (free, empty): (Sender<Journal>, Receiver<Journal>),
        errands: Receiver<Errand>,
        writer: Queue,
    ) -> Self {
        let now = shared.now();
        Self {
            work: Work::new(shared, sealed.clone(), free, empty),
            sealed,
            errands,
            writer,
            next_look: now,
            not_before: now,
            wait: RETRY_FIRST,
            next_report: now + DAY,
            looked_through: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let due = if self.work.sealed_wait() > 0 { self.not_before } else { self.next_look };
            // A look, not a receipt: `serve` takes it.
            let arrived = if self.sealed.is_empty() || self.now() < self.not_before {
                let until = due.min(self.next_look);
                self.work.shared.files.disk.await_turn(until, &|| !self.errands.is_empty() || !self.sealed.is_empty());
                select! {
                    recv(self.errands) -> errand => Some(errand.unwrap_or(Errand::Close)),
                    recv(self.sealed) -> sealed => {
                        match sealed {
                            Ok(sealed) => self.work.put(sealed),
                            // The writer has ended.
                            Err(_) => return,
                        }
                        None
                    }
                    default(until.saturating_duration_since(self.now())) => None,
                }
            } else {
                self.errands.try_recv().ok()
            };
            if self.work.shared.is_stopping() {
                return;
            }
            if self.now() >= self.not_before {
                self.serve();
            }
            if let Some(errand) = arrived
                && !self.together(errand)
            {
                return;
            }
            if self.now() >= self.next_look {
                self.next_look = self.now() + self.work.shared.tuning.housekeeping;
                self.keep_house();
            }
        }
    }

    fn now(&self) -> Instant {
        self.work.shared.now()
    }

    fn serve(&mut self) {
        if self.work.sealed_wait() > 0 && self.work.is_low() {
            self.give_up_ballast();
        }
        let before = self.work.files().len();
        match self.work.serve() {
            Ok(()) => {
                self.wait = RETRY_FIRST;
                if self.work.files().len() != before {
                    self.merge().unwrap_or_else(|fault| self.warn(&fault, "the store's files could not be merged"));
                    self.save().unwrap_or_else(|fault| self.warn(&fault, "what is undelivered could not be kept"));
                    self.count();
                }
            }
            Err(fault) => {
                self.warn(&fault, "no file could be made of the newest records: they stay in the journal");
                if matches!(fault, Fault::Full(_)) {
                    self.give_up_ballast();
                }
                self.not_before = self.now() + self.wait;
                self.wait = (self.wait * 2).min(RETRY_MOST);
            }
        }
    }

    fn warn(&self, fault: &Fault, what: &str) {
        if !matches!(fault, Fault::Closing) {
            tracing::warn!(reason = %fault, "{what}");
        }
    }

    fn merge(&mut self) -> Result<(), Fault> {
        loop {
            let settings = self.work.shared.settings.load();
            let bounds = merge::Bounds::new(settings.max_size, settings.retention);
            let files = self.work.files();
            let Some(run) = merge::choose(&files, bounds).and_then(|run| files.get(run)) else { return Ok(()) };
            let octets: u64 = run.iter().map(|file| file.octets).sum();
            self.work.make_room(octets)?;
            if !run.iter().all(|file| self.is_there(file)) {
                continue;
            }
            match self.work.rebuild(run, &[]) {
                Err(Fault::Damaged(what)) => {
                    self.find_damage(run)?;
                    // Not by reading them: then not now.
                    return if run.iter().all(|file| self.is_there(file)) { Err(Fault::Damaged(what)) } else { Ok(()) };
                }
                other => other?,
            }
        }
    }

    /// Looks through files, and makes those that are damaged anew.
    fn find_damage(&mut self, files: &[Arc<StoreFile>]) -> Result<(), Fault> {
        let shared = Arc::clone(&self.work.shared);
        for file in files {
            match file.looked_through(|| look_through(&*shared.files.disk, &shared.files.of(file.span()))) {
                Err(Fault::Damaged(what)) => self.work.give_up(file, &what)?,
                other => other?,
            }
            self.looked_through.insert(file.span(), self.now());
        }
        Ok(())
    }

    /// The copy of what is undelivered.
    fn save(&self) -> Result<(), Fault> {
        let shared = &self.work.shared;
        {
            let oldest = shared.view().oldest();
            let mut changes = shared.changes();
            if let Some(changes) = changes.as_mut() {
                changes.expire(oldest);
                changes.save(&shared.files)?;
            }
        }
        shared.resolve_doubts()?;
        shared.keep_undelivered()
    }

    fn count(&self) {
        self.work.shared.count();
        self.work.shared.stats.store.file_bytes.set(self.work.usage());
    }

    /// All that stand in line share one search. False at the end.
    fn together(&mut self, first: Errand) -> bool {
        let (mut addresses, mut waiting, mut tidied) = (Vec::new(), Vec::new(), Vec::new());
        let line: Vec<_> = std::iter::once(first).chain(self.errands.try_iter()).collect();
        for errand in line {
            match errand {
                Errand::Forget { address, done } => {
                    addresses.push(address);
                    waiting.push(done);
                }
                Errand::Tidy { done } => tidied.push(done),
                Errand::Look => self.look_through().unwrap_or_else(|fault| self.warn(&fault, LOOK_FAILED)),
                Errand::Close => return false,
            }
        }
        let shared = Arc::clone(&self.work.shared);
        if !tidied.is_empty() {
            let sealed = seal(&*shared.files.disk, &self.writer);
            let result = sealed.and_then(|()| self.work.serve()).and_then(|()| self.merge()).and_then(|()| self.save());
            self.count();
            for done in tidied {
                done.send(result.as_ref().copied().map_err(StoreError::from)).unwrap_or(());
            }
        }
        if !addresses.is_empty() {
            let result = forget::forget(&mut self.work, &addresses, || seal(&*shared.files.disk, &self.writer));
            self.count();
            let result = result.inspect_err(|fault| tracing::warn!(error = %StoreError::from(fault), "erasing from the store failed"));
            for (number, done) in waiting.into_iter().enumerate() {
                let answer = result.as_ref().map(|counts| counts.get(number).copied().unwrap_or(0));
                done.send(answer.map_err(StoreError::from)).unwrap_or(());
            }
        }
        true
    }

    fn keep_house(&mut self) {
        let kept = [
            self.work.sweep(),
            self.work.lay_in_journals(),
            self.expire(),
            self.look_through(),
            self.work.make_room(0),
            self.save(),
            self.remove_set_aside(),
        ];
        for fault in kept.into_iter().filter_map(Result::err) {
            self.warn(&fault, LOOK_FAILED);
        }
        self.keep_ballast();
        self.count();
        self.report();
    }

    /// Files whose last record has expired go; one behind which others remain leaves an empty one, so that no number is missing.
    fn expire(&mut self) -> Result<(), Fault> {
        let cutoff_us = self.work.shared.cutoff_us();
        let is_due = |file: &StoreFile| file.summary.newest_us < cutoff_us;
        while let [oldest, _, ..] = self.work.files().as_slice()
            && is_due(oldest)
        {
            self.work.expired += self.work.drop_oldest()?;
        }
        for file in self.work.files() {
            if file.summary.records > 0 && is_due(&file) {
                self.work.empty(&file)?;
                self.work.expired += file.summary.records;
            }
        }
        self.work.shared.undelivered().expire(cutoff_us);
        Ok(())
    }

    fn is_there(&self, file: &Arc<StoreFile>) -> bool {
        self.work.files().iter().any(|there| Arc::ptr_eq(there, file))
    }

    /// Files in which a reader met damage; and each file once a day, so that damage is found before somebody asks for what it hit.
    fn look_through(&mut self) -> Result<(), Fault> {
        let files = self.work.files();
        self.looked_through.retain(|span, _| files.iter().any(|file| file.span() == *span));
        let now = self.now();
        let is_old =
            |file: &&Arc<StoreFile>| self.looked_through.get(&file.span()).is_none_or(|at| now.saturating_duration_since(*at) > DAY);
        let mut due: Vec<_> = files.iter().filter(|file| file.is_suspected()).cloned().collect();
        let has_begun = now.saturating_duration_since(self.work.shared.began) > self.work.shared.tuning.housekeeping;
        if due.is_empty() && has_begun && self.work.sealed_wait() == 0 {
            due.extend(files.iter().find(is_old).cloned());
        }
        self.find_damage(&due)
    }

    fn remove_set_aside(&self) -> Result<(), Fault> {
        let cutoff_us = self.work.shared.cutoff_us();
        self.work.remove_set_aside(|modified| {
            let age = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(age.as_micros()).unwrap_or(i64::MAX) < cutoff_us
        })
    }

    /// So that a file of the last records finds its place.
    fn give_up_ballast(&self) {
        let files = &self.work.shared.files;
        if files.disk.remove(&files.ballast()).is_ok() {
            tracing::warn!(
                file = %files.ballast().display(),
                "the store's disk is full: its ballast was given up to make a file of the last records"
            );
        }
    }

    /// Puts the ballast back when there is plenty of space.
    fn keep_ballast(&self) {
        let files = &self.work.shared.files;
        let missing = files.disk.stat(&files.ballast()).is_err();
        let free = files.disk.free_space(files.directory()).unwrap_or(0);
        if missing && free >= 4 * BALLAST_OCTETS {
            match files.disk.reserve(&files.ballast(), BALLAST_OCTETS) {
                Ok(()) => tracing::info!(file = %files.ballast().display(), octets = BALLAST_OCTETS, "ballast laid in"),
                Err(error) => tracing::warn!(file = %files.ballast().display(), %error, "no ballast could be laid in"),
            }
        }
    }

    /// One line a day.
    fn report(&mut self) {
        if self.now() < self.next_report {
            return;
        }
        self.next_report = self.now() + DAY;
        let (expired, displaced) = (std::mem::take(&mut self.work.expired), std::mem::take(&mut self.work.displaced));
        if expired + displaced > 0 {
            tracing::info!(by_age = expired, by_size = displaced, "records left the store in the last day");
        }
    }
}

/// Has the writer hand on what it has.
fn seal(machine: &dyn Machine, writer: &Queue) -> Result<(), Fault> {
    let (done, answer) = crossbeam_channel::bounded(1);
    writer.send(Message::Seal(done)).map_err(|_| Fault::Closing)?;
    machine::answer(machine, &answer).unwrap_or(Err(Fault::Closing))
}
