//! What is durable in the journal and in no file yet: it is read, it outlives a kill, damage costs no more than what is damaged, and it
//! goes with what is erased.

use super::faults::{Faulty, Lines};
use super::*;

fn found(store: &Store) -> Vec<RecordId> {
    let mut ids: Vec<_> = store.query(&Query { limit: 1000, ..Query::default() }).unwrap().records.iter().map(|record| record.id).collect();
    ids.reverse();
    ids
}

/// Commits in batches of one: each a frame.
fn one_by_one(store: &Store, number: usize) -> Vec<RecordId> {
    (0..number)
        .map(|number| {
            let record = record(store, number);
            let id = record.id;
            commit(store, record);
            id
        })
        .collect()
}

/// The journal that has something in it.
fn journal(place: &Place) -> PathBuf {
    let files = std::fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut used = files.filter(|path| path.to_string_lossy().contains(".journal-") && std::fs::read(path).unwrap()[0] != 0);
    used.next().unwrap()
}

#[test]
fn a_record_that_only_the_journal_has_outlives_kills() {
    let mut place = Place::new();
    let store = place.open();
    let records: Vec<_> = (0..30).map(|number| record(&store, number)).collect();
    for part in records.chunks(7) {
        commit_all(&store, part.iter().cloned());
    }
    let mut expected: Vec<_> = records.iter().map(|record| record.id).collect();
    assert_eq!(place.stats.store.records.get(), 30, "counted at once");
    assert_eq!(found(&store), expected, "seen at once");
    assert_eq!(store.in_files(), 0);
    let mut running = store;
    // Killed again and again, and some records more each time.
    for round in 0..12 {
        let copy = killed(&place);
        drop(running);
        running = copy.open();
        assert_eq!(copy.stats.store.records.get(), expected.len() as u64);
        assert_eq!(found(&running), expected, "round {round}");
        assert!(running.next_id() > expected[expected.len() - 1]);
        expected.extend(one_by_one(&running, 3));
        place = copy;
    }
    let numbers: Vec<_> = running.records_after(0, 1000).unwrap().iter().map(|committed| (committed.number, committed.record.id)).collect();
    assert_eq!(numbers, (1..).zip(expected).collect::<Vec<_>>(), "numbers follow the order of the commits");
}

#[test]
fn a_damaged_frame_is_told_from_a_torn_one() {
    let place = Place::new();
    let store = place.open();
    let mut ids = one_by_one(&store, 9);
    let mut long = record(&store, 9);
    long.server_response.body = "of more than one sector ".repeat(80);
    ids.push(long.id);
    commit(&store, long);
    let original = journal(&place);
    for (broken, is_torn) in [(0, false), (4, false), (9, false), (9, true)] {
        let copy = killed(&place);
        let path = copy.directory().join(original.file_name().unwrap());
        let mut octets = std::fs::read(&path).unwrap();
        if is_torn {
            octets[broken * 4096 + 512..(broken + 1) * 4096].fill(0);
        } else {
            octets[broken * 4096 + 100] ^= 1;
        }
        std::fs::write(&path, octets).unwrap();
        let found_by_doctor = verify(&copy.config.path).unwrap();
        assert_eq!((found_by_doctor.records, found_by_doctor.unreadable), (9, u64::from(!is_torn)));
        let lines = Lines::default();
        let log = tracing::subscriber::set_default(lines.subscriber());
        let store = copy.open();
        drop(log);
        let expected: Vec<_> = ids.iter().enumerate().filter(|(number, _)| *number != broken).map(|(_, id)| *id).collect();
        assert_eq!(found(&store), expected);
        assert_eq!((lines.say("the journal is damaged"), lines.say("was cut off")), (!is_torn, is_torn), "frame {broken}");
    }
}

#[test]
fn a_file_is_made_of_what_is_in_the_journal_and_the_journal_is_empty_again() {
    let place = Place::new();
    let store = place.open();
    one_by_one(&store, 5);
    let used = journal(&place);
    store.tidy().unwrap();
    assert_eq!(store.in_files(), 5);
    let octets = std::fs::read(&used).unwrap();
    let (emptied, last) = octets.split_at(octets.len() - 4096);
    assert!(emptied.iter().all(|octet| *octet == 0) && last.starts_with(b"msjrnend") && last[8..].iter().all(|octet| *octet == 0));
    assert_eq!(place.stats.store.records.get(), 5);
    let before = one_by_one(&store, 3);
    let after: Vec<_> = store.records_after(4, 10).unwrap().into_iter().map(|committed| committed.number).collect();
    assert_eq!(after, [5, 6, 7, 8]);
    let copy = killed(&place);
    let store = copy.open();
    assert_eq!(found(&store)[5..], before);
}

#[test]
fn journals_take_turns_and_files_become_one() {
    let place = Place::new();
    let tuning = Tuning { journal: 256 << 10, housekeeping: Duration::from_millis(20), ..Tuning::default() };
    let store = place.open_with(tuning);
    // Each alone in its frame: 64 fill a journal.
    let ids = one_by_one(&store, 1200);
    store.tidy().unwrap();
    assert_eq!(store.in_files(), 1200);
    let files = store.shared.view().files.len();
    assert!(files < 12, "{files} files of 18 journals");
    let journals = std::fs::read_dir(place.directory())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().to_string_lossy().contains(".journal-"));
    assert!(journals.count() <= 8);
    let mut left = Vec::new();
    let mut number = 0;
    loop {
        let page = store.records_after(number, 100).unwrap();
        let Some(last) = page.last() else { break };
        number = last.number;
        left.extend(page.into_iter().map(|committed| committed.record.id));
    }
    assert_eq!(left, ids);
}

#[test]
fn a_file_that_cannot_be_built_delays_nobody_and_is_built_later() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, small()).unwrap();
    disk.break_builds.store(true, Ordering::SeqCst);
    let ids = one_by_one(&store, 100);
    assert!(store.writable());
    assert_eq!(found(&store), ids);
    assert_eq!(store.in_files(), 0);
    let copy = killed(&place);
    assert_eq!(found(&copy.open()), ids, "the journals have it");
    disk.break_builds.store(false, Ordering::SeqCst);
    eventually("files are made", || store.in_files() >= 80);
    assert_eq!(found(&store), ids);
}

#[test]
fn a_journal_that_is_removed_is_noticed_and_nothing_is_lost() {
    let place = Place::new();
    let store = place.open();
    let mut ids = one_by_one(&store, 1);
    std::fs::remove_file(journal(&place)).unwrap();
    eventually("it is noticed", || !store.writable());
    eventually("it goes on", || store.writable());
    ids.extend(one_by_one(&store, 1));
    eventually("the lost one is in a file", || store.in_files() >= 1);
    assert_eq!(found(&killed(&place).open()), ids);
}

#[test]
fn the_copy_of_what_is_undelivered_is_made_again_where_it_is_damaged() {
    let place = Place::new();
    let store = place.open_with(small());
    for number in 0..60 {
        let outcome = if number % 3 == 0 { Outcome::Deferred } else { Outcome::Delivered };
        commit(&store, Record { outcome, webhook_id: format!("webhook-{}", number % 30), ..record(&store, number) });
    }
    store.tidy().unwrap();
    assert_eq!(place.stats.messages.undelivered.get(), 10);
    for octets in [None, Some(Vec::new()), Some(vec![7; 200])] {
        let copy = killed(&place);
        let path = copy.directory().join("records.redb.undelivered");
        assert!(path.exists());
        octets.map_or_else(|| std::fs::remove_file(&path), |octets| std::fs::write(&path, octets)).unwrap();
        let store = copy.open();
        assert_eq!(store.undelivered(None, 100).unwrap().undelivered.iter().map(|message| message.attempts).collect::<Vec<_>>(), [2; 10]);
    }
}

#[test]
fn who_erases_or_tidies_again_and_again_uses_up_no_journals() {
    let place = Place::new();
    let store = place.open();
    commit(&store, record(&store, 0));
    for number in 0..40 {
        store.forget(&format!("sender{number}@example.org")).unwrap();
        store.tidy().unwrap();
        assert!(store.writable());
    }
    commit(&store, record(&store, 1));
    eventually("no more than those in use and two that lie ready", || {
        let journals = store.shared.files.list().unwrap().journals.len();
        journals <= 4 && journals == store.shared.journals.load(Ordering::SeqCst) as usize
    });
}
