//! Pages of records, newest first: of what is in memory and of all files, merged by their ids. Logs each damaged record.

use super::encoding::{self, Unreadable};
use super::error::{Fault, StoreError};
use super::file::StoreFile;
use super::filter::Filter;
use super::id::first_of;
use super::index::{Hash, IndexKey, Property};
use super::merged::{self, Merged};
use super::redact::{Address, Needle};
use super::shared::Shared;
use super::{Change, Committed, Page, Query, Undelivered, UndeliveredPage};
use crate::record::{Record, RecordId};
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) const LIMIT_MOST: usize = 1000;
const LIMIT_DEFAULT: usize = 100;
/// A page of records that are long ends sooner: octets as they are stored.
const PAGE_OCTETS: usize = 4 << 20;
/// Records between looks at the time.
const STEP: usize = 256;
/// A search that takes longer gives what it has, with a cursor.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where ids come from, newest first.
#[derive(Clone, Copy)]
enum Source {
    All,
    Index(Property, Hash),
    Undelivered,
}

/// What a record has to be.
struct Wanted {
    filter: Filter,
    undelivered: bool,
    names: Option<Address>,
    /// Of these, what most records can be left out by without decoding them.
    needle: Option<Needle>,
    /// What is older has expired.
    cutoff_us: i64,
}

impl Wanted {
    fn new(query: &Query, cutoff_us: i64) -> Self {
        let filter = Filter::new(query);
        Self { undelivered: query.undelivered, needle: filter.needle(), filter, names: None, cutoff_us }
    }

    /// Without decoding it.
    fn may_match(&self, octets: &[u8]) -> bool {
        encoding::date_us(octets).is_none_or(|date| date >= self.cutoff_us)
            && self.needle.as_ref().is_none_or(|needle| needle.may_be_in(octets))
    }

    fn matches(&self, record: &Record) -> bool {
        self.filter.takes(record) && self.names.as_ref().is_none_or(|address| address.is_named_by(record))
    }
}

/// The narrowest index comes first.
fn source(key: &IndexKey, query: &Query) -> Source {
    let of = |property, value: &Option<String>| value.as_ref().map(|value| Source::Index(property, key.hash(property, value)));
    of(Property::MessageId, &query.message_id)
        .or_else(|| of(Property::Sender, &query.sender))
        .or_else(|| of(Property::Recipient, &query.recipient))
        .or_else(|| query.undelivered.then_some(Source::Undelivered))
        .or_else(|| query.outcome.map(|outcome| Source::Index(Property::Outcome, key.outcome(outcome))))
        .unwrap_or(Source::All)
}

/// Ids in which records of a span of time stand: ids follow dates but for the lead and the lag of a file.
fn ids_of(query: &Query, lead_ms: u64, lag_ms: u64) -> Range<u128> {
    let ms = |time: jiff::Timestamp| time.as_millisecond();
    let (lead, lag) = (i64::try_from(lead_ms).unwrap_or(i64::MAX), i64::try_from(lag_ms).unwrap_or(i64::MAX));
    let low = query.since.map_or(0, |since| first_of(ms(since).saturating_sub(lag).saturating_sub(2)));
    let high = query.until.map_or(u128::MAX, |until| first_of(ms(until).saturating_add(lead).saturating_add(2)));
    let high = query.cursor.map_or(high, |cursor| high.min(cursor.0));
    low..high.max(low)
}

/// Where a record's octets are.
enum Octets {
    Here(Arc<[u8]>),
    /// In this file, to be read.
    In(Arc<StoreFile>),
    Somewhere,
}

/// Newest first over everything: a file is looked into when no other one can have a newer record. A file that is damaged is left out, loudly.
struct Walk<'a> {
    shared: &'a Shared,
    query: &'a Query,
    source: Source,
    /// Files not looked into, the newest last.
    files: Vec<Arc<StoreFile>>,
    found: Merged<'a, Reverse<u128>, Octets>,
}

impl<'a> Walk<'a> {
    fn new(shared: &'a Shared, query: &'a Query, source: Source) -> Self {
        let view = shared.view();
        let mut files: Vec<_> = view.files.iter().filter(|file| file.summary.records > 0).cloned().collect();
        files.sort_by_key(|file| file.summary.greatest);
        // What is in memory may have any date.
        let ids = ids_of(query, u64::MAX, u64::MAX);
        let mut memory: Vec<(Reverse<u128>, Octets)> = Vec::new();
        let octets = |octets: &Arc<[u8]>| Octets::Here(Arc::clone(octets));
        for batch in view.batches() {
            match source {
                Source::All => memory.extend(batch.records.range(ids.clone()).map(|(id, (_, found))| (Reverse(*id), octets(found)))),
                Source::Index(property, hash) => {
                    let found = batch.ids(property, hash, &ids);
                    memory.extend(found.filter_map(|id| Some((Reverse(id), octets(&batch.records.get(&id)?.1)))));
                }
                Source::Undelivered => {}
            }
        }
        drop(view);
        if let Source::Undelivered = source {
            memory.extend(shared.undelivered().ids(&ids).into_iter().map(|id| (Reverse(id), Octets::Somewhere)));
        }
        memory.sort_unstable_by_key(|(id, _)| *id);
        let memory: merged::Source<'_, _, _> = Box::new(memory.into_iter().map(Ok));
        Self { shared, query, source, files, found: Merged::of([memory]) }
    }

    fn look_into(&mut self, file: &Arc<StoreFile>) {
        let ids = ids_of(self.query, file.summary.lead_ms, file.summary.lag_ms);
        let records: merged::Source<'_, u128, Octets> = match self.source {
            Source::All => Box::new(file.newest(&ids).map(|record| record.map(|(id, _, octets)| (id, Octets::Here(octets.into()))))),
            Source::Index(property, hash) => {
                let file = Arc::clone(file);
                Box::new(file.ids(property, hash, &ids).map(move |id| Ok((id?, Octets::In(Arc::clone(&file))))))
            }
            Source::Undelivered => return,
        };
        let (shared, file) = (self.shared, Arc::clone(file));
        self.found.add(Box::new(records.map_while(move |record| match record {
            Ok((id, octets)) => Some(Ok((Reverse(id), octets))),
            Err(fault) => unless_damaged(shared, &file, fault).err().map(Err),
        })));
    }
}

impl Iterator for Walk<'_> {
    /// `None` for a record that has gone meanwhile.
    type Item = Result<(u128, Option<Arc<[u8]>>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(file) = self.files.pop_if(|file| self.found.next_key().is_none_or(|Reverse(id)| id < file.summary.greatest)) {
            self.look_into(&file);
        }
        let found = self.found.next()?;
        Some(found.and_then(|(Reverse(id), octets)| match octets {
            Octets::Here(octets) => Ok((id, Some(octets))),
            Octets::In(file) => {
                let octets = get(self.shared, &file, id)?;
                if octets.is_none() {
                    // Its own index names it.
                    unless_damaged(self.shared, &file, Fault::Damaged(format!("no record {}", RecordId(id))))?;
                }
                Ok((id, octets))
            }
            Octets::Somewhere => Ok((id, look_up(self.shared, id)?)),
        }))
    }
}

/// A file that is damaged costs its own records; a disk that cannot be read is an error.
fn unless_damaged(shared: &Shared, file: &StoreFile, fault: Fault) -> Result<(), Fault> {
    let Fault::Damaged(what) = fault else { return Err(fault) };
    if shared.suspect(file) {
        shared.unreadable.fetch_add(1, Ordering::Relaxed);
        let path = shared.files.of(file.span());
        tracing::error!(file = %path.display(), reason = what, "a file of the store is damaged: its records are left out until it was looked after");
    }
    Ok(())
}

/// One that is damaged is left out, loudly, and one that has expired too.
fn shown(shared: &Shared, id: u128, octets: &[u8]) -> Option<Record> {
    match encoding::decode(id, octets) {
        Ok(record) => Some(record).filter(|record| record.date.as_microsecond() >= shared.cutoff_us()),
        Err(Unreadable) => {
            damaged(shared, id);
            None
        }
    }
}

fn damaged(shared: &Shared, id: u128) {
    shared.unreadable.fetch_add(1, Ordering::Relaxed);
    tracing::error!(record = %RecordId(id), "a record in the store is damaged and left out");
}

fn limit_of(limit: usize) -> usize {
    if limit == 0 { LIMIT_DEFAULT } else { limit.min(LIMIT_MOST) }
}

fn run(shared: &Shared, query: &Query, wanted: &Wanted, limit: usize) -> Result<Page, Fault> {
    shared.resolve_doubts()?;
    let source = source(&shared.index_key, query);
    let begun = shared.files.disk.now();
    let (mut records, mut sum) = (Vec::new(), 0);
    for (seen, item) in Walk::new(shared, query, source).enumerate() {
        let (id, octets) = item?;
        let Some(octets) = octets else { continue };
        if wanted.may_match(&octets) {
            match encoding::decode(id, &octets) {
                Ok(record) if wanted.matches(&record) && (!wanted.undelivered || shared.undelivered().holds(id)) => {
                    sum += octets.len();
                    records.push(record);
                }
                Ok(_) => {}
                Err(Unreadable) => damaged(shared, id),
            }
        }
        if records.len() >= limit || sum >= PAGE_OCTETS || (seen % STEP == STEP - 1 && shared.files.disk.now() - begun > PATIENCE) {
            return Ok(Page { records, cursor: Some(RecordId(id)) });
        }
    }
    Ok(Page { records, cursor: None })
}

fn get(shared: &Shared, file: &StoreFile, id: u128) -> Result<Option<Arc<[u8]>>, Fault> {
    match file.get(id) {
        Ok(found) => Ok(found.map(|(_, octets)| octets.into())),
        Err(fault) => unless_damaged(shared, file, fault).map(|()| None),
    }
}

/// A record wherever it is: ids of files overlap.
fn look_up(shared: &Shared, id: u128) -> Result<Option<Arc<[u8]>>, Fault> {
    let files = {
        let view = shared.view();
        if let Some((_, octets)) = view.batches().find_map(|batch| batch.records.get(&id)) {
            return Ok(Some(Arc::clone(octets)));
        }
        view.files.clone()
    };
    for file in files.iter().rev() {
        if let Some(found) = get(shared, file, id)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

pub(super) fn query(shared: &Shared, query: &Query) -> Result<Page, StoreError> {
    run(shared, query, &Wanted::new(query, shared.cutoff_us()), limit_of(query.limit)).map_err(StoreError::from)
}

pub(super) fn export(shared: &Shared, address: Address, cursor: Option<RecordId>) -> Result<Page, StoreError> {
    let everything = Query { cursor, ..Query::default() };
    let wanted = Wanted { needle: address.needle(), names: Some(address), ..Wanted::new(&everything, shared.cutoff_us()) };
    run(shared, &everything, &wanted, LIMIT_MOST).map_err(StoreError::from)
}

pub(super) fn record(shared: &Shared, id: RecordId) -> Result<Option<Record>, StoreError> {
    let Some(octets) = look_up(shared, id.0)? else { return Ok(None) };
    match encoding::decode(id.0, &octets) {
        Ok(record) => Ok(Some(record).filter(|record| record.date.as_microsecond() >= shared.cutoff_us())),
        Err(Unreadable) => {
            damaged(shared, id.0);
            Err(StoreError::Unreadable(id))
        }
    }
}

pub(super) fn attempts(shared: &Shared, webhook_id: &str) -> Result<Vec<Record>, StoreError> {
    let everything = Query::default();
    let source = Source::Index(Property::Webhook, shared.index_key.hash(Property::Webhook, webhook_id));
    let (mut found, mut sum) = (Vec::new(), 0);
    for item in Walk::new(shared, &everything, source) {
        let (id, octets) = item?;
        let Some(octets) = octets else { continue };
        found.extend(shown(shared, id, &octets).filter(|record| record.webhook_id == webhook_id));
        sum += octets.len();
        if sum >= PAGE_OCTETS || found.len() >= LIMIT_MOST {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

pub(super) fn undelivered(shared: &Shared, cursor: Option<RecordId>, limit: usize) -> Result<UndeliveredPage, StoreError> {
    shared.resolve_doubts()?;
    let limit = limit_of(limit);
    let messages = shared.undelivered().newest(cursor.map_or(u128::MAX, |cursor| cursor.0), limit);
    let (mut found, mut sum) = (Vec::new(), 0);
    let is_last = messages.len() < limit;
    let last = messages.last().map(|tries| RecordId(tries.last_id));
    for tries in messages {
        let Some(octets) = look_up(shared, tries.last_id)? else { continue };
        // The page is shorter, the list does not end.
        let Some(record) = shown(shared, tries.last_id, &octets) else { continue };
        sum += octets.len();
        let time = |us| jiff::Timestamp::from_microsecond(us).unwrap_or(record.date);
        found.push(Undelivered {
            attempts: tries.attempts,
            first_seen: time(tries.first_seen_us),
            last_seen: time(tries.last_seen_us),
            record,
        });
        if sum >= PAGE_OCTETS {
            return Ok(UndeliveredPage { undelivered: found, cursor: Some(RecordId(tries.last_id)) });
        }
    }
    Ok(UndeliveredPage { undelivered: found, cursor: last.filter(|_| !is_last) })
}

pub(super) fn changes(shared: &Shared, position: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
    let found = shared.changes().as_ref().map(|changes| changes.after(position, limit_of(limit))).unwrap_or_default();
    let now = |(position, number): (u64, u64)| {
        let record = after(shared, number.saturating_sub(1), 1, AtDamage::Ends)?.pop().filter(|found| found.number == number);
        Ok(Change { position, number, record: record.map(|found| found.record) })
    };
    let mut changes = Vec::new();
    for change in found.into_iter().map(now) {
        match change {
            Err(StoreError::Damaged(_)) if !changes.is_empty() => break,
            change => changes.push(change?),
        }
    }
    Ok(changes)
}

/// What whoever reads in the order of the numbers does where a file is damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AtDamage {
    /// Leaves out what cannot be read.
    GoesOn,
    /// Reads no further until the keeper has looked after it, which may bring records back: an error where it has read nothing. So it does where
    /// numbers are missing.
    Ends,
}

/// Records behind a commit number, in the order of the numbers.
pub(super) fn after(shared: &Shared, number: u64, limit: usize, at_damage: AtDamage) -> Result<Vec<Committed>, StoreError> {
    let limit = limit_of(limit);
    let (files, memory) = {
        let view = shared.view();
        let later = |batch: &super::memory::Batch| -> Vec<_> {
            let from = batch.commits.partition_point(|(commit, _)| *commit <= number);
            let later = batch.commits.get(from..).unwrap_or_default().iter().take(limit);
            later.filter_map(|(commit, id)| Some((*commit, *id, Arc::clone(&batch.records.get(id)?.1)))).collect()
        };
        (view.files.clone(), view.batches().flat_map(later).take(limit).collect::<Vec<_>>())
    };
    let (mut found, mut sum) = (Vec::new(), 0);
    let mut put = |commit: u64, id: u128, octets: &[u8]| {
        match encoding::decode(id, octets) {
            Ok(record) => found.push(Committed { number: commit, record }),
            Err(Unreadable) => damaged(shared, id),
        }
        sum += octets.len();
        sum >= PAGE_OCTETS || found.len() >= limit
    };
    for file in files.iter().filter(|file| file.span().last > number) {
        let span = file.span();
        let mut before = number.max(span.first.saturating_sub(1));
        // What the keeper found nothing wrong with is as good as it gets.
        let ends = at_damage == AtDamage::Ends && !file.is_cleared();
        let mut doubts = false;
        let mut page = || -> Result<Option<bool>, Fault> {
            let commits = file.commits(before.saturating_add(1), limit)?;
            let is_last = commits.len() < limit;
            for (commit, id) in commits {
                // Whoever went on behind it would pass others over, or never end.
                if commit <= before || commit > span.last {
                    return Err(Fault::Damaged(format!("a commit number out of its order: {commit}")));
                }
                // Nothing has these numbers any more, or a damaged page leads past them: whoever looks through all of it can tell.
                if ends && commit > before.saturating_add(1) {
                    doubts = true;
                    return Ok(Some(true));
                }
                before = commit;
                match file.get(id)?.filter(|(other, _)| *other == commit) {
                    Some((_, octets)) if ends && !encoding::is_whole(id, &octets) => {
                        return Err(Fault::Damaged(format!("record {}", RecordId(id))));
                    }
                    Some((_, octets)) if put(commit, id, &octets) => return Ok(Some(true)),
                    Some(_) => {}
                    // One of the two is not what was written.
                    None if ends => return Err(Fault::Damaged(format!("no record {}", RecordId(id)))),
                    None => {
                        shared.suspect(file);
                        damaged(shared, id);
                    }
                }
            }
            doubts = ends && is_last && before < span.last;
            Ok(is_last.then_some(doubts))
        };
        // Some of a page may be gone: what is behind them comes before the next file.
        let read = loop {
            match page() {
                Ok(None) => {}
                Ok(Some(is_enough)) => break Ok(is_enough),
                Err(fault) => break Err(fault),
            }
        };
        let is_enough = match read {
            Ok(is_enough) => is_enough,
            Err(fault) => {
                unless_damaged(shared, file, fault)?;
                doubts = ends;
                ends
            }
        };
        if doubts {
            shared.suspect(file);
            let waits = || StoreError::Damaged(format!("{} is to be looked after", shared.files.of(span).display()));
            return if found.is_empty() { Err(waits()) } else { Ok(found) };
        }
        if is_enough {
            return Ok(found);
        }
    }
    for (commit, id, octets) in memory {
        if put(commit, id, &octets) {
            break;
        }
    }
    Ok(found)
}
