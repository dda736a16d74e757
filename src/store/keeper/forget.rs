//! Erasing: an address is in no file of the store when this is done. Cut off, it begins again.

use super::work::Work;
use crate::store::encoding;
use crate::store::error::Fault;
use crate::store::file::StoreFile;
use crate::store::machine::Machine;
use crate::store::redact::Address;
use crate::store::verify::look_through;
use std::sync::Arc;
use std::time::Duration;

/// A reader that still has an old file open holds its octets on the disk: a page takes two seconds at the most.
const READERS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);

/// How many records named each address. `seal` has the writer hand on what it has: what comes behind it names none of them.
pub(super) fn forget(work: &mut Work, addresses: &[Address], seal: impl FnOnce() -> Result<(), Fault>) -> Result<Vec<u64>, Fault> {
    let mut counts = vec![0; addresses.len()];
    check_space(work)?;
    work.shared.set_erasing(addresses.to_vec());
    let result = seal().and_then(|()| {
        count_in_memory(work, addresses, &mut counts)?;
        // Journals are wiped when they are free, so they hold none of it either.
        work.serve()?;
        for file in work.files() {
            erase(work, &file, addresses, &mut counts)?;
        }
        work.sweep()?;
        work.remove_set_aside(|_| true)
    });
    work.shared.set_erasing(Vec::new());
    result.map(|()| counts)
}

/// The new file stands beside the old one, for one file at a time.
fn check_space(work: &Work) -> Result<(), Fault> {
    let files = &work.shared.files;
    let in_memory = work.shared.view().batches().map(|batch| batch.octets as u64 * 2).max().unwrap_or(0);
    let needed = work.files().iter().map(|file| file.octets).fold(in_memory, u64::max).saturating_add(1 << 20);
    let free = files.disk.free_space(files.directory())?;
    if free < needed { Err(Fault::NoSpace { needed, free }) } else { Ok(()) }
}

fn count(addresses: &[Address], counts: &mut [u64], id: u128, octets: &[u8]) -> bool {
    let Ok(record) = encoding::decode(id, octets) else { return false };
    let mut is_named = false;
    for (address, count) in addresses.iter().zip(counts) {
        if address.is_named_by(&record) {
            is_named = true;
            *count += 1;
        }
    }
    is_named
}

fn count_in_memory(work: &Work, addresses: &[Address], counts: &mut [u64]) -> Result<(), Fault> {
    let sealed = work.shared.view().sealed.clone();
    let mut named = Vec::new();
    for (id, (commit, octets)) in sealed.iter().flat_map(|batch| &batch.records) {
        if count(addresses, counts, *id, octets) {
            named.push(*commit);
        }
    }
    work.shared.note_changes(&named)
}

fn erase(work: &mut Work, file: &Arc<StoreFile>, addresses: &[Address], counts: &mut [u64]) -> Result<(), Fault> {
    let needles: Option<Vec<_>> = addresses.iter().map(Address::needle).collect();
    let may_be_in = |octets: &[u8]| needles.as_ref().is_none_or(|needles| needles.iter().any(|needle| needle.may_be_in(octets)));
    let (mut named, mut is_damaged) = (Vec::new(), false);
    let before = counts.to_vec();
    let searched = work.search(file, |id, commit, octets| {
        // One that is damaged may name anybody.
        is_damaged |= !encoding::is_whole(id, octets);
        if may_be_in(octets) && count(addresses, counts, id, octets) {
            named.push(commit);
        }
    });
    let result = searched.and_then(|()| {
        if is_damaged || !named.is_empty() {
            work.shared.note_changes(&named)?;
            work.rebuild(std::slice::from_ref(file), addresses)?;
            wait_for_readers(work.shared.files.disk.as_ref(), file);
        }
        Ok(())
    });
    match result {
        Err(Fault::Damaged(what)) => {
            // What failed may be the building: then a sound file is not to blame, and the erasure begins again.
            let files = &work.shared.files;
            if look_through(&*files.disk, &files.of(file.span())).is_ok() {
                return Err(Fault::Io(what));
            }
            work.give_up(file, &what)?;
            counts.copy_from_slice(&before);
            let made = work.files().into_iter().find(|made| made.span() == file.span());
            made.map_or(Ok(()), |made| erase(work, &made, addresses, counts))
        }
        other => other,
    }
}

/// A file that was replaced is on the disk until nobody reads it any more.
fn wait_for_readers(machine: &dyn Machine, file: &Arc<StoreFile>) {
    let until = machine.now() + READERS;
    // The caller's list and its own hold it too.
    while (Arc::strong_count(file) > 1 || file.is_read()) && machine.now() < until {
        machine.pause(LOOK);
    }
}
