//! The one function that makes files: of what is in memory, of several files one, or of a file itself without what has to go. The file
//! is written under a name that nothing reads, and bears its own only when it is durable. Logs nothing.

use super::filter::Filter;
use super::reading::Order;
use super::{ABOUT, ALL, COMMITS, INDEX, RECORDS, SETTLED, SUMMARY, StoreFile, Summary, split};
use crate::record::Record;
use crate::store::Step;
use crate::store::disk::Backend;
use crate::store::encoding;
use crate::store::error::{Fault, guarded};
use crate::store::folder::{Files, Span};
use crate::store::index::{Hash, IndexKey, Key, id_of, settled};
use crate::store::memory::Batch;
use crate::store::merged::{Merged, Source};
use redb::{Builder, WriteTransaction};
use std::collections::{BTreeMap, HashSet};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// What redb may keep in memory of a file that is being built.
const CACHE_OCTETS: usize = 4 << 20;
/// Entries that one cursor puts behind the others: it has them in memory, beside that, until it is closed.
const GATHERED: usize = 512;

/// Where records come from; in the order of their commits.
#[derive(Clone)]
pub(in crate::store) enum Part {
    Memory(Arc<Batch>),
    File(Arc<StoreFile>),
}

/// What becomes of a record.
pub(in crate::store) enum Fate {
    Stays,
    Goes,
    /// The record as it was and as it will be.
    Becomes(Box<(Record, Record)>),
}

/// Says what becomes of each record, by its id and its octets.
type Judge<'a> = &'a mut dyn FnMut(u128, &[u8]) -> Result<Fate, Fault>;

/// What is to be built.
pub(in crate::store) struct Plan<'a> {
    pub(in crate::store) files: &'a Files,
    pub(in crate::store) key: &'a IndexKey,
    pub(in crate::store) span: Span,
    pub(in crate::store) newest_id: u128,
    pub(in crate::store) parts: &'a [Part],
    /// Called again and again on the way.
    pub(in crate::store) give_way: &'a dyn Fn(),
    pub(in crate::store) at_step: &'a dyn Fn(Step),
}

/// Builds a file; it stands under its name, durable and open, when this returns `Ok`. Answers with the ids of the records that are not in
/// it. `fate` is asked for each record, in the order of the ids, and may take its time.
pub(in crate::store) fn build(plan: &Plan<'_>, fate: Judge<'_>) -> Result<(StoreFile, HashSet<u128>), Fault> {
    let (files, span) = (plan.files, plan.span);
    let path = files.unfinished(span);
    let built = guarded(|| {
        files.remove_if_there(&path)?;
        let gone = write(plan, fate)?;
        (plan.at_step)(Step::Built);
        files.disk.rename(&path, &files.of(span))?;
        (plan.at_step)(Step::Renamed);
        Ok(gone)
    });
    let gone = match built {
        Ok(gone) => gone,
        Err(fault) => {
            // Nothing that failed is believed: the next try begins with nothing.
            files.remove_if_there(&path).unwrap_or(());
            return Err(fault);
        }
    };
    files.sync()?;
    (plan.at_step)(Step::Synced);
    Ok((StoreFile::open(files, span)?, gone))
}

/// Changes of the index that come of changed records.
#[derive(Default)]
struct Changed {
    gone: HashSet<u128>,
    removed: HashSet<Key>,
    added: BTreeMap<Key, u8>,
}

impl Changed {
    fn replace(&mut self, key: &IndexKey, old: &Record, new: &Record) {
        let (before, after) = (key.entries(old), key.entries(new));
        let outcome = encoding::outcome_code(new.outcome);
        self.removed.extend(before.iter().filter(|key| !after.contains(key)));
        self.added.extend(after.into_iter().filter(|key| !before.contains(key)).map(|key| (key, outcome)));
    }
}

fn write(plan: &Plan<'_>, fate: Judge<'_>) -> Result<HashSet<u128>, Fault> {
    let path = plan.files.unfinished(plan.span);
    // Open from before the first write to behind the last: a write that the kernel fails at while nobody has the file open is told to nobody.
    let whole = plan.files.disk.open(&path)?;
    let backend = Backend::new(plan.files.disk.open(&path)?);
    let gone = backend.told(|| put(plan, backend.clone(), fate))?;
    // What closing wrote and cut off has to be durable too.
    whole.sync_data()?;
    Ok(gone)
}

fn put(plan: &Plan<'_>, backend: Backend, fate: Judge<'_>) -> Result<HashSet<u128>, Fault> {
    let database = Builder::new().set_cache_size(CACHE_OCTETS).create_with_backend(backend)?;
    let txn = database.begin_write()?;
    let mut summary = Summary::new(plan.span, plan.newest_id, plan.key);
    let changed = put_records(plan, &txn, &mut summary, fate)?;
    let messages = put_index(plan, &txn, &changed)?;
    put_commits(plan, &txn, &changed)?;
    {
        let mut about = txn.open_table(ABOUT)?;
        about.insert(SUMMARY, summary.encode().as_slice())?;
        about.insert(SETTLED, Filter::of(&messages).encode().as_slice())?;
    }
    txn.commit()?;
    // Dropping it would swallow an error.
    database.close()?;
    Ok(changed.gone)
}

fn put_records(plan: &Plan<'_>, txn: &WriteTransaction, summary: &mut Summary, fate: Judge<'_>) -> Result<Changed, Fault> {
    let mut table = txn.open_table(RECORDS)?;
    let mut changed = Changed::default();
    let mut records = merged(plan, plan.parts.iter().map(records_of).collect());
    while records.peek().is_some() {
        let mut end = table.upper_bound_mut(Bound::<u128>::Unbounded)?;
        for item in records.by_ref().take(GATHERED) {
            let (id, mut value) = item?;
            let octets = split(&value).map_or(&[][..], |(_, octets)| octets);
            match fate(id, octets)? {
                Fate::Stays => {}
                Fate::Goes => {
                    changed.gone.insert(id);
                    continue;
                }
                Fate::Becomes(records) => {
                    let (old, new) = *records;
                    changed.replace(plan.key, &old, &new);
                    value.truncate(8);
                    encoding::encode_into(&mut value, &new, 0);
                }
            }
            let date_us = split(&value).and_then(|(_, octets)| encoding::date_us(octets)).unwrap_or(0);
            summary.take(id, date_us);
            end.insert_before(id, value.as_slice())?;
        }
        end.close()?;
    }
    Ok(changed)
}

/// Answers with the messages that the records have settled.
fn put_index(plan: &Plan<'_>, txn: &WriteTransaction, changed: &Changed) -> Result<Vec<Hash>, Fault> {
    let mut table = txn.open_table(INDEX)?;
    let mut sources: Vec<_> = plan.parts.iter().map(index_of).collect();
    sources.push(Box::new(changed.added.iter().map(|(key, outcome)| Ok((*key, *outcome)))));
    let mut messages = Vec::new();
    let mut entries = merged(plan, sources);
    while entries.peek().is_some() {
        let mut end = table.upper_bound_mut(Bound::<&Key>::Unbounded)?;
        for item in entries.by_ref().take(GATHERED) {
            let (key, outcome) = item?;
            if !changed.removed.contains(&key) && !changed.gone.contains(&id_of(&key)) {
                messages.extend(settled(&key, outcome));
                end.insert_before(&key, outcome)?;
            }
        }
        end.close()?;
    }
    Ok(messages)
}

fn put_commits(plan: &Plan<'_>, txn: &WriteTransaction, changed: &Changed) -> Result<(), Fault> {
    let mut table = txn.open_table(COMMITS)?;
    for part in plan.parts {
        let mut from = 0;
        loop {
            let page = match part {
                Part::Memory(batch) => batch.commits.iter().filter(|(number, _)| *number >= from).take(GATHERED).copied().collect(),
                Part::File(file) => file.commits(from, GATHERED)?,
            };
            let Some((last, _)) = page.last() else { break };
            from = last.saturating_add(1);
            let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
            for (number, id) in page.into_iter().filter(|(_, id)| !changed.gone.contains(id)) {
                end.insert_before(number, id)?;
            }
            end.close()?;
            (plan.give_way)();
        }
    }
    Ok(())
}

/// What is put into a table: behind all that is there, so that pages are built once, and full.
fn merged<'a, K: Ord + Copy + 'a, V: 'a>(
    plan: &'a Plan<'_>,
    sources: Vec<Source<'a, K, V>>,
) -> Peekable<impl Iterator<Item = Result<(K, V), Fault>> + 'a> {
    const STEP: usize = 128;
    let mut seen: usize = 0;
    let step = move |_: &_| {
        seen = seen.wrapping_add(1);
        if seen.is_multiple_of(STEP) {
            (plan.give_way)();
        }
    };
    Merged::of(sources).inspect(step).peekable()
}

fn records_of(part: &Part) -> Source<'_, u128, Vec<u8>> {
    match part {
        Part::Memory(batch) => Box::new(batch.records.iter().map(|(id, (commit, octets))| {
            // Number and octets have to stand side by side in redb: a copy.
            Ok((*id, [&commit.to_le_bytes(), &**octets].concat()))
        })),
        Part::File(file) => Box::new(file.records(ALL, Order::Rising)),
    }
}

fn index_of(part: &Part) -> Source<'_, Key, u8> {
    match part {
        Part::Memory(batch) => Box::new(batch.index.iter().map(|(key, outcome)| Ok((*key, *outcome)))),
        Part::File(file) => Box::new(file.index((Bound::Unbounded, Bound::Unbounded), Order::Rising)),
    }
}
