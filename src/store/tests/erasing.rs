//! What must be gone is in no file any more, whatever happens on the way.

use super::faults::Faulty;
use super::*;
use std::sync::atomic::AtomicBool;

const PERSON: &str = "Zoe.Marker@Example.ORG";

/// A record that names the person in one of the places where that can be.
fn naming(store: &Store, number: usize) -> Record {
    let mut record = record(store, number);
    match number % 7 {
        0 => record.sender = PERSON.to_lowercase(),
        1 => record.recipients.push(PERSON.to_uppercase()),
        2 => record.subject = Some(format!("Re: {PERSON} (was: {})", PERSON.to_lowercase())),
        3 => record.message_id = Some(format!("<{PERSON}>")),
        4 => record.server_response.body = format!("no such user:{}.", PERSON.to_uppercase()),
        5 => record.reply = format!("554 5.7.1 {PERSON} is not here"),
        _ => {}
    }
    record
}

#[test]
fn a_forgotten_address_is_in_no_file_and_the_rest_is_as_before() {
    let place = Place::new();
    let store = place.open();
    // Written in many commits, so that old copies of pages abound.
    let records: Vec<_> = (0..700).map(|number| naming(&store, number)).collect();
    for part in records.chunks(20) {
        commit_all(&store, part.iter().cloned());
    }
    assert!(!place.files_with(PERSON).is_empty());
    assert_eq!(store.export(PERSON, None).unwrap().records.len(), 600);

    assert_eq!(store.forget(&format!("<{PERSON}> ")).unwrap(), 600);
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
    assert_eq!(store.export(PERSON, None).unwrap().records, []);
    assert_eq!(store.query(&Query { sender: Some(PERSON.into()), ..Query::default() }).unwrap().records, []);
    assert_eq!(place.stats.store.records.get(), 700);
    for (number, written) in records.iter().enumerate() {
        let read = store.record(written.id).unwrap().unwrap();
        if number % 7 == 6 {
            assert_eq!(
                (&read.sender, &read.recipients, &read.subject, &read.reply),
                (&written.sender, &written.recipients, &written.subject, &written.reply)
            );
        }
        assert_eq!((read.webhook_id, read.size), (written.webhook_id.clone(), written.size));
        let found = store.query(&Query { recipient: Some(format!("to{number}@example.com")), ..Query::default() }).unwrap();
        assert_eq!(found.records.len(), 1);
    }
    assert_eq!(store.record(records[2].id).unwrap().unwrap().subject.unwrap(), "Re: [erased] (was: [erased])");
    assert_eq!(store.forget(PERSON).unwrap(), 0);

    // The rewritten file is a store like any other.
    commit(&store, record(&store, 1000));
    drop(store);
    let store = place.open();
    assert_eq!(place.stats.store.records.get(), 701);
    assert_eq!(store.query(&Query { limit: 1000, ..Query::default() }).unwrap().records.len(), 701);
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
}

#[test]
fn mail_goes_on_while_an_address_is_erased_and_is_not_lost() {
    let place = Place::new();
    let late: Arc<Mutex<Vec<RecordId>>> = Arc::default();
    let handle: Arc<Mutex<Option<std::sync::Weak<Store>>>> = Arc::default();
    let at_step = {
        let (late, handle) = (Arc::clone(&late), Arc::clone(&handle));
        move |step| {
            // What comes now must not name the person.
            if step == Step::Built
                && late.lock().unwrap().is_empty()
                && let Some(store) = handle.lock().unwrap().as_ref().and_then(std::sync::Weak::upgrade)
            {
                for number in [0, 1, 6] {
                    let record = naming(&store, number);
                    late.lock().unwrap().push(record.id);
                    commit(&store, record);
                }
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    commit_all(&store, (0..300).map(|number| naming(&store, number)));
    *handle.lock().unwrap() = Some(Arc::downgrade(&store));
    assert_eq!(store.forget(PERSON).unwrap(), 258);
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
    assert_eq!(place.stats.store.records.get(), 303);
    let late = late.lock().unwrap().clone();
    assert_eq!(store.record(late[0]).unwrap().unwrap().sender, "[erased]");
    assert_eq!(store.record(late[1]).unwrap().unwrap().recipients[2], "[erased]");
    assert_eq!(
        store.query(&Query { sender: Some("sender6@example.org".into()), limit: 1, ..Query::default() }).unwrap().records[0].id,
        late[2]
    );
}

#[test]
fn a_kill_at_any_step_leaves_every_record_and_asking_again_erases() {
    let place = Place::new();
    let copies: Arc<Mutex<Vec<(Step, Place)>>> = Arc::default();
    let armed = Arc::new(AtomicBool::new(false));
    let at_step = {
        let (copies, directory, armed) = (Arc::clone(&copies), place.directory(), Arc::clone(&armed));
        move |step| {
            if armed.load(Ordering::SeqCst) {
                let copy = Place::new();
                std::fs::create_dir(copy.directory()).unwrap();
                for entry in std::fs::read_dir(&directory).unwrap() {
                    let path = entry.unwrap().path();
                    drop(std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())));
                }
                copies.lock().unwrap().push((step, copy));
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    let records: Vec<_> = (0..300).map(|number| naming(&store, number)).collect();
    for part in records.chunks(100) {
        commit_all(&store, part.iter().cloned());
        if part[0].id != records[200].id {
            store.tidy().unwrap();
        }
    }
    armed.store(true, Ordering::SeqCst);
    store.forget(PERSON).unwrap();
    armed.store(false, Ordering::SeqCst);

    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert!(copies.len() >= 9, "the journal and two files: {}", copies.len());
    for (step, copy) in copies {
        let store = copy.open();
        assert_eq!(copy.stats.store.records.get(), 300, "{step:?}");
        for record in &records {
            assert!(store.record(record.id).unwrap().is_some(), "{step:?}");
        }
        store.forget(PERSON).unwrap();
        assert_eq!(copy.files_with(PERSON), [] as [PathBuf; 0]);
        let unfinished = std::fs::read_dir(copy.directory()).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(unfinished.filter(|path| path.extension().is_some_and(|extension| extension == "new")).count(), 0);
    }
}

#[test]
fn expired_records_leave_the_files_without_being_asked() {
    let mut place = Place::new();
    place.config.retention = Duration::from_secs(3600);
    let store = place.open_with(Tuning { housekeeping: Duration::from_millis(5), ..Tuning::default() });
    let soon = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3597);
    commit_all(&store, (0..300).map(|number| Record { date: soon, ..naming(&store, number) }));
    store.tidy().unwrap();
    let young = record(&store, 600);
    commit_all(&store, (0..300).map(|number| Record { date: soon, ..naming(&store, number) }).chain([young.clone()]));
    assert!(!place.files_with(PERSON).is_empty());
    eventually("the records are gone", || place.stats.store.records.get() == 1);
    eventually("their octets are gone", || place.files_with(PERSON).is_empty());
    assert_eq!(store.record(young.id).unwrap().unwrap().subject, young.subject);
    drop(store);
    drop(place.open());
    assert_eq!(place.stats.store.records.get(), 1);
}

#[test]
fn too_little_space_is_said_before_anything_changes() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let records: Vec<_> = (0..14_000).map(|number| naming(&store, number)).collect();
    commit_all(&store, records.clone());
    store.tidy().unwrap();
    disk.free.store(5 << 20, Ordering::SeqCst);
    let refused = store.forget(PERSON).unwrap_err();
    assert!(matches!(refused, StoreError::NoSpace { needed, free } if free == 5 << 20 && needed > free), "{refused}");
    assert!(store.writable());
    assert_eq!(store.record(records[0].id).unwrap().unwrap().sender, records[0].sender);
    disk.free.store(1 << 40, Ordering::SeqCst);
    assert_eq!(store.forget(PERSON).unwrap(), 12_000);
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
}

#[test]
fn a_store_that_was_set_aside_goes_with_the_next_erasure() {
    let place = Place::new();
    std::fs::create_dir_all(place.directory()).unwrap();
    std::fs::write(&place.config.path, format!("no database, but {PERSON} is in it").repeat(1000)).unwrap();
    let store = place.open();
    assert_eq!(place.files_with(PERSON).len(), 1);
    assert_eq!(store.forget(PERSON).unwrap(), 0);
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
}

#[test]
fn an_erasure_that_cannot_be_written_is_said_and_mail_goes_on() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    commit_all(&store, (0..70).map(|number| naming(&store, number)));
    store.tidy().unwrap();
    disk.break_builds.store(true, Ordering::SeqCst);
    assert!(store.forget(PERSON).is_err());
    assert!(store.writable());
    commit(&store, record(&store, 71));
    disk.break_builds.store(false, Ordering::SeqCst);
    assert_eq!(place.stats.store.records.get(), 71);
    store.forget(PERSON).unwrap();
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
}

#[test]
fn a_store_that_is_closed_while_it_erases_answers_and_ends() {
    let place = Place::new();
    for round in 0..20 {
        let (built, is_built) = crossbeam_channel::bounded(1);
        let closing = Arc::new(AtomicBool::new(false));
        let armed = Arc::new(AtomicBool::new(false));
        let at_step = {
            let (closing, armed) = (Arc::clone(&closing), Arc::clone(&armed));
            move |step| {
                if step == Step::Built && armed.swap(false, Ordering::SeqCst) {
                    built.send(()).unwrap();
                    while !closing.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    std::thread::park_timeout(Duration::from_micros(50) * round);
                }
            }
        };
        let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
        commit(&store, naming(&store, 0));
        armed.store(true, Ordering::SeqCst);
        let erasing = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.forget(PERSON)
        });
        is_built.recv().unwrap();
        let (closed, is_closed) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            closing.store(true, Ordering::SeqCst);
            store.close();
            closed.send(()).unwrap();
        });
        is_closed.recv_timeout(Duration::from_secs(30)).expect("it ends");
        let erased = erasing.join().unwrap();
        assert!(matches!(erased, Ok(_) | Err(StoreError::Closed)), "{erased:?}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let store = Place::new().open();
    for text in ["", " <> ", "erased", "[e]", "o", "@", "250", "example.com", "@example.com", "ann@", "ann"] {
        assert!(matches!(store.forget(text), Err(StoreError::NotAnAddress(_))), "{text:?}");
    }
}

#[test]
fn an_address_is_forgotten_however_it_is_spelled() {
    const SPELLINGS: [&str; 5] = [
        "Ζωή.ς@bücher.example",
        "ΖΩΉ.Σ@BÜCHER.example",
        "ζωή.σ@xn--bcher-kva.example",
        "ζωη\u{301}.ς@bu\u{308}cher.example",
        "\"ζωή.ς\"@XN--BCHER-KVA.example",
    ];
    const ENCODED: [&str; 2] =
        ["%CE%B6%CF%89%CE%AE.%CF%82%40b%C3%BCcher.example", "\\u03b6\\u03c9\\u03ae.\\u03c2\\u0040xn--bcher-kva.example"];
    for asked in SPELLINGS {
        let place = Place::new();
        let store = place.open();
        let mut records = Vec::new();
        for (number, written) in SPELLINGS.into_iter().enumerate() {
            records.push(Record { sender: written.into(), ..record(&store, number) });
            records.push(Record { recipients: vec!["b@example.com".into(), written.into()], ..record(&store, number) });
        }
        for written in SPELLINGS.into_iter().chain(ENCODED) {
            records.push(Record { subject: Some(format!("Re: <{written}>, again")), ..record(&store, 7) });
        }
        let count = records.len();
        commit_all(&store, records.into_iter().chain([record(&store, 8)]));
        let senders = store.query(&Query { sender: Some(asked.into()), ..Query::default() }).unwrap();
        assert_eq!(senders.records.len(), SPELLINGS.len(), "{asked}");
        let recipients = store.query(&Query { recipient: Some(asked.into()), ..Query::default() }).unwrap();
        assert_eq!(recipients.records.len(), SPELLINGS.len(), "{asked}");
        assert_eq!(store.export(asked, None).unwrap().records.len(), count, "{asked}");
        assert_eq!(store.forget(asked).unwrap(), count as u64, "{asked}");
        assert_eq!(store.export(asked, None).unwrap().records, []);
        for text in SPELLINGS.into_iter().chain(ENCODED) {
            assert_eq!(place.files_with(text), [] as [PathBuf; 0], "{text}");
        }
    }
}

#[test]
fn a_store_behind_a_symbolic_link_is_where_the_link_leads() {
    let place = Place::new();
    std::fs::create_dir_all(place.directory()).unwrap();
    let link = place.directory().parent().unwrap().join("linked.redb");
    std::os::unix::fs::symlink(&place.config.path, &link).unwrap();
    let config = config::Store { path: link.clone(), ..place.config.clone() };
    let store = Store::open(&config, &place.stats).unwrap();
    commit_all(&store, (0..70).map(|number| naming(&store, number)));
    assert!(matches!(Store::open(&place.config, &place.stats), Err(StoreError::Locked(_))), "one lock, by whatever name");
    store.forget(PERSON).unwrap();
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    drop(store);
    drop(place.open());
    assert_eq!(place.stats.store.records.get(), 70);
}

#[test]
fn what_was_changed_is_told_until_it_is_taken_also_after_a_kill_at_any_step() {
    let place = Place::new();
    let copies: Arc<Mutex<Vec<Place>>> = Arc::default();
    let armed = Arc::new(AtomicBool::new(false));
    let at_step = {
        let (copies, directory, armed) = (Arc::clone(&copies), place.directory(), Arc::clone(&armed));
        move |step| {
            if armed.load(Ordering::SeqCst) && step == Step::Renamed {
                let copy = Place::new();
                std::fs::create_dir(copy.directory()).unwrap();
                for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                    drop(std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())));
                }
                copies.lock().unwrap().push(copy);
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    assert!(!store.keep_changes(true).unwrap() && store.keep_changes(true).unwrap());
    let named = |range: std::ops::Range<usize>| range.filter(|number| number % 7 != 6).map(|number| number as u64 + 1).collect::<Vec<_>>();
    for part in 0..3 {
        commit_all(&store, (part * 70..part * 70 + 70).map(|number| naming(&store, number)));
        if part < 2 {
            store.tidy().unwrap();
        }
    }
    armed.store(true, Ordering::SeqCst);
    assert_eq!(store.forget(PERSON).unwrap(), 180);
    armed.store(false, Ordering::SeqCst);
    let numbers = |store: &Store, position| {
        let mut numbers: Vec<_> = store.changes_after(position, 1000).unwrap().iter().map(|change| change.number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&store, 0), named(0..210));
    assert_eq!((store.oldest(), store.newest(), store.in_files()), (1, 210, 210));
    let page = store.changes_after(0, 100).unwrap();
    assert!(page.iter().all(|change| !format!("{change:?}").to_lowercase().contains(&PERSON.to_lowercase()) && change.record.is_some()));
    store.changes_taken(page[page.len() - 1].position);
    assert_eq!(store.changes_after(0, 1000).unwrap().len(), 80);
    assert_eq!(store.changes_after(page[99].position, 1000).unwrap(), store.changes_after(0, 1000).unwrap());

    // Whatever was changed before a kill, in the file or only in the list, is told.
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert!(copies.len() >= 3);
    for copy in copies {
        let store = copy.open();
        let told = numbers(&store, 0);
        for committed in store.records_after(0, 1000).unwrap() {
            let is_changed = format!("{committed:?}").contains("[erased]");
            assert!(!is_changed || told.contains(&committed.number), "{committed:?}");
        }
        assert!(store.keep_changes(true).unwrap(), "kept over a restart");
    }
    drop(store);
    let store = place.open();
    store.tidy().unwrap();
    store.changes_taken(u64::MAX);
    store.tidy().unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(store.changes_after(0, 1000).unwrap(), []);
    assert!(store.keep_changes(false).unwrap());
    assert!(!place.directory().join("records.redb.changes").exists());
    assert_eq!(store.forget("all@example.com").unwrap(), 210);
    assert_eq!(store.changes_after(0, 1000).unwrap(), []);
}

#[test]
fn a_damaged_list_of_changes_is_none() {
    let place = Place::new();
    let store = place.open();
    store.keep_changes(true).unwrap();
    drop(store);
    let path = place.directory().join("records.redb.changes");
    let mut octets = std::fs::read(&path).unwrap();
    octets[9] ^= 1;
    std::fs::write(&path, octets).unwrap();
    let lines = faults::Lines::default();
    let _log = tracing::subscriber::set_default(lines.subscriber());
    let store = place.open();
    assert!(lines.say("to be brought elsewhere is damaged"));
    assert!(!store.keep_changes(true).unwrap(), "whoever wants it begins anew");
}
