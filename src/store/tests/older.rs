//! Stores of before 0.2, one redb file and one journal, are taken over.

use super::*;
use encoding::tests::encode_as;
use redb::TableDefinition;
use std::collections::BTreeSet;

/// As such a version left it.
fn old_store(path: &Path, records: &[Record], version: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let database = redb::Database::create(path).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut table = txn.open_table(TableDefinition::<u128, &[u8]>::new("records")).unwrap();
        for record in records {
            table.insert(record.id.0, encode_as(record, if version == 1 { 1 } else { 2 }).as_slice()).unwrap();
        }
        let mut meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
        meta.insert("format", version.to_le_bytes().as_slice()).unwrap();
        if version > 1 {
            meta.insert("state", [&id::first_of(9_000_000_000_000).to_le_bytes()[..], &[0; 40]].concat().as_slice()).unwrap();
        }
        meta.insert("journal", 7u64.to_le_bytes().as_slice()).unwrap();
    }
    txn.commit().unwrap();
}

/// Such a store, and how many records it has.
pub(super) fn filled(place: &Place) -> usize {
    old_store(&place.config.path, &records(0, 60), 4);
    std::fs::write(place.directory().join("records.redb.journal"), old_frame(7, 0, &records(60, 65))).unwrap();
    65
}

/// One frame of the old journal.
fn old_frame(epoch: u64, number: u32, records: &[Record]) -> Vec<u8> {
    let mut head = b"msjrnl01".to_vec();
    head.extend(epoch.to_le_bytes());
    head.extend(number.to_le_bytes());
    let (mut body, mut sums) = (Vec::new(), Vec::new());
    for record in records {
        let octets = encode_as(record, 2);
        body.extend(record.id.0.to_le_bytes());
        body.extend(u32::try_from(octets.len()).unwrap().to_le_bytes());
        body.extend(&octets);
        sums.extend(&octets[octets.len() - 8..]);
    }
    head.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    head.extend(1u128.to_le_bytes());
    let sum = encoding::checksum(0, &[&head[..], &sums].concat());
    let mut frame = [head, body, sum.to_vec()].concat();
    frame.resize(frame.len().next_multiple_of(4096), 0);
    frame
}

#[test]
fn a_frame_of_an_older_journal_that_is_damaged_costs_itself_and_is_told() {
    let frames = [records(60, 65), records(65, 70), records(70, 75)];
    for damaged in 0..4 {
        let place = Place::new();
        old_store(&place.config.path, &records(0, 60), 4);
        // Behind them stands what an earlier use left.
        let uses = [(7, 0), (7, 1), (7, 2), (6, 3)].into_iter().zip(frames.iter().chain([&frames[0]]));
        let mut journal: Vec<_> = uses.map(|((epoch, number), records)| old_frame(epoch, number, records)).collect();
        journal[damaged][100] ^= 1;
        std::fs::write(place.directory().join("records.redb.journal"), journal.concat()).unwrap();
        let lines = faults::Lines::default();
        let _log = tracing::subscriber::set_default(lines.subscriber());
        let store = place.open();
        let missing: Vec<_> =
            (0..3).filter(|number| found(&store).is_disjoint(&frames[*number].iter().map(|one| one.id).collect())).collect();
        assert_eq!(missing, Vec::from_iter((damaged < 3).then_some(damaged)));
        // The last one may as well have been cut off.
        assert_eq!(lines.say("journal is damaged"), damaged < 2, "{damaged}");
    }
}

fn records(from: usize, to: usize) -> Vec<Record> {
    let other = Place::new().open();
    let outcome = |number| if number < 5 { Outcome::Deferred } else { Outcome::Delivered };
    (from..to).map(|number| Record { outcome: outcome(number), ..record(&other, number) }).collect()
}

fn found(store: &Store) -> BTreeSet<RecordId> {
    let (mut found, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = store.query(&Query { cursor, limit: 1000, ..Query::default() }).unwrap();
        found.extend(page.records.iter().map(|record| record.id));
        cursor = page.cursor;
        if cursor.is_none() {
            return found;
        }
    }
}

#[test]
fn an_older_store_is_taken_over_with_what_its_journal_has_and_cut_off_it_begins_again() {
    for version in 1..=4 {
        let place = Place::new();
        let (old, late) = (records(0, 2300), records(2300, 2310));
        old_store(&place.config.path, &old, version);
        let journal = if version == 4 { late } else { Vec::new() };
        std::fs::write(place.directory().join("records.redb.journal"), old_frame(7, 0, &[&journal[..], &old[2290..]].concat())).unwrap();
        let copies: Arc<Mutex<Vec<Place>>> = Arc::default();
        let cut_off = {
            let (copies, directory) = (Arc::clone(&copies), place.directory());
            move |step| {
                if step == Step::Rebuilding {
                    let copy = Place::new();
                    std::fs::create_dir(copy.directory()).unwrap();
                    for entry in std::fs::read_dir(&directory).unwrap() {
                        let path = entry.unwrap().path();
                        std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())).unwrap();
                    }
                    copies.lock().unwrap().push(copy);
                }
            }
        };
        let store = place.open_with(Tuning { batch: 1000, at_step: Some(Arc::new(cut_off)), ..Tuning::default() });
        let expected: BTreeSet<_> = old.iter().chain(&journal).map(|record| record.id).collect();
        let check = |store: &Store, stats: &Stats| {
            assert_eq!(stats.store.records.get(), expected.len() as u64, "version {version}");
            assert_eq!(found(store), expected);
            // A filter may say perhaps: then the keeper looks.
            eventually("what is undelivered is known", || stats.messages.undelivered.get() == 5);
            let read = store.record(old[7].id).unwrap().unwrap();
            let retry_after = old[7].server_response.retry_after.clone().filter(|_| version > 1);
            assert_eq!((read.server_response.retry_after, read.subject), (retry_after, old[7].subject.clone()));
            assert!(version == 1 || store.next_id().0 > id::first_of(9_000_000_000_000), "no id is given again");
        };
        check(&store, &place.stats);
        // Else whoever is killed now reads all of it at the next start.
        assert!(place.directory().join("records.redb.undelivered").exists());
        assert!(!place.config.path.exists() && !place.directory().join("records.redb.journal").exists());
        drop(store);
        check(&place.open(), &place.stats);
        let copies = std::mem::take(&mut *copies.lock().unwrap());
        assert_eq!(copies.len(), 3);
        for copy in copies {
            check(&copy.open(), &copy.stats);
        }
    }
}

#[test]
fn what_an_older_journal_has_is_there_once_whatever_became_of_its_file() {
    for octets in [None, Some(Vec::new()), Some(vec![0x5a; 100_000])] {
        let place = Place::new();
        std::fs::create_dir(place.directory()).unwrap();
        let late = records(60, 65);
        std::fs::write(place.directory().join("records.redb.journal"), old_frame(7, 0, &late)).unwrap();
        if let Some(octets) = &octets {
            std::fs::write(&place.config.path, octets).unwrap();
        }
        let cut_off: Arc<Mutex<Vec<Place>>> = Arc::default();
        let copy = {
            let (cut_off, directory) = (Arc::clone(&cut_off), place.directory());
            move |step| {
                if step == Step::Rebuilding {
                    let copy = Place::new();
                    std::fs::create_dir(copy.directory()).unwrap();
                    for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                        std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())).unwrap();
                    }
                    cut_off.lock().unwrap().push(copy);
                }
            }
        };
        drop(place.open_with(Tuning { at_step: Some(Arc::new(copy)), ..Tuning::default() }));
        let expected: BTreeSet<_> = late.iter().map(|record| record.id).collect();
        for place in [place, cut_off.lock().unwrap().remove(0)] {
            let store = place.open();
            assert_eq!((found(&store), place.stats.store.records.get()), (expected.clone(), 5));
            assert!(!place.directory().join("records.redb.journal").exists());
        }
    }
}

#[test]
fn a_newer_store_is_refused_and_one_beside_the_present_one_too() {
    let place = Place::new();
    old_store(&place.config.path, &[], 6);
    let before = std::fs::read(&place.config.path).unwrap();
    let refused = Store::open(&place.config, &place.stats).err().unwrap();
    assert!(matches!(refused, StoreError::Newer { found: 6, .. }));
    let line = refused.to_string();
    assert!(line.contains("records.redb") && line.contains("newer") && !line.contains('\n'), "{line}");
    assert_eq!(std::fs::read(&place.config.path).unwrap().len(), before.len());
    std::fs::remove_file(&place.config.path).unwrap();
    let store = place.open();
    commit(&store, record(&store, 1));
    drop(store);
    old_store(&place.config.path, &records(0, 3), 4);
    assert!(matches!(Store::open(&place.config, &place.stats), Err(StoreError::Failed { .. })));
    std::fs::write(&place.config.path, "no store at all").unwrap();
    drop(place.open());
    assert_eq!(place.stats.store.records.get(), 1);
    assert!(!place.config.path.exists(), "set aside");
}

#[test]
fn without_the_space_for_it_nothing_is_changed() {
    let place = Place::new();
    let disk = faults::Faulty::new();
    old_store(&place.config.path, &records(0, 2000), 4);
    disk.free.store(1 << 20, Ordering::SeqCst);
    let refused = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).err().unwrap();
    assert!(matches!(refused, StoreError::NoSpace { needed, free: 1_048_576 } if needed > 1_048_576), "{refused}");
    disk.free.store(1 << 40, Ordering::SeqCst);
    drop(Store::open_on(disk, &place.config, &place.stats, Tuning::default()).unwrap());
    assert_eq!(place.stats.store.records.get(), 2000);
}
