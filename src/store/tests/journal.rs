//! What is durable in the journal and not yet in redb: it is read, it outlives a kill, and it goes with what is erased.

use super::faults::Faulty;
use super::*;
use nix::libc;

/// redb gets the records when it must.
fn slow() -> Tuning {
    Tuning { settle_after: Duration::from_secs(3600), ..Tuning::default() }
}

/// A copy of a store's files as they lie there now: what a kill leaves.
fn killed(place: &Place) -> Place {
    let copy = Place::new();
    std::fs::create_dir(copy.directory()).unwrap();
    for entry in std::fs::read_dir(place.directory()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn records_in_redb(store: &Store) -> u64 {
    store.shared.look(|txn| Ok(redb::ReadableTableMetadata::len(&txn.open_table(schema::RECORDS)?)?)).unwrap()
}

#[test]
fn a_record_that_only_the_journal_has_outlives_a_kill() {
    let place = Place::new();
    let store = place.open_with(slow());
    let records: Vec<_> = (0..30).map(|number| record(&store, number)).collect();
    for part in records.chunks(7) {
        commit_all(&store, part.iter().cloned());
    }
    assert_eq!(place.stats.store.records.get(), 30, "counted at once");
    assert_eq!(records_in_redb(&store), 0);
    let copy = killed(&place);
    // Who asks for it sees it.
    assert!(store.record(records[29].id).unwrap().is_some());
    assert_eq!(records_in_redb(&store), 30);
    // What redb has is not brought in once more.
    let later = killed(&place);
    for place in [copy, later] {
        for _ in 0..2 {
            let store = place.open_with(slow());
            assert_eq!(place.stats.store.records.get(), 30);
            let page = store.query(&Query { limit: 1000, ..Query::default() }).unwrap();
            assert_eq!(
                page.records.iter().rev().map(|record| record.id).collect::<Vec<_>>(),
                records.iter().map(|record| record.id).collect::<Vec<_>>()
            );
            assert!(store.next_id() > records[29].id);
        }
    }
}

#[test]
fn redb_gets_the_records_when_they_are_many_and_when_none_came_for_a_moment() {
    let place = Place::new();
    let store = place.open_with(slow());
    for _ in 0..10 {
        commit_all(&store, (0..50).map(|number| record(&store, number)));
    }
    let in_redb = records_in_redb(&store);
    assert!((250..=500).contains(&in_redb), "{in_redb}");
    drop(store);
    let store = place.open();
    assert_eq!(records_in_redb(&store), 500, "closed properly");
    commit(&store, record(&store, 1));
    eventually("it is in redb", || records_in_redb(&store) == 501);
}

#[test]
fn a_store_that_is_set_aside_leaves_its_journal_to_the_next() {
    let place = Place::new();
    let store = place.open_with(slow());
    let written = record(&store, 1);
    commit(&store, written.clone());
    let copy = killed(&place);
    std::fs::write(&copy.config.path, "no store").unwrap();
    let store = copy.open();
    assert!(store.record(written.id).unwrap().is_some());
}

#[test]
fn a_closed_or_rewritten_store_leaves_nothing_in_the_journal() {
    let place = Place::new();
    let store = place.open_with(slow());
    commit_all(&store, (0..5).map(|number| record(&store, number)));
    let journal = place.directory().join("records.redb.journal");
    let is_empty = || std::fs::read(&journal).unwrap().iter().all(|octet| *octet == 0);
    assert!(!is_empty());
    store.rewrite().unwrap();
    assert!(is_empty());
    commit(&store, record(&store, 6));
    assert!(!is_empty());
    store.close();
    assert!(is_empty());
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), 1 << 20);
}

#[test]
fn a_journal_that_is_removed_is_noticed_and_made_anew() {
    let place = Place::new();
    let store = place.open_with(slow());
    let before = record(&store, 1);
    commit(&store, before.clone());
    let journal = place.directory().join("records.redb.journal");
    std::fs::remove_file(&journal).unwrap();
    eventually("there is one again", || journal.exists());
    eventually("it goes on", || store.writable());
    assert_eq!(records_in_redb(&store), 1, "the writer still knew it");
    commit(&store, record(&store, 2));
    assert!(killed(&place).open().record(before.id).unwrap().is_some());
}

#[test]
fn records_that_no_disk_takes_any_more_are_brought_in_when_it_does() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, slow()).unwrap();
    let records: Vec<_> = (0..20).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    disk.errno.store(libc::EIO, Ordering::SeqCst);
    // Asked for, they cannot be brought into redb.
    assert!(store.record(records[3].id).unwrap().is_none());
    eventually("it says so", || !store.writable());
    disk.errno.store(0, Ordering::SeqCst);
    eventually("it goes on", || store.writable());
    for record in records {
        assert!(store.record(record.id).unwrap().is_some());
    }
    assert_eq!(place.stats.store.records.get(), 20);
}

#[test]
fn records_find_their_place_on_a_full_disk() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, slow()).unwrap();
    let ballast = place.directory().join("records.redb.ballast");
    eventually("the ballast is there", || ballast.exists());
    let written = record(&store, 1);
    commit(&store, written.clone());
    disk.ballast_counts.store(true, Ordering::SeqCst);
    disk.errno.store(libc::ENOSPC, Ordering::SeqCst);
    // Nobody else makes space.
    eventually("it is there", || store.record(written.id).is_ok_and(|record| record.is_some()));
    eventually("it goes on", || store.writable());
    assert_eq!(disk.errno.load(Ordering::SeqCst), 0);
}

#[test]
fn a_store_without_a_journal_is_taken_over_as_it_is() {
    let place = Place::new();
    let store = place.open();
    commit_all(&store, (0..50).map(|number| record(&store, number)));
    drop(store);
    std::fs::remove_file(place.directory().join("records.redb.journal")).unwrap();
    let database = redb::Database::open(&place.config.path).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut meta = txn.open_table(schema::META).unwrap();
        meta.insert(schema::FORMAT, schema::WITHOUT_JOURNAL.to_le_bytes().as_slice()).unwrap();
        meta.remove(schema::JOURNAL).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    let rebuilding = |step| assert_ne!(step, Step::Rebuilding, "its index is as it has to be");
    let store = place.open_with(Tuning { at_step: Some(Arc::new(rebuilding)), ..slow() });
    assert_eq!(place.stats.store.records.get(), 50);
    let version =
        store.shared.look(|txn| Ok(txn.open_table(schema::META)?.get(schema::FORMAT)?.map(|octets| octets.value().to_vec()))).unwrap();
    assert_eq!(version, Some(schema::STORE_VERSION.to_le_bytes().to_vec()));
    commit(&store, record(&store, 50));
    let copy = killed(&place);
    let store = copy.open();
    assert_eq!(copy.stats.store.records.get(), 51);
    drop(store);
}
