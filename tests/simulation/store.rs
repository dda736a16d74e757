//! The store on disks that lose their power, fail, fill, hang and rot, with threads that die: every record whose commit was acknowledged is there
//! afterwards, every other one stands in the log, whatever is found is whole, what was forgotten is nowhere, and mail is taken again.

use super::disk::{Fault, SimulatedDisk};
use super::known::{Counts, Known, PERSON, RETENTION};
use super::{Random, for_each_seed, tell};
use mailsluice::config;
use mailsluice::stats::Stats;
use mailsluice::store::{Disk, StorageBackend, Store, StoreError, Tuning};
use redb::{Builder, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;

/// A start within the millisecond of the one before; a clock that was set on by a year, and by an hour in parts before each of the next starts.
const FAILED_ONCE: [u64; 3] = [6033, 8923, 9499];

fn open(disk: &SimulatedDisk) -> Result<Arc<Store>, StoreError> {
    open_with(disk, Tuning { journal: 64 << 10, ..Tuning::default() })
}

fn open_with(disk: &SimulatedDisk, tuning: Tuning) -> Result<Arc<Store>, StoreError> {
    let config = config::Store {
        path: "/simulated/records.redb".into(),
        retention: RETENTION,
        max_size: 1 << 30,
        redact: config::Redact::default(),
    };
    Store::open_on(Arc::new(disk.clone()), &config, &Stats::new(), tuning)
}

/// Files of few records, so that they are many and are merged; and journals that are often full.
fn any_tuning(random: &mut Random) -> Tuning {
    let batch = 1 + random.below(40) as usize;
    let journal = (1 + random.below(24)) as usize * 4096;
    let seal_after = Duration::from_millis([0, 1, 1000][random.below(3) as usize]);
    let housekeeping = Duration::from_millis([1, 20, 20_000][random.below(3) as usize]);
    Tuning { batch, journal, seal_after, housekeeping, ..Tuning::default() }
}

fn any_fault(random: &mut Random) -> Fault {
    let few = 1 + random.below(3);
    let many = 1 + random.below(60);
    match random.below(10) {
        0 => Fault::Cut,
        1..=3 => Fault::Fail(few),
        4 => Fault::Fail(many),
        5 => Fault::Full(few),
        6 => Fault::Full(many),
        7 => Fault::Hang(Duration::from_millis(random.below(20))),
        8 => Fault::HangToTheEnd(Duration::from_millis(random.below(20))),
        _ => Fault::Panic,
    }
}

/// A year ahead, or back, or what stands between the two; a reset to what it was is another one.
fn any_jump(random: &mut Random) -> Fault {
    const YEAR: u64 = 365 * 86_400_000_000;
    let most = [1_000_000, 3_600_000_000, YEAR][random.below(3) as usize];
    let by_us = random.below(most) as i64;
    Fault::Clock(if random.below(2) == 0 { by_us } else { -by_us })
}

/// Some work as a daemon does it.
fn work(disk: &SimulatedDisk, store: &Store, known: &mut Known, random: &mut Random, counts: &Counts) {
    for _ in 0..1 + random.below(6) {
        let number = 1 + random.below(12);
        known.commit(store, random, number);
        match random.below(8) {
            0 if store.forget(PERSON).is_ok() => {
                tell(|| "forgotten".to_owned());
                known.forgot();
                counts.forgotten.fetch_add(1, Ordering::Relaxed);
                assert_eq!(disk.holding(PERSON), [] as [&Path; 0], "what was forgotten is nowhere");
            }
            1 => drop(store.tidy()),
            _ => {}
        }
    }
}

/// The power goes, the process is killed, or the machine is started again.
fn end(disk: &SimulatedDisk, known: &Known, random: &mut Random) -> SimulatedDisk {
    let disk = match random.below(3) {
        0 => disk.after_kill(random),
        _ => disk.after_power_cut(random),
    };
    if known.is_forgotten() {
        assert_eq!(disk.holding(PERSON), [] as [&Path; 0], "what was forgotten does not come back");
    }
    disk
}

/// The records of a store as one of before 0.2 had them: all in one file.
fn make_older(disk: &SimulatedDisk) {
    type Records<'a> = TableDefinition<'a, u128, &'static [u8]>;
    const RECORDS: Records<'_> = TableDefinition::new("records");
    let path = Path::new("/simulated/records.redb");
    let older = Builder::new().create_with_backend(disk.open_file(path, true).unwrap()).unwrap();
    let txn = older.begin_write().unwrap();
    for file in disk.list(path).unwrap() {
        if file.extension().is_some_and(|span| span.to_string_lossy().starts_with(|first: char| first.is_ascii_digit())) {
            let present = Builder::new().open_read_only_with_backend(disk.open_file(&file, false).unwrap()).unwrap();
            let present = present.begin_read().unwrap().open_table(RECORDS).unwrap();
            let mut records = txn.open_table(RECORDS).unwrap();
            for item in present.iter().unwrap() {
                let (id, value) = item.unwrap();
                // Behind the record's number.
                records.insert(id.value(), &value.value()[8..]).unwrap();
            }
        }
        if file != path {
            disk.remove(&file).unwrap();
        }
    }
    txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap().insert("format", 4u32.to_le_bytes().as_slice()).unwrap();
    txn.commit().unwrap();
    older.close().unwrap();
    disk.open_file(path, false).unwrap().sync_data().unwrap();
    disk.sync_directory(path).unwrap();
}

/// How many operations a run has at all, so that faults befall everything in it.
fn reach() -> u64 {
    let disk = SimulatedDisk::new(&mut Random(0));
    let store = open(&disk).unwrap();
    let mut known = Known::of(&disk);
    for _ in 0..3 {
        known.commit(&store, &mut Random(0), 6);
    }
    store.forget(PERSON).unwrap();
    disk.operations()
}

fn run(seed: u64, reach: u64, counts: &Counts) {
    let mut random = Random(seed);
    let mut disk = SimulatedDisk::new(&mut random);
    let mut known = Known::of(&disk);
    // Records expire by the clock, or it is set and none may go.
    let has_jumps = !seed.is_multiple_of(3);
    known.expired_one_in = if has_jumps { 0 } else { 3 };
    let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(known.log.clone()));
    if seed.is_multiple_of(8) {
        let store = open(&disk).unwrap();
        known.commit(&store, &mut random, 30);
        store.tidy().unwrap();
        store.close();
        make_older(&disk);
    }
    for _ in 0..1 + random.below(3) {
        for _ in 0..random.below(4) {
            disk.strike_after(random.below(reach * 2), any_fault(&mut random));
        }
        if has_jumps && random.below(2) == 0 {
            disk.strike_after(random.below(reach), any_jump(&mut random));
        }
        match open_with(&disk, any_tuning(&mut random)) {
            Ok(store) => {
                known.try_check(&store).unwrap_or_else(|error| assert!(!disk.struck().is_empty(), "{error}"));
                work(&disk, &store, &mut known, &mut random, counts);
                if random.below(2) == 0 && disk.heal() && !disk.struck().contains(&Fault::Panic) {
                    let took = known.until_writable(&store);
                    counts.slowest_recovery_ms.fetch_max(took.as_millis() as u64, Ordering::Relaxed);
                    known.commit(&store, &mut random, 2);
                    known.check(&store);
                }
                if random.below(2) == 0 {
                    store.close();
                }
                disk = end(&disk, &known, &mut random);
                store.close();
            }
            Err(error) => {
                assert!(!disk.struck().is_empty(), "{error}");
                disk = end(&disk, &known, &mut random);
            }
        }
    }
    let store = open(&disk).unwrap();
    known.check(&store);
    assert!(Some(store.next_id()) > known.newest());
    known.commit(&store, &mut random, 3);
    if random.below(2) == 0 {
        store.tidy().unwrap();
    }
    known.check(&store);
    store.close();
    // What the disk has by now is right. Then one bit of it changes.
    disk = disk.after_power_cut(&mut random);
    known.rotten = (random.below(2) == 0).then(|| disk.rot(&mut random));
    let store = open(&disk).unwrap();
    known.commit(&store, &mut random, 3);
    drop(store.tidy());
    known.check(&store);
    known.count(&store, counts);
}

#[test]
fn whatever_befalls_the_disk_no_acknowledged_record_is_lost() {
    let (reach, begun) = (reach(), Instant::now());
    let counts = Counts::default();
    for_each_seed(1000, &FAILED_ONCE, |seed| run(seed, reach, &counts));
    let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "{:?}: {} acknowledged, {} found, {} lost to flipped bits, {} lines, {} of them also in the store; {} erasures; \
         mail again after {} ms at the most",
        begun.elapsed(),
        number(&counts.acknowledged),
        number(&counts.found),
        number(&counts.lost_to_rot),
        number(&counts.lines),
        number(&counts.line_and_place),
        number(&counts.forgotten),
        number(&counts.slowest_recovery_ms),
    );
    assert_eq!(number(&counts.acknowledged), number(&counts.found) + number(&counts.lost_to_rot));
}

#[test]
fn a_disk_that_hangs_is_seen_and_what_was_given_up_may_come_later() {
    for seed in 0..4 {
        let mut random = Random(seed);
        let disk = SimulatedDisk::new(&mut random);
        let mut known = Known::of(&disk);
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(known.log.clone()));
        let store = open(&disk).unwrap();
        known.commit(&store, &mut random, 5);
        disk.hang_up();
        known.commit_with_patience(&store, &mut random, |store| {
            assert!(disk.turns.until(Duration::from_secs(60), || !store.writable()), "nobody notices");
            assert!(store.wait() >= Duration::from_secs(2) && store.trouble().is_some_and(|trouble| trouble.contains("disk")));
        });
        if seed % 2 == 0 {
            disk.heal();
            known.check(&store);
            known.commit(&store, &mut random, 5);
            known.check(&store);
            assert_eq!(store.trouble(), None);
        }
        let disk = end(&disk, &known, &mut random);
        store.close();
        known.check(&open(&disk).unwrap());
    }
}
