//! What the keeper does with files: it builds them, puts them in the place of others, and lets them go. Nothing that fails here is
//! trusted: it is thrown away, and made again of what is durable. Logs what was set aside.

use crate::store::error::Fault;
use crate::store::file::{Fate, Part, Plan, StoreFile, build, salvage};
use crate::store::folder::Span;
use crate::store::journal::{Journal, Sealed};
use crate::store::redact::Address;
use crate::store::shared::Shared;
use crate::store::{Step, encoding};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Empty journals that lie ready.
const SPARE: usize = 2;
/// Records between looks at whether a full journal waits.
const STEP: usize = 128;
/// The last one of a journal.
const PAGE: u64 = 4096;
/// What an empty file takes.
const EMPTY_OCTETS: u64 = 128 << 10;

/// Says what becomes of a record, by its id and its octets, with the work at hand.
type Judge<'a> = &'a mut dyn FnMut(&mut Work, u128, &[u8]) -> Result<Fate, Fault>;

pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    sealed: Receiver<Sealed>,
    free: Sender<Journal>,
    /// The other end: to take back those of another length than is wanted now.
    empty: Receiver<Journal>,
    /// What could not be built yet, oldest first.
    backlog: VecDeque<Sealed>,
    /// Files that are to be gone and may not be: nothing is built beside them.
    leftovers: BTreeSet<PathBuf>,
    /// Records that went by age and by size.
    pub(super) expired: u64,
    pub(super) displaced: u64,
}

impl Work {
    pub(super) fn new(shared: Arc<Shared>, sealed: Receiver<Sealed>, free: Sender<Journal>, empty: Receiver<Journal>) -> Self {
        Self { shared, sealed, free, empty, backlog: VecDeque::new(), leftovers: BTreeSet::new(), expired: 0, displaced: 0 }
    }

    pub(super) fn files(&self) -> Vec<Arc<StoreFile>> {
        self.shared.view().files.clone()
    }

    /// Makes files of all that is sealed.
    pub(super) fn serve(&mut self) -> Result<(), Fault> {
        loop {
            self.backlog.extend(self.sealed.try_iter());
            let Some(sealed) = self.backlog.pop_front() else { return Ok(()) };
            match self.build_sealed(&sealed) {
                Ok(()) => sealed.journals.into_iter().for_each(|journal| self.free_journal(journal)),
                Err(fault) => {
                    self.backlog.push_front(sealed);
                    return Err(fault);
                }
            }
        }
    }

    /// Inside of a long work: the daemon may end, and a full journal is served first.
    pub(super) fn pause(&mut self) -> Result<(), Fault> {
        if self.shared.is_stopping() {
            return Err(Fault::Closing);
        }
        if let Err(fault) = self.serve() {
            tracing::warn!(reason = %fault, "the newest records stay in the journal");
        }
        give_way(&self.shared, &self.sealed);
        Ok(())
    }

    fn build_sealed(&mut self, sealed: &Sealed) -> Result<(), Fault> {
        let batch = &sealed.batch;
        if batch.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.make_room(batch.octets as u64 * 2 + EMPTY_OCTETS)?;
        let (erasing, cutoff_us) = (shared.erasing(), shared.cutoff_us());
        let span = Span { first: batch.after + 1, last: batch.through };
        let parts = [Part::Memory(Arc::clone(batch))];
        let (file, gone) = self.build(span, batch.newest_id, &parts, &mut |_, id, octets| {
            if shared.is_stopping() { Err(Fault::Closing) } else { Ok(fate(id, octets, cutoff_us, &erasing)) }
        })?;
        self.expired += gone.len() as u64;
        let mut view = shared.view_mut();
        view.files.push(Arc::new(file));
        view.sealed.retain(|other| !Arc::ptr_eq(other, batch));
        drop(view);
        self.let_go(&gone);
        Ok(())
    }

    /// `fate` may go on with the work.
    fn build(&mut self, span: Span, newest_id: u128, parts: &[Part], fate: Judge<'_>) -> Result<(StoreFile, HashSet<u128>), Fault> {
        self.sweep()?;
        let shared = Arc::clone(&self.shared);
        let files = &shared.files;
        let at_step = |step: Step| shared.tuning.reach(step);
        let sealed = self.sealed.clone();
        let give_way = || give_way(&shared, &sealed);
        let plan = Plan { files, key: &shared.index_key, span, newest_id, parts, give_way: &give_way, at_step: &at_step };
        let built = build(&plan, &mut |id, octets| fate(self, id, octets));
        if built.is_err() {
            self.leftovers.insert(files.unfinished(span));
            // Under its own name it may be there without being durable: only what it would have taken the place of counts.
            if !self.files().iter().any(|file| file.span() == span) {
                self.leftovers.insert(files.of(span));
            }
        }
        built
    }

    /// Removes what could not be removed before. What is durably gone is not there after a power cut either.
    pub(super) fn sweep(&mut self) -> Result<(), Fault> {
        let files = &self.shared.files;
        if self.leftovers.is_empty() {
            return Ok(());
        }
        self.leftovers.iter().try_for_each(|path| files.remove_if_there(path))?;
        files.sync()?;
        self.leftovers.clear();
        Ok(())
    }

    fn remove(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), Fault> {
        self.leftovers.extend(paths);
        self.sweep()
    }

    /// Builds one file in the place of neighbours, without what has expired and without addresses.
    pub(super) fn rebuild(&mut self, old: &[Arc<StoreFile>], erase: &[Address]) -> Result<(), Fault> {
        let cutoff_us = self.shared.cutoff_us();
        let parts: Vec<_> = old.iter().map(|file| Part::File(Arc::clone(file))).collect();
        self.replace(old, &parts, &mut |id, octets| fate(id, octets, cutoff_us, erase))
    }

    /// An empty file in the place of one: its numbers stay accounted for.
    pub(super) fn empty(&mut self, file: &Arc<StoreFile>) -> Result<(), Fault> {
        self.let_go(&self.undelivered_in(file));
        self.replace(std::slice::from_ref(file), &[], &mut |_, _| Fate::Goes)
    }

    fn replace(&mut self, old: &[Arc<StoreFile>], parts: &[Part], fate: &mut dyn FnMut(u128, &[u8]) -> Fate) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(()) };
        let span = Span { first: first.span().first, last: last.span().last };
        let newest_id = old.iter().map(|file| file.summary.newest_id).max().unwrap_or(0);
        let shared = Arc::clone(&self.shared);
        let mut seen = 0;
        let (file, gone) = self.build(span, newest_id, parts, &mut |work, id, octets| {
            seen += 1;
            if seen % STEP == 0 {
                work.pause()?;
            }
            Ok(fate(id, octets))
        })?;
        let file = Arc::new(file);
        {
            let mut view = shared.view_mut();
            view.files.retain(|other| !span.holds(&other.span()));
            let at = view.files.partition_point(|other| other.span() < span);
            view.files.insert(at, file);
        }
        self.let_go(&gone);
        // One that was built anew under its own name is gone already.
        self.remove(old.iter().filter(|old| old.span() != span).map(|old| shared.files.of(old.span())))
    }

    fn let_go(&self, gone: &HashSet<u128>) {
        let mut undelivered = self.shared.undelivered();
        gone.iter().for_each(|id| undelivered.drop_record(*id));
    }

    /// Last attempts at undelivered messages that a file has, or may have.
    fn undelivered_in(&self, file: &StoreFile) -> HashSet<u128> {
        let ids = self.shared.undelivered().ids(&(file.summary.least..file.summary.greatest.saturating_add(1).max(file.summary.least)));
        ids.into_iter().filter(|id| !matches!(file.get(*id), Ok(None))).collect()
    }

    /// Lets the oldest file go: the newest one of all leaves an empty one.
    pub(super) fn drop_oldest(&mut self) -> Result<u64, Fault> {
        let files = self.files();
        let [oldest, _, ..] = files.as_slice() else {
            return match files.first() {
                Some(only) if only.summary.records > 0 => self.empty(only).map(|()| only.summary.records),
                Some(_) | None => Ok(0),
            };
        };
        self.let_go(&self.undelivered_in(oldest));
        self.shared.view_mut().files.retain(|file| !Arc::ptr_eq(file, oldest));
        let path = self.shared.files.of(oldest.span());
        self.remove([path])?;
        Ok(oldest.summary.records)
    }

    /// Hardly a file finds its place.
    pub(super) fn is_low(&self) -> bool {
        const LOW_OCTETS: u64 = 4 << 20;
        let files = &self.shared.files;
        files.disk.free_space(files.directory()).is_ok_and(|free| free < LOW_OCTETS)
    }

    /// Octets of all files of the store, the ballast apart.
    pub(super) fn usage(&self) -> u64 {
        let files = &self.shared.files;
        let taken = |path: PathBuf| files.disk.stat(&path).map_or(0, |stat| stat.backed);
        let journals = files.list().map_or_else(|_| Vec::new(), |listing| listing.journals);
        // One that is longer than it should be now is about to go: no record has to go for it.
        let wanted = self.shared.journal_length() as u64 + PAGE;
        let journals: u64 = journals.into_iter().map(|slot| taken(files.journal(slot)).min(wanted)).sum();
        let beside = [".undelivered", ".changes", ".id-secret", ".index-key"].map(|suffix| taken(files.beside(suffix)));
        self.files().iter().map(|file| file.octets).sum::<u64>() + journals + beside.iter().sum::<u64>()
    }

    /// The oldest files go until a build finds its place below `max_size`.
    pub(super) fn make_room(&mut self, needed: u64) -> Result<(), Fault> {
        let max_size = self.shared.settings.load().max_size;
        while self.usage().saturating_add(needed) > max_size {
            let gone = self.drop_oldest()?;
            self.displaced += gone;
            if gone == 0 && self.files().len() <= 1 {
                break;
            }
        }
        Ok(())
    }

    /// A file that is damaged costs what cannot be read of it; of the rest another one is made.
    pub(super) fn give_up(&mut self, file: &Arc<StoreFile>, what: &str) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let left = Arc::new(salvage(file.octets_of(), file.span(), &shared.index_key, Vec::new())?);
        shared.files.keep_aside(&shared.files.of(file.span()), what)?;
        let lost = file.summary.records.saturating_sub(left.records.len() as u64);
        shared.unreadable.fetch_add(lost, Ordering::Relaxed);
        tracing::error!(lost, left = left.records.len(), "what could be read of a damaged file is kept");
        let gone = self.undelivered_in(file).into_iter().filter(|id| !left.records.contains_key(id)).collect();
        self.let_go(&gone);
        self.replace(std::slice::from_ref(file), &[Part::Memory(left)], &mut |_, _| Fate::Stays)
    }

    /// Files that could not be read, by the time of their last change: they cannot be searched, and go as a whole.
    pub(super) fn remove_set_aside(&self, is_due: impl Fn(SystemTime) -> bool) -> Result<(), Fault> {
        let files = &self.shared.files;
        for path in files.list()?.aside {
            if is_due(files.disk.stat(&path)?.modified) {
                files.disk.remove(&path)?;
                files.sync()?;
                tracing::warn!(file = %path.display(), "a file that was set aside as unreadable was removed, as its records may not be kept");
            }
        }
        Ok(())
    }

    /// Reads all of a file.
    pub(super) fn search(&mut self, file: &StoreFile, mut work: impl FnMut(u128, u64, &[u8])) -> Result<(), Fault> {
        for (seen, record) in file.all().enumerate() {
            let (id, commit, octets) = record?;
            if seen % STEP == STEP - 1 {
                self.pause()?;
            }
            work(id, commit, &octets);
        }
        Ok(())
    }

    /// Empty again, and ready for the writer; or removed if it failed or there are enough.
    fn free_journal(&mut self, mut journal: Journal) {
        let is_usable = !journal.failed && journal.is_there(&self.shared.files);
        let is_wanted = is_usable && self.free.len() < SPARE && journal.length() == self.shared.journal_length();
        if is_wanted && journal.wipe().is_ok() && self.free.len() < SPARE {
            return self.free.send(journal).unwrap_or(());
        }
        self.shared.journals.fetch_sub(1, Ordering::AcqRel);
        if let Err(error) = self.remove([journal.path().to_owned()]) {
            tracing::warn!(%error, "a journal that is not needed any more could not be removed yet");
        }
    }

    /// Lays empty journals ready.
    pub(super) fn lay_in_journals(&mut self) -> Result<(), Fault> {
        let lying: Vec<_> = self.empty.try_iter().collect();
        lying.into_iter().for_each(|journal| self.free_journal(journal));
        let shared = &self.shared;
        while self.free.len() < SPARE && !shared.is_stopping() {
            let slot = shared.next_slot.fetch_add(1, Ordering::AcqRel);
            let journal = Journal::make(&shared.files, slot, shared.journal_length())?;
            shared.journals.fetch_add(1, Ordering::AcqRel);
            self.free.send(journal).unwrap_or(());
        }
        Ok(())
    }

    pub(super) fn put(&mut self, sealed: Sealed) {
        self.backlog.push_back(sealed);
    }

    pub(super) fn sealed_wait(&self) -> usize {
        self.sealed.len() + self.backlog.len()
    }
}

/// Mail goes first, until a journal is full.
fn give_way(shared: &Shared, sealed: &Receiver<Sealed>) {
    if sealed.is_empty() {
        shared.files.disk.give_way();
    }
}

/// What becomes of a record: what has expired goes, and what cannot be read goes with an erasure, since nobody can tell what it names.
fn fate(id: u128, octets: &[u8], cutoff_us: i64, erase: &[Address]) -> Fate {
    if encoding::date_us(octets).is_some_and(|date| date < cutoff_us) {
        return Fate::Goes;
    }
    if erase.is_empty() {
        return Fate::Stays;
    }
    let Ok(record) = encoding::decode(id, octets) else {
        tracing::error!(record = %crate::record::RecordId(id), "a damaged record was removed: what it names cannot be told");
        return Fate::Goes;
    };
    let mut erased = record.clone();
    // Every address has its turn: no short cut.
    if erase.iter().fold(false, |any, address| address.erase(&mut erased) | any) {
        Fate::Becomes(Box::new((record, erased)))
    } else {
        Fate::Stays
    }
}
