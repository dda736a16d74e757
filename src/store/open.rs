//! Opening: what the directory holds is the catalogue of files, the journals hold what no file has yet. Logs what is damaged or missing,
//! and what was brought in.

use super::Tuning;
use super::encoding::{self, Unreadable};
use super::error::Fault;
use super::file::{Fate, Part, Plan, StoreFile, build, salvage};
use super::folder::{Files, Listing};
use super::index::{IndexKey, Property};
use super::journal::{End, Frame, Journal, Sealed, in_order, read_all};
use super::memory::{Batch, Entry};
use super::undelivered::Undelivered;
use super::view::View;
use crate::record::Record;
use redb::StorageBackend;
use std::cmp::Reverse;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// An open store.
pub(super) struct Opened {
    pub(super) view: View,
    pub(super) undelivered: Undelivered,
    /// For what is undelivered: its copy was older than some of them.
    pub(super) has_read_files: bool,
    /// What the journals had, and the journals themselves.
    pub(super) sealed: Sealed,
    /// The last number that is durable.
    pub(super) durable: u64,
    pub(super) newest_id: u128,
    pub(super) next_slot: u32,
}

pub(super) fn open(files: &Files, key: IndexKey, tuning: &Tuning) -> Result<Opened, Fault> {
    let listing = patiently(files, files.directory(), || Ok(files.list()?))?;
    let (journals, frames) = open_journals(files, &listing)?;
    let files_found = open_files(files, &key, tuning, &listing, &frames)?;
    let last = files_found.last().map_or(0, |file| file.span().last);
    let mut newest_id = files_found.iter().map(|file| file.summary.newest_id).max().unwrap_or(0);
    newest_id = frames.iter().map(|frame| frame.newest_id).fold(newest_id, u128::max);
    let mut batch = Batch::new(last);
    let (frames, lost) = in_order(frames, last);
    frames.into_iter().flat_map(|frame| frame.records).for_each(|entry| take(&mut batch, entry, &key));
    if lost > 0 {
        tracing::error!(
            records = lost, store = %files.path.display(),
            "the journal is damaged: records that were acknowledged are missing. Look at the disk (smartctl -a, dmesg)"
        );
    }
    if !batch.is_empty() {
        tracing::info!(records = batch.records.len(), "the last records were found in the journal");
    }
    batch.newest_id = newest_id;
    let durable = batch.through;
    let (batch, next_slot) = (Arc::new(batch), listing.journals.last().map_or(1, |last| last.saturating_add(1)));
    let sealed = if batch.is_empty() { Vec::new() } else { vec![Arc::clone(&batch)] };
    let view = View { files: files_found, sealed, filling: Batch::new(durable) };
    let (undelivered, has_read_files) = derive(files, &key, &view, durable)?;
    Ok(Opened { view, undelivered, has_read_files, sealed: Sealed { batch, journals }, durable, newest_id, next_slot })
}

fn take(batch: &mut Batch, entry: Entry, key: &IndexKey) {
    match encoding::decode(entry.id, &entry.octets) {
        Ok(record) => batch.take(entry, &record, key),
        Err(Unreadable) => tracing::error!(record = %crate::record::RecordId(entry.id), "a damaged record was found in the journal"),
    }
}

/// In the order of their numbers. One whose numbers are all in another one is what a merge that was cut off left behind.
fn open_files(files: &Files, key: &IndexKey, tuning: &Tuning, listing: &Listing, frames: &[Frame]) -> Result<Vec<Arc<StoreFile>>, Fault> {
    let mut open: Vec<Arc<StoreFile>> = Vec::new();
    let mut spans = listing.spans.clone();
    // A merged file comes before its parts: they go when it is whole.
    spans.sort_unstable_by_key(|span| (span.first, Reverse(span.last)));
    // The name of a merged file may have been seen by nobody but the page cache: what it is made of goes when that name is durable.
    files.sync()?;
    for span in &spans {
        if open.last().is_some_and(|file| file.span().holds(span)) {
            files.remove_if_there(&files.of(*span))?;
            continue;
        }
        let path = files.of(*span);
        let anew = |file: &dyn StorageBackend, newest_id| {
            // A journal that was not free yet when the power went may have some of them.
            let known = frames.iter().flat_map(|frame| &frame.records).filter(|entry| span.has(entry.commit)).cloned().collect();
            let left = salvage(file, *span, key, known)?;
            let (number, newest_id) = (left.records.len() as u64, left.newest_id.max(newest_id));
            let parts = [Part::Memory(Arc::new(left))];
            let plan = Plan { files, key, span: *span, newest_id, parts: &parts, give_way: &|| {}, at_step: &|step| tuning.reach(step) };
            Ok::<_, Fault>((build(&plan, &mut |_, _| Ok(Fate::Stays))?.0, number))
        };
        let file = match patiently(files, &path, || StoreFile::open(files, *span)) {
            Err(Fault::Damaged(what)) if spans.iter().any(|part| part != span && span.holds(part)) => {
                // Its parts are there still.
                files.set_aside(&path, &what)?;
                continue;
            }
            Err(Fault::Damaged(what)) => {
                let damaged = files.disk.open_to_read(&path)?;
                files.keep_aside(&path, &what)?;
                let (file, left) = patiently(files, &path, || anew(&*damaged, 0))?;
                let most = (span.last - span.first + 1).saturating_sub(left);
                tracing::error!(
                    most,
                    left,
                    first = span.first,
                    last = span.last,
                    "so many records of the damaged file are missing; the others are kept"
                );
                file
            }
            opened => {
                let file = opened?;
                if file.summary.key_check == key.check() {
                    file
                } else {
                    tracing::warn!(file = %path.display(), records = file.summary.records, "its index key is another one: its index is made anew");
                    patiently(files, &path, || anew(file.octets_of(), file.summary.newest_id))?.0
                }
            }
        };
        if let Some(before) = open.last()
            && before.span().last.saturating_add(1) < span.first
        {
            tracing::error!(
                from = before.span().last.saturating_add(1), to = span.first.saturating_sub(1), store = %files.path.display(),
                "a file of the store is missing: the records with these numbers are not there"
            );
        }
        open.push(Arc::new(file));
    }
    files.sync()?;
    Ok(open)
}

fn open_journals(files: &Files, listing: &Listing) -> Result<(Vec<Journal>, Vec<Frame>), Fault> {
    let (mut journals, mut frames) = (Vec::new(), Vec::new());
    for slot in &listing.journals {
        let path = files.journal(*slot);
        let (journal, found) = patiently(files, &path, || {
            let mut journal = Journal::open(files, *slot)?;
            let octets = journal.octets()?;
            let found = read_all(&octets);
            match journal.confirm(&octets, found.last.clone()) {
                // There is no place for it where blocks are never written twice: then as it is.
                Ok(()) | Err(Fault::Full(_)) => {}
                Err(fault) => return Err(fault),
            }
            Ok((journal, found))
        })?;
        say(found.end, &path);
        frames.extend(found.frames);
        journals.push(journal);
    }
    Ok((journals, frames))
}

/// A disk that fails in passing is asked again. What cannot be read all the same is no damage: the store is not opened, and all stays.
pub(super) fn patiently<T>(files: &Files, path: &Path, mut read: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    const WAITS_MS: [u64; 5] = [50, 100, 200, 400, 800];
    // What redb makes of an error may look like damage.
    let mut found_damage = false;
    for wait in WAITS_MS {
        match read() {
            Err(Fault::Disk(source)) if is_passing(&source) => {
                tracing::warn!(file = %path.display(), reason = %source, "a file of the store cannot be read: it is tried again");
            }
            Err(Fault::Damaged(_)) if !std::mem::replace(&mut found_damage, true) => {}
            Err(Fault::Disk(source)) => return Err(Fault::CannotRead { path: path.to_owned(), source }),
            other => return other,
        }
        files.disk.pause(Duration::from_millis(wait));
    }
    match read() {
        Err(Fault::Disk(source)) => Err(Fault::CannotRead { path: path.to_owned(), source }),
        other => other,
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    !matches!(error.kind(), K::NotFound | K::PermissionDenied | K::IsADirectory | K::NotADirectory | K::InvalidInput)
}

fn say(end: End, journal: &Path) {
    let journal = journal.display();
    match end {
        End::Zeros => {}
        End::Torn => tracing::warn!(%journal, "the last write was cut off: nobody was told that what was in it is kept"),
        End::CutShort => tracing::error!(
            %journal, "the journal is damaged: it is shorter than it was made, and what stood there was acknowledged. Look at the disk (smartctl -a, dmesg)"
        ),
        End::Damaged => tracing::error!(
            %journal, "the journal is damaged: what was written last cannot be read, and was acknowledged. Look at the disk (smartctl -a, dmesg)"
        ),
    }
}

/// What is undelivered: the copy, and over it the records since; all of them where there is none.
fn derive(files: &Files, key: &IndexKey, view: &View, durable: u64) -> Result<(Undelivered, bool), Fault> {
    let mut state = copy_of_undelivered(files, key).filter(|state| state.through <= durable).unwrap_or_default();
    let through = state.through;
    let mut see = |commit: u64, record: &Record| {
        let message = key.hash(Property::Webhook, &record.webhook_id);
        state.see(commit, record, message, || view.settled(message));
    };
    let mut has_read_files = false;
    for file in view.files.iter().filter(|file| file.span().last > through && file.summary.records > 0) {
        has_read_files = true;
        let mut seen = 0;
        let read = patiently(files, &files.of(file.span()), || {
            for record in file.all() {
                let (id, commit, octets) = record?;
                // Whoever begins again counts none twice.
                let newest = seen.max(id);
                if id > std::mem::replace(&mut seen, newest)
                    && commit > through
                    && let Ok(record) = encoding::decode(id, &octets)
                {
                    see(commit, &record);
                }
            }
            Ok(())
        });
        match read {
            // Whoever reads it next has it looked at.
            Err(Fault::Damaged(what)) => {
                tracing::error!(file = %files.of(file.span()).display(), reason = what, "a file of the store is damaged")
            }
            other => other?,
        }
    }
    for batch in view.batches() {
        for (commit, id) in &batch.commits {
            if let Some((_, octets)) = batch.records.get(id)
                && *commit > through
                && let Ok(record) = encoding::decode(*id, octets)
            {
                see(*commit, &record);
            }
        }
    }
    state.is_dirty |= state.through != through;
    Ok((state, has_read_files))
}

fn copy_of_undelivered(files: &Files, key: &IndexKey) -> Option<Undelivered> {
    let octets = files.disk.read(&files.undelivered()).ok()?;
    let copy = Undelivered::decode(&octets, key);
    if copy.is_err() {
        tracing::error!(file = %files.undelivered().display(), "the list of undelivered messages is damaged: it is made again of the records");
    }
    copy.ok()
}
