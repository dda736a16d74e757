//! What must be gone is in no file any more, whatever happens on the way.

use super::faults::Faulty;
use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

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

fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("data")).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join("data").join(path.file_name().unwrap())).unwrap();
    }
    copy
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
            // The copy is complete: what comes now must be brought after it, and not name the person.
            if step == Step::Copied {
                let store = handle.lock().unwrap().as_ref().unwrap().upgrade().unwrap();
                for number in [0, 1, 6] {
                    let record = naming(&store, number);
                    late.lock().unwrap().push(record.id);
                    commit(&store, record);
                }
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    *handle.lock().unwrap() = Some(Arc::downgrade(&store));
    commit_all(&store, (0..300).map(|number| naming(&store, number)));
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
fn several_who_ask_at_once_share_one_rewrite() {
    let place = Place::new();
    let rewrites = Arc::new(AtomicUsize::new(0));
    let (open_gate, gate) = crossbeam_channel::bounded::<()>(1);
    let at_step = {
        let rewrites = Arc::clone(&rewrites);
        move |step| {
            if step == Step::Copied && rewrites.fetch_add(1, Ordering::SeqCst) == 0 {
                gate.recv().unwrap();
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    commit_all(&store, (0..10).map(|number| record(&store, number)));
    let ask = |address: String| {
        let store = Arc::clone(&store);
        std::thread::spawn(move || store.forget(&address).unwrap())
    };
    let first = ask("sender0@example.org".into());
    eventually("the first is under way", || rewrites.load(Ordering::SeqCst) == 1);
    let others: Vec<_> = (1..6).map(|number| ask(format!("sender{number}@example.org"))).collect();
    eventually("the others stand in line", || store.janitor.len() == 5);
    open_gate.send(()).unwrap();
    for thread in std::iter::once(first).chain(others) {
        assert_eq!(thread.join().unwrap(), 1);
    }
    assert_eq!(rewrites.load(Ordering::SeqCst), 2);
    for number in 0..6 {
        assert_eq!(place.files_with(&format!("sender{number}@example.org")), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_kill_at_any_step_leaves_the_old_store_or_the_new_one() {
    let place = Place::new();
    let copies: Arc<Mutex<Vec<(Step, tempfile::TempDir)>>> = Arc::default();
    let at_step = {
        let (copies, directory) = (Arc::clone(&copies), place.directory());
        move |step| copies.lock().unwrap().push((step, copy_of(&directory)))
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
    let records: Vec<_> = (0..300).map(|number| naming(&store, number)).collect();
    commit_all(&store, records.clone());
    store.forget(PERSON).unwrap();

    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert_eq!(copies.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [Step::Copied, Step::Synced, Step::Renamed]);
    for (step, copy) in copies {
        let config = config::Store { path: copy.path().join("data/records.redb"), ..place.config.clone() };
        let stats = Stats::new();
        let store = Store::open(&config, &stats).unwrap();
        assert_eq!(stats.store.records.get(), 300, "{step:?}");
        for record in &records {
            assert!(store.record(record.id).unwrap().is_some(), "{step:?}");
        }
        assert!(!config.path.with_extension("redb.new").exists(), "{step:?}");
        let left = files_with(&copy.path().join("data"), PERSON);
        assert_eq!(left.is_empty(), step == Step::Renamed, "{step:?}: {left:?}");
        store.forget(PERSON).unwrap();
        assert_eq!(files_with(&copy.path().join("data"), PERSON), [] as [PathBuf; 0]);
    }
}

#[test]
fn expired_records_leave_the_file_without_being_asked() {
    let place = Place::new();
    let tuning = Tuning { rewrite_after: Duration::ZERO, housekeeping: Duration::from_millis(5), ..Tuning::default() };
    let store = place.open_with(tuning);
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(31 * 24);
    let young = record(&store, 600);
    commit_all(&store, (0..600).map(|number| Record { date: old, ..naming(&store, number) }).chain([young.clone()]));
    eventually("the records are gone", || place.stats.store.records.get() == 1);
    eventually("their octets are gone", || place.files_with(PERSON).is_empty());
    assert_eq!(store.record(young.id).unwrap().unwrap().subject, young.subject);
    eventually("nothing more is to be done", || store.shared.state().stale_since_ms == 0);
}

#[test]
fn octets_of_expired_records_wait_for_their_rewrite_over_a_restart() {
    let place = Place::new();
    let store = place.open();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(31 * 24);
    commit_all(&store, (0..3000).map(|number| Record { date: old, ..naming(&store, number) }));
    eventually("the records are gone", || place.stats.store.records.get() == 0);
    assert!(!place.files_with(PERSON).is_empty(), "deleting alone does not erase");
    assert!(store.shared.state().stale_since_ms > 0);
    let key = store.shared.files.beside(".index-key");
    drop(store);
    // Also where the summary that says so has to be made anew.
    std::fs::remove_file(key).unwrap();
    drop(place.open());
    assert!(!place.files_with(PERSON).is_empty(), "nothing but a rewrite erases");
    let quick = Tuning { rewrite_after: Duration::from_millis(1), housekeeping: Duration::from_millis(5), ..Tuning::default() };
    let store = place.open_with(quick);
    eventually("their octets are gone", || place.files_with(PERSON).is_empty());
    drop(store);
}

#[test]
fn too_little_space_is_said_before_anything_changes() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let records: Vec<_> = (0..7000).map(|number| naming(&store, number)).collect();
    commit_all(&store, records.clone());
    disk.free.store(5 << 20, Ordering::SeqCst);
    let refused = store.forget(PERSON).unwrap_err();
    assert!(matches!(refused, StoreError::NoSpace { needed, free } if free == 5 << 20 && needed > free), "{refused}");
    assert!(store.writable());
    assert_eq!(store.record(records[0].id).unwrap().unwrap().sender, records[0].sender);
    disk.free.store(1 << 40, Ordering::SeqCst);
    assert_eq!(store.forget(PERSON).unwrap(), 6000);
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
fn a_rewrite_that_cannot_be_written_leaves_the_old_store_in_use() {
    let place = Place::new();
    let disk = Faulty::new();
    let at_step = {
        let disk = Arc::clone(&disk);
        let times = AtomicU64::new(0);
        move |step| {
            if step == Step::Copied && times.fetch_add(1, Ordering::SeqCst) == 0 {
                disk.break_renames.store(true, Ordering::SeqCst);
            }
        }
    };
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() })
        .unwrap();
    commit_all(&store, (0..70).map(|number| naming(&store, number)));
    assert!(store.forget(PERSON).is_err());
    disk.break_renames.store(false, Ordering::SeqCst);
    eventually("the store is usable", || store.writable());
    commit(&store, record(&store, 71));
    assert_eq!(place.stats.store.records.get(), 71);
    store.forget(PERSON).unwrap();
    assert_eq!(place.files_with(PERSON), [] as [PathBuf; 0]);
}

#[test]
fn a_store_that_is_closed_while_it_is_rewritten_answers_and_ends() {
    let place = Place::new();
    for round in 0..20 {
        let (copied, is_copied) = crossbeam_channel::bounded(1);
        let closing = Arc::new(AtomicBool::new(false));
        // The rewrite asks the writer for the swap just when that is told to end.
        let at_step = {
            let closing = Arc::clone(&closing);
            move |step| {
                if step == Step::Copied {
                    copied.send(()).unwrap();
                    while !closing.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    std::thread::park_timeout(Duration::from_micros(50) * round);
                }
            }
        };
        let store = place.open_with(Tuning { at_step: Some(Arc::new(at_step)), ..Tuning::default() });
        let rewrite = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.rewrite()
        });
        is_copied.recv().unwrap();
        let (closed, is_closed) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            closing.store(true, Ordering::SeqCst);
            store.close();
            closed.send(()).unwrap();
        });
        is_closed.recv_timeout(Duration::from_secs(30)).expect("it ends");
        let rewritten = rewrite.join().unwrap();
        assert!(matches!(rewritten, Ok(()) | Err(StoreError::Closed)), "{rewritten:?}");
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
