//! What can still be read of a file that is damaged: its records, for a new one with a new index. Logs each record that is lost one by one.

use super::StoreFile;
use crate::record::RecordId;
use crate::store::encoding;
use crate::store::error::Fault;
use crate::store::folder::Span;
use crate::store::index::IndexKey;
use crate::store::memory::{Batch, Entry};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The records that are as they were written; an error is the disk's.
pub(in crate::store) fn salvage(file: &StoreFile, key: &IndexKey) -> Result<Arc<Batch>, Fault> {
    let mut entries = Vec::new();
    let read = file.each(|id, commit, octets| {
        entries.push(Entry { id, commit, octets: octets.into() });
        true
    });
    if let Err(fault) = read {
        let Fault::Damaged(_) = fault else { return Err(fault) };
        // From the other end, up to the same place.
        let from = entries.last().map_or(0, |entry| entry.id.saturating_add(1));
        for item in file.newest(&(from..u128::MAX)) {
            let Some((id, commit, octets)) = unless_damaged(item)? else { break };
            entries.push(Entry { id, commit, octets: octets.into() });
        }
    }
    let span = file.span();
    set_right(&mut entries, &numbers(file)?, span);
    entries.sort_unstable_by_key(|entry| entry.commit);
    entries.dedup_by_key(|entry| entry.commit);
    let mut batch = Batch::new(span.first.saturating_sub(1));
    batch.newest_id = file.summary.newest_id;
    for entry in entries.into_iter().filter(|entry| span.has(entry.commit)) {
        match encoding::decode(entry.id, &entry.octets) {
            Ok(record) => batch.take(entry, &record, key),
            Err(_) => tracing::error!(record = %RecordId(entry.id), "a damaged record was left behind"),
        }
    }
    Ok(Arc::new(batch))
}

/// The numbers as the other table has them, as far as it can be read.
fn numbers(file: &StoreFile) -> Result<HashMap<u128, u64>, Fault> {
    const SLICE: usize = 4096;
    let (mut numbers, mut from) = (HashMap::new(), 0);
    while let Some(page) = unless_damaged(file.commits(from, SLICE))?
        && let Some((last, _)) = page.last()
        && *last >= from
    {
        from = last.saturating_add(1);
        numbers.extend(page.into_iter().map(|(number, id)| (id, number)));
    }
    Ok(numbers)
}

/// Where the two tables say different things, the number counts that no other record has.
fn set_right(entries: &mut [Entry], numbers: &HashMap<u128, u64>, span: Span) {
    let agree = |entry: &Entry| numbers.get(&entry.id).is_none_or(|number| *number == entry.commit);
    let taken: HashSet<u64> = entries.iter().filter(|entry| agree(entry)).map(|entry| entry.commit).collect();
    for entry in entries.iter_mut().filter(|entry| !agree(entry)) {
        let is_taken = taken.contains(&entry.commit) || !span.has(entry.commit);
        if is_taken && let Some(number) = numbers.get(&entry.id) {
            entry.commit = *number;
        }
    }
}

fn unless_damaged<T>(read: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match read {
        Err(Fault::Damaged(_)) => Ok(None),
        other => other.map(Some),
    }
}
