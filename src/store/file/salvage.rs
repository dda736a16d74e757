//! What can still be read of a file that is damaged: its records, for a new one with a new index. Logs each record that is lost one by one.

use super::StoreFile;
use crate::record::RecordId;
use crate::store::encoding;
use crate::store::error::Fault;
use crate::store::index::IndexKey;
use crate::store::memory::{Batch, Entry};
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
        let behind = file.newest(&(from..u128::MAX)).into_iter().flatten().map_while(Result::ok);
        entries.extend(behind.map(|(id, commit, octets)| Entry { id, commit, octets: octets.into() }));
    }
    entries.sort_unstable_by_key(|entry| entry.commit);
    entries.dedup_by_key(|entry| entry.commit);
    let span = file.span();
    let mut batch = Batch::new(span.first.saturating_sub(1));
    batch.newest_id = file.summary.newest_id;
    for entry in entries.into_iter().filter(|entry| (span.first..=span.last).contains(&entry.commit)) {
        match encoding::decode(entry.id, &entry.octets) {
            Ok(record) => batch.take(entry, &record, key),
            Err(_) => tracing::error!(record = %RecordId(entry.id), "a damaged record was left behind"),
        }
    }
    Ok(Arc::new(batch))
}
