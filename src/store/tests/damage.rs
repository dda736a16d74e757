//! Files that are damaged or vanish cost what stood there and no more, and that is said; nothing panics, and mail goes on.

use super::faults::Lines;
use super::*;

/// Files of records, the oldest first.
fn files(store: &Store) -> Vec<PathBuf> {
    store.shared.view().files.iter().map(|file| store.shared.files.of(file.span())).collect()
}

/// Three files of records, and some records in the journal.
fn filled(place: &Place) -> (Vec<Record>, Vec<PathBuf>) {
    let store = place.open_with(Tuning { batch: 100, ..Tuning::default() });
    let mut records = Vec::new();
    for part in 0..3 {
        let new: Vec<_> = (0..100).map(|number| record(&store, part * 100 + number)).collect();
        commit_all(&store, new.clone());
        records.extend(new);
        store.tidy().unwrap();
    }
    let late: Vec<_> = (300..310).map(|number| record(&store, number)).collect();
    commit_all(&store, late.clone());
    records.extend(late);
    let files = files(&store);
    assert!(files.len() >= 3);
    (records, files)
}

/// Records that stand in other places than a file.
fn outside<'a>(records: &'a [Record], file: &Path) -> impl Iterator<Item = &'a Record> + use<'a> {
    let numbers = file.extension().unwrap().to_str().unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (numbers.0.parse().unwrap(), numbers.1.parse().unwrap());
    records[..first - 1].iter().chain(&records[last..])
}

fn found(store: &Store) -> Vec<RecordId> {
    store.query(&Query { limit: 1000, ..Query::default() }).unwrap().records.iter().map(|record| record.id).collect()
}

#[test]
fn a_file_that_does_not_open_costs_its_own_records_and_is_set_aside() {
    let place = Place::new();
    let (records, files) = filled(&place);
    let good = std::fs::read(&files[1]).unwrap();
    let mut headless = good.clone();
    headless[..4096].fill(0xff);
    for (what, octets, is_all) in [
        ("text", b"this is no database, whatever its name says".to_vec(), false),
        ("cut short", good[..8192].to_vec(), false),
        ("no header", headless, true),
        ("only zeros", vec![0; 1 << 20], false),
        ("nothing", Vec::new(), false),
    ] {
        let copy = killed(&place);
        let damaged = copy.directory().join(files[1].file_name().unwrap());
        std::fs::write(&damaged, &octets).unwrap();
        let lines = Lines::default();
        let log = tracing::subscriber::set_default(lines.subscriber());
        let store = copy.open();
        let left = found(&store);
        assert!(if is_all { 310..311 } else { 200..310 }.contains(&left.len()), "{what}: {}", left.len());
        for record in outside(&records, &files[1]) {
            assert!(left.contains(&record.id), "{what}");
        }
        commit(&store, record(&store, 1));
        drop(store);
        assert_eq!(set_aside_files(&copy).len(), 1, "{what}");
        assert!(lines.say("set aside"), "{what}");
        drop(copy.open());
        drop(log);
        assert_eq!(set_aside_files(&copy).len(), 1, "{what}: once");
    }
}

/// redb would give up the whole file for some of them, or take it for another version's.
#[test]
fn a_bit_anywhere_in_a_files_first_page_costs_no_record() {
    let place = Place::new();
    let (records, files) = filled(&place);
    let numbered = |store: &Store| store.records_after(0, 1000).unwrap().into_iter().map(|found| (found.number, found.record.id));
    let expected: Vec<_> = (1..).zip(records.iter().map(|record| record.id)).collect();
    let step = if std::env::var_os("MAILSLUICE_TEST_FULL").is_some() { 1 } else { 211 };
    for bit in (0..320 * 8).step_by(step) {
        let copy = killed(&place);
        let damaged = copy.directory().join(files[1].file_name().unwrap());
        let mut octets = std::fs::read(&damaged).unwrap();
        octets[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&damaged, octets).unwrap();
        assert_eq!(verify(&copy.config.path).unwrap().records, 310, "bit {bit}");
        let store = copy.open();
        assert!(numbered(&store).eq(expected.iter().copied()), "bit {bit}");
        store.forget("nobody@example.net").unwrap();
        assert!(numbered(&store).eq(expected.iter().copied()), "bit {bit}");
        drop(store);
        assert_eq!(verify(&copy.config.path).unwrap(), Verified { records: 310, ..Verified::default() }, "bit {bit}");
    }
}

#[test]
fn a_page_that_is_gone_costs_the_records_in_it() {
    let place = Place::new();
    let store = place.open();
    // Some leaves are of several pages.
    let long = |number: usize| if number.is_multiple_of(20) { 9000 } else { 10 };
    let records = (0..200).map(|number| Record { subject: Some("s".repeat(long(number))), ..record(&store, number) });
    commit_all(&store, records.collect::<Vec<_>>());
    store.tidy().unwrap();
    let file = files(&store).remove(0);
    let span = folder::Span { first: 1, last: 200 };
    drop(store);
    let octets = std::fs::read(&file).unwrap();
    let left = |octets: &[u8]| {
        let backend = redb::backends::InMemoryBackend::new();
        backend.set_len(octets.len() as u64).unwrap();
        backend.write(0, octets).unwrap();
        file::whole(&backend, span, Vec::new()).unwrap()
    };
    let all = left(&octets);
    assert!(all.iter().map(|entry| entry.commit).eq(1..=200));
    let mut lost = 0;
    for page in (0..octets.len()).step_by(4096) {
        for fill in [0, 1, 0xff] {
            let mut damaged = octets.clone();
            damaged[page..page + 4096].fill(fill);
            let left = left(&damaged);
            assert!(left.len() >= 175 && left.iter().all(|entry| all.contains(entry)), "{page}: {}", left.len());
            lost += 200 - left.len();
        }
    }
    assert!(lost >= 3 * 200, "each record is somewhere: {lost}");
}

/// Killed between the damaged file's second name and the file that takes its place.
#[test]
fn a_salvage_that_is_cut_off_begins_again() {
    let place = Place::new();
    let (_, files) = filled(&place);
    let mut octets = std::fs::read(&files[1]).unwrap();
    octets[..4096].fill(0xff);
    std::fs::write(&files[1], octets).unwrap();
    let cut_off = Tuning { at_step: Some(Arc::new(|step| assert_ne!(step, Step::Built, "cut off"))), ..Tuning::default() };
    for _ in 0..2 {
        let opened = Store::open_on(Arc::new(FileSystem), &place.config, &place.stats, cut_off.clone());
        assert!(opened.is_err());
        assert_eq!(set_aside_files(&place).len(), 1);
    }
    let store = place.open();
    assert_eq!(found(&store).len(), 310);
    drop(store);
    assert_eq!((set_aside_files(&place).len(), verify(&place.config.path).unwrap().records), (1, 310));
}

#[test]
fn a_file_that_is_changed_while_it_is_open_costs_its_own_records() {
    for (what, length, octet) in
        [("nothing is left", 0, None), ("half of it", 1 << 14, None), ("all of it", 0, Some(0x5a)), ("zeros", 0, Some(0))]
    {
        let place = Place::new();
        let (records, files) = filled(&place);
        let store = place.open_with(small());
        let file = std::fs::File::options().write(true).open(&files[1]).unwrap();
        let was = usize::try_from(file.metadata().unwrap().len()).unwrap();
        match octet {
            None => file.set_len(length).unwrap(),
            Some(octet) => std::os::unix::fs::FileExt::write_all_at(&file, &vec![octet; was], 0).unwrap(),
        }
        for _ in 0..3 {
            let left = found(&store);
            assert!(outside(&records, &files[1]).all(|record| left.contains(&record.id)), "{what}: {}", left.len());
        }
        store.forget("nobody@example.net").unwrap();
        eventually(&format!("it is looked after, {what}"), || place.stats.store.records.get() < 310);
        commit(&store, record(&store, 1000));
        drop(store);
        assert_eq!(verify(&place.config.path).unwrap().unreadable, 0, "{what}");
    }
}

/// The power went between the file's name and the journal's end: what the file has the journal has too.
#[test]
fn what_a_damaged_file_held_comes_from_the_journal_where_that_has_it() {
    let place = Place::new();
    let copies: Arc<Mutex<Vec<Place>>> = Arc::default();
    let cut_off = {
        let (copies, directory) = (Arc::clone(&copies), place.directory());
        move |step| {
            if step == Step::Synced {
                let copy = Place::new();
                std::fs::create_dir(copy.directory()).unwrap();
                for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                    std::fs::copy(&path, copy.directory().join(path.file_name().unwrap())).unwrap();
                }
                copies.lock().unwrap().push(copy);
            }
        }
    };
    let store = place.open_with(Tuning { at_step: Some(Arc::new(cut_off)), ..Tuning::default() });
    let records: Vec<_> = (0..50).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    store.tidy().unwrap();
    drop(store);
    let copy = copies.lock().unwrap().remove(0);
    let file = copy.directory().join("records.redb.1-50");
    let mut octets = std::fs::read(&file).unwrap();
    octets.fill(0xff);
    std::fs::write(&file, octets).unwrap();
    let expected = Verified { records: 50, damaged: vec![file], ..Verified::default() };
    assert_eq!(verify(&copy.config.path).unwrap(), expected);
    let lines = Lines::default();
    let log = tracing::subscriber::set_default(lines.subscriber());
    let store = copy.open();
    drop(log);
    assert!(found(&store).into_iter().eq(records.iter().rev().map(|record| record.id)));
    assert!(lines.say("the others are kept"));
    drop(store);
    assert_eq!(verify(&copy.config.path).unwrap(), Verified { records: 50, set_aside: set_aside_files(&copy), ..Verified::default() });
}

#[test]
fn a_missing_file_and_a_missing_store_are_said_loudly() {
    let place = Place::new();
    let (_, files) = filled(&place);
    let copy = killed(&place);
    std::fs::remove_file(copy.directory().join(files[1].file_name().unwrap())).unwrap();
    let lines = Lines::default();
    let log = tracing::subscriber::set_default(lines.subscriber());
    drop(copy.open());
    assert!(lines.say("a file of the store is missing"));
    for entry in std::fs::read_dir(copy.directory()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.to_string_lossy().into_owned();
        if !name.ends_with("secret") && !name.ends_with("key") {
            std::fs::remove_file(entry).unwrap();
        }
    }
    drop(copy.open());
    assert!(lines.say("but none of its records"));
    drop(log);
    let lines = Lines::default();
    let _log = tracing::subscriber::set_default(lines.subscriber());
    drop(place.open());
    assert!(!lines.say("missing") && !lines.say("none of its records"), "a sound one says nothing");
}

#[test]
fn a_flipped_bit_in_a_record_is_noticed_and_only_that_record_is_missing() {
    let place = Place::new();
    let store = place.open();
    let records: Vec<_> = (0..20).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    store.tidy().unwrap();
    let file = files(&store).remove(0);
    drop(store);
    let mut octets = std::fs::read(&file).unwrap();
    let places: Vec<_> = memchr::memmem::find_iter(&octets, b"Subject 7").collect();
    assert!(!places.is_empty());
    for at in places {
        octets[at] ^= 1;
    }
    std::fs::write(&file, octets).unwrap();
    let store = place.open();
    assert!(matches!(store.record(records[7].id), Err(StoreError::Unreadable(id)) if id == records[7].id));
    let page = store.query(&Query::default()).unwrap();
    assert_eq!(page.records.len(), 19);
    assert!(store.unreadable() >= 2);
    commit(&store, record(&store, 21));
    // A damaged record cannot be searched for an address, so it does not outlive an erasure.
    store.forget("nobody@example.net").unwrap();
    assert_eq!(store.record(records[7].id).unwrap(), None);
    assert_eq!(place.stats.store.records.get(), 20);
}

/// Whoever reads on from the last number he was given is given all the others, however few he asks for.
#[test]
fn what_stands_behind_a_damaged_record_is_read_before_the_next_file() {
    let place = Place::new();
    let (records, files) = filled(&place);
    let mut octets = std::fs::read(&files[0]).unwrap();
    let damaged = [7, 8, 9, 40, 98];
    for number in damaged {
        let places: Vec<_> = memchr::memmem::find_iter(&octets, &format!("Subject {number}")).collect();
        places.into_iter().for_each(|at| octets[at] ^= 1);
    }
    std::fs::write(&files[0], octets).unwrap();
    let store = place.open();
    let whole = (1..).zip(&records).map(|(number, record)| (number, record.id));
    let expected: Vec<_> = whole.filter(|(_, id)| !matches!(store.record(*id), Err(StoreError::Unreadable(_)))).collect();
    assert!((250..310).contains(&expected.len()), "{}", expected.len());
    for limit in [1, 2, 3, 32, 1000] {
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let page = store.records_after(after, limit).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = last.number;
            found.extend(page.into_iter().map(|committed| (committed.number, committed.record.id)));
        }
        assert_eq!(found, expected, "{limit} at a time");
    }
}

/// A page above the leaves has for each of its children a checksum of 16 octets and then a number of 8: it leads elsewhere, and the keys there are
/// sound ones.
#[test]
fn a_branch_that_leads_to_another_leaf_is_noticed_and_its_records_come_back() {
    let place = Place::new();
    let (records, files) = filled(&place);
    let good = std::fs::read(&files[1]).unwrap();
    let count_at = |page: usize| usize::from(u16::from_le_bytes([good[page + 2], good[page + 3]]));
    let mut hit = 0;
    for page in (0..good.len()).step_by(4096).filter(|page| good[*page] == 2) {
        let children = page + 8 + 16 * (count_at(page) + 1);
        let is_full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
        for child in (0..=count_at(page)).filter(|child| is_full || [0, count_at(page) / 2].contains(child)) {
            for other in [child + 1, count_at(page)].into_iter().filter(|other| *other != child && *other <= count_at(page)) {
                let copy = killed(&place);
                let mut octets = good.clone();
                octets.copy_within(children + 8 * other..children + 8 * other + 8, children + 8 * child);
                std::fs::write(copy.directory().join(files[1].file_name().unwrap()), octets).unwrap();
                let store = copy.open_with(Tuning { housekeeping: Duration::from_millis(5), ..Tuning::default() });
                let expected: Vec<_> = records.iter().rev().map(|record| record.id).collect();
                let what = format!("page {page}, {other} for {child}");
                let mut at_once = found(&store);
                let sender = Query { sender: records[150].sender.clone().into(), ..Query::default() };
                drop(store.query(&sender).unwrap());
                at_once.dedup();
                assert!(at_once.is_sorted_by(|one, next| one > next), "{what}");
                hit += usize::from(at_once.len() < 310);
                eventually(&what, || found(&store) == expected);
            }
        }
    }
    assert!(hit > 0, "no record stood behind any of them");
}

/// Whoever brings records elsewhere comes by each number once.
#[test]
fn a_cursor_does_not_pass_over_what_a_salvage_brings_back() {
    let place = Place::new();
    let (_, files) = filled(&place);
    let good = std::fs::read(&files[1]).unwrap();
    let is_full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    let (mut cases, mut waited, mut brought_back) = (0, 0, 0);
    for page in (0..good.len()).step_by(4096) {
        // Garbage, a leaf's first keys, one bit at some places, and another child than it had.
        let mut damages = vec![("zeros", vec![0; 4096]), ("another page", good[good.len() - page - 4096..][..4096].to_vec())];
        for (what, at) in [("a bit of its head", 2), ("a bit of its keys", 40), ("a bit in its midst", 1021), ("a bit of its end", 4090)] {
            let mut octets = good[page..page + 4096].to_vec();
            octets[at] ^= 1;
            damages.push((what, octets));
        }
        // A branch has a checksum of 16 octets for each child, and then a number of 8.
        let last = usize::from(u16::from_le_bytes([good[page + 2], good[page + 3]]));
        let children = 8 + 16 * (last + 1);
        if good[page] == 2 && children + 8 * last + 8 <= 4096 {
            for (from, to) in [(0, last), (last, 0), (last / 2, last), (last / 2, last / 2 + 1), (last, last - 1), (0, 1)] {
                let mut octets = good[page..page + 4096].to_vec();
                octets.copy_within(children + 8 * to..children + 8 * to + 8, children + 8 * from);
                damages.push(("another child", octets));
            }
        }
        for (what, octets) in damages.into_iter().filter(|(_, octets)| *octets != good[page..page + 4096]) {
            let is_taken = if what == "another child" { cases % 2 == 0 } else { (page / 4096 + what.len()) % 13 == 0 };
            cases += 1;
            if !is_full && !is_taken {
                continue;
            }
            let (copy, what) = (killed(&place), format!("page {}: {what}", page / 4096));
            let damaged = copy.directory().join(files[1].file_name().unwrap());
            let store = copy.open_with(Tuning { housekeeping: Duration::from_millis(5), journal: 1 << 16, ..Tuning::default() });
            let file = std::fs::File::options().write(true).open(damaged).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &octets, page as u64).unwrap();
            let (mut brought, mut after, mut waits) = (Vec::new(), 0, 0);
            eventually(&what, || {
                loop {
                    let page = match store.all_after(after, 7) {
                        Err(StoreError::Damaged(_)) => {
                            waits += 1;
                            return false;
                        }
                        page => page.unwrap(),
                    };
                    let Some(last) = page.last() else { return true };
                    after = last.number;
                    brought.extend(page.into_iter().map(|committed| (committed.number, committed.record.id)));
                }
            });
            assert!(brought.is_sorted_by(|one, next| one.0 < next.0), "{what}");
            let there = found(&store);
            assert!(
                there.iter().all(|id| brought.iter().any(|(_, brought)| brought == id)),
                "{what}: {} of {}",
                brought.len(),
                there.len()
            );
            waited += usize::from(waits > 0);
            brought_back += usize::from(waits > 0 && brought.len() == 310);
        }
    }
    assert!(waited > 3 && brought_back > 0, "{waited}, {brought_back}");
}

#[test]
fn flipped_bits_anywhere_end_in_right_records_never_in_a_panic_and_cost_their_own_file() {
    let place = Place::new();
    let (records, files) = filled(&place);
    let known: std::collections::BTreeMap<_, _> = {
        let copy = killed(&place);
        let store = copy.open();
        store.query(&Query { limit: 1000, ..Query::default() }).unwrap().records.into_iter().map(|record| (record.id, record)).collect()
    };
    assert_eq!(known.len(), 310);
    let (mut damaged, good) = (0, std::fs::read(&files[1]).unwrap());
    for seed in 0..40u64 {
        let copy = killed(&place);
        let mut octets = good.clone();
        // One page gets garbage: the worst a disk does, at a place the seed picks.
        let mut garbage = blake3::Hasher::new_keyed(&[1; 32]).update(&seed.to_le_bytes()).finalize_xof();
        let mut pick = [0; 8];
        garbage.fill(&mut pick);
        let page = usize::try_from(u64::from_le_bytes(pick) % (octets.len() as u64 / 4096)).unwrap() * 4096;
        garbage.fill(&mut octets[page..page + 1 + usize::from(pick[0])]);
        std::fs::write(copy.directory().join(files[1].file_name().unwrap()), octets).unwrap();
        let store = copy.open();
        let page = store.query(&Query { limit: 1000, ..Query::default() }).unwrap();
        for record in &page.records {
            assert_eq!(known.get(&record.id), Some(record), "seed {seed}");
        }
        let left: std::collections::BTreeSet<_> = page.records.iter().map(|record| record.id).collect();
        for record in outside(&records, &files[1]) {
            assert!(left.contains(&record.id), "seed {seed}");
        }
        commit(&store, record(&store, 1000));
        drop(store.forget("sender9@example.org"));
        commit(&store, record(&store, 1001));
        damaged += usize::from(left.len() < 310);
    }
    assert!(damaged > 0, "the damage was never of consequence: the test shows nothing");
}

#[test]
fn a_flipped_bit_beside_the_records_is_told_and_costs_none() {
    let place = Place::new();
    let store = place.open_with(small());
    let secret = store.id_secret();
    for number in 0..60 {
        commit(&store, Record { outcome: if number % 2 == 0 { Outcome::Deferred } else { Outcome::Delivered }, ..record(&store, number) });
    }
    store.keep_changes(true).unwrap();
    store.tidy().unwrap();
    drop(store);
    assert_eq!(verify(&place.config.path).unwrap(), Verified { records: 60, ..Verified::default() });
    for (suffix, said) in [
        ("id-secret", "one of two copies of a secret is damaged"),
        ("index-key", "one of two copies of a secret is damaged"),
        ("undelivered", "the list of undelivered messages is damaged"),
        ("changes", "to be brought elsewhere is damaged"),
    ] {
        let length = std::fs::read(place.directory().join(format!("records.redb.{suffix}"))).unwrap().len();
        for at in [0, length / 2, length - 1] {
            let copy = killed(&place);
            let path = copy.directory().join(format!("records.redb.{suffix}"));
            let mut octets = std::fs::read(&path).unwrap();
            octets[at] ^= 16;
            std::fs::write(&path, octets).unwrap();
            assert_eq!(verify(&copy.config.path).unwrap(), Verified { records: 60, damaged: vec![path], ..Verified::default() });
            let lines = Lines::default();
            let log = tracing::subscriber::set_default(lines.subscriber());
            let store = copy.open();
            drop(log);
            assert!(lines.say(said), "{suffix}");
            assert!(!lines.say("its index key is another one"), "{suffix}");
            assert_eq!((store.id_secret(), found(&store).len()), (secret, 60));
            assert_eq!(copy.stats.messages.undelivered.get(), 30);
            store.keep_changes(true).unwrap();
            store.tidy().unwrap();
            drop(store);
            assert_eq!(verify(&copy.config.path).unwrap().damaged, [] as [PathBuf; 0], "mended");
        }
    }
    // Of a secret of which nothing is left no other one is made.
    std::fs::write(place.directory().join("records.redb.id-secret"), []).unwrap();
    let refused = Store::open(&place.config, &place.stats).err().unwrap().to_string();
    assert!(refused.contains("id-secret is damaged") && !refused.contains('\n'), "{refused}");
}

#[test]
fn journals_that_are_missing_are_told() {
    let place = Place::new();
    let (_, _) = filled(&place);
    let copy = killed(&place);
    for path in std::fs::read_dir(copy.directory()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.to_string_lossy().contains(".journal-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let lines = Lines::default();
    let _log = tracing::subscriber::set_default(lines.subscriber());
    drop(copy.open());
    assert!(lines.say("the store's journals are missing"));
}
