//! Disks that fail: mail is put off, nothing panics, and it goes on by itself.

use super::*;
use nix::libc::{EACCES, EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use tracing_subscriber::layer::SubscriberExt;

/// The machine's file system with faults switched on and off.
pub(super) struct Faulty {
    /// An errno that every change of the store's file ends with; 0: none.
    pub(super) errno: Arc<AtomicI32>,
    pub(super) free: AtomicU64,
    /// No file of records that was built gets its name.
    pub(super) break_builds: AtomicBool,
    /// ENOSPC ends with the ballast.
    pub(super) ballast_counts: AtomicBool,
    /// How often the free space was asked for.
    looks: AtomicU64,
    unread: Arc<Unread>,
}

/// Reads that fail, of files whose names hold a text: behind so many so many, and how.
#[derive(Debug, Default)]
struct Unread {
    behind: AtomicU64,
    times: AtomicU64,
    of: Mutex<&'static str>,
    errno: AtomicI32,
}

impl Faulty {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            errno: Arc::default(),
            free: AtomicU64::new(1 << 40),
            break_builds: AtomicBool::new(false),
            ballast_counts: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            unread: Arc::default(),
        })
    }

    fn fail_reads(&self, of: &'static str, times: u64) {
        self.fail_reads_with(EIO, of, 0, times);
    }

    fn fail_reads_with(&self, errno: i32, of: &'static str, behind: u64, times: u64) {
        *self.unread.of.lock().unwrap() = of;
        self.unread.errno.store(errno, Ordering::SeqCst);
        self.unread.behind.store(behind, Ordering::SeqCst);
        self.unread.times.store(times, Ordering::SeqCst);
    }
}

fn readable(path: &Path, unread: &Unread) -> io::Result<()> {
    let one_of = |number: &AtomicU64| number.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let is_meant = path.to_string_lossy().contains(*unread.of.lock().unwrap());
    let fails = is_meant && !one_of(&unread.behind) && one_of(&unread.times);
    if fails { failing(&unread.errno) } else { Ok(()) }
}

fn failing(errno: &AtomicI32) -> io::Result<()> {
    match errno.load(Ordering::SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn StorageBackend>,
    errno: Arc<AtomicI32>,
    path: PathBuf,
    unread: Arc<Unread>,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        readable(&self.path, &self.unread)?;
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        failing(&self.errno)?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        failing(&self.errno)?;
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        failing(&self.errno)?;
        self.inner.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// Durable by a sync behind each write.
#[derive(Debug)]
struct Synced(Box<dyn StorageBackend>);

impl DurableFile for Synced {
    fn length(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(at, out)
    }
    fn write(&mut self, at: u64, pages: &[u8]) -> io::Result<()> {
        self.0.write(at, pages)?;
        self.0.sync_data()
    }
}

impl Machine for Faulty {
    /// What is tried again is tried at once.
    fn pause(&self, _: Duration) {
        std::thread::yield_now();
    }
}

impl Disk for Faulty {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let (errno, unread) = (Arc::clone(&self.errno), Arc::clone(&self.unread));
        Ok(Box::new(FaultyFile { inner: FileSystem.open(path)?, errno, path: path.to_owned(), unread }))
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.open(path)
    }
    fn open_durable(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(Synced(self.open(path)?)))
    }
    fn can_write(&self, path: &Path) -> io::Result<()> {
        // A full disk does not forbid it.
        match failing(&self.errno) {
            Err(error) if error.raw_os_error() != Some(ENOSPC) => Err(error),
            _ => FileSystem.can_write(path),
        }
    }
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        FileSystem.stat(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        readable(path, &self.unread)?;
        FileSystem.read(path)
    }
    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        failing(&self.errno)?;
        FileSystem.write(path, octets)
    }
    fn reserve(&self, path: &Path, length: u64) -> io::Result<()> {
        failing(&self.errno)?;
        FileSystem.reserve(path, length)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.break_builds.load(Ordering::SeqCst) && from.extension().is_some_and(|extension| extension == "new") {
            return Err(io::Error::other("a rename that fails"));
        }
        failing(&self.errno)?;
        FileSystem.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        failing(&self.errno)?;
        FileSystem.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        FileSystem.remove(path)?;
        if self.ballast_counts.load(Ordering::SeqCst) && path.extension().is_some_and(|extension| extension == "ballast") {
            self.errno.store(0, Ordering::SeqCst);
        }
        Ok(())
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        FileSystem.sync_directory(directory)
    }
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        FileSystem.create_directory(directory)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        readable(directory, &self.unread)?;
        FileSystem.list(directory)
    }
    fn free_space(&self, _directory: &Path) -> io::Result<u64> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(self.free.load(Ordering::SeqCst))
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        FileSystem.lock(path)
    }
}

/// What is logged by the threads that log here: each event's fields as names and texts.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<std::collections::BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut std::collections::BTreeMap<String, String>);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut fields = std::collections::BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.0.lock().unwrap().push(fields);
    }
}

impl Lines {
    pub(super) fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        // Else a thread that has no subscriber, and comes to a line while another gets its own, may silence it for all of them.
        static FOR_ALL: std::sync::Once = std::sync::Once::new();
        FOR_ALL.call_once(|| drop(tracing::subscriber::set_global_default(tracing_subscriber::registry())));
        tracing_subscriber::registry().with(self.clone())
    }

    /// The records that stand in the log because their commit failed.
    fn records(&self) -> Vec<serde_json::Value> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter_map(|fields| serde_json::from_str(fields.get("record")?).ok()).collect()
    }

    pub(super) fn say(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|fields| fields.get("message").is_some_and(|message| message.contains(text)))
    }
}

#[test]
fn each_error_of_the_disk_puts_mail_off_and_ends_by_itself() {
    for errno in [EIO, ENOSPC, EROFS, EDQUOT] {
        let lines = Lines::default();
        let _log = tracing::subscriber::set_default(lines.subscriber());
        let mut place = Place::new();
        place.config.redact.subject = true;
        let disk = Faulty::new();
        let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
        let before = record(&store, 1);
        commit(&store, before.clone());
        assert!(store.writable());

        disk.errno.store(errno, Ordering::SeqCst);
        let lost = record(&store, 2);
        assert!(store.commit(lost.clone()).blocking_recv().unwrap().is_err());
        // Promise 3: the record is the log line, redacted as configured.
        let logged = lines.records();
        assert_eq!(logged.len(), 1);
        assert_eq!(logged[0]["id"], lost.id.to_string());
        assert_eq!(logged[0]["sender"], lost.sender);
        assert_eq!(logged[0]["subject"], serde_json::Value::Null);
        // Behind the endpoint's 2xx more may come, until no journal takes anything.
        let mut failed = 1;
        eventually("it says so", || {
            if store.writable() {
                assert!(store.commit(record(&store, 3)).blocking_recv().unwrap().is_err());
                failed += 1;
            }
            !store.writable()
        });
        assert_eq!(place.stats.store.degraded.get(), 1);
        assert!(store.trouble().is_some());
        assert_eq!(lines.records().len(), failed);

        disk.errno.store(0, Ordering::SeqCst);
        eventually("it goes on", || store.writable());
        assert_eq!(place.stats.store.degraded.get(), 0);
        let after = record(&store, 4);
        commit(&store, after.clone());
        assert!(store.record(before.id).unwrap().is_some());
        assert!(store.record(after.id).unwrap().is_some());
        assert!(after.id > lost.id);
    }
}

/// What is in a file, and what only the journal has.
fn half_in_a_file(disk: &Arc<Faulty>, place: &Place) -> Vec<Record> {
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let records: Vec<_> = (0..60).map(|number| Record { outcome: Outcome::Deferred, ..record(&store, number) }).collect();
    commit_all(&store, records[..30].iter().cloned());
    store.tidy().unwrap();
    commit_all(&store, records[30..].iter().cloned());
    records
}

fn all_are_there(store: &Store, records: &[Record]) {
    let found = store.query(&Query { limit: 1000, ..Query::default() }).unwrap().records;
    assert!(found.iter().map(|record| record.id).eq(records.iter().rev().map(|record| record.id)));
    assert_eq!((store.unreadable(), store.undelivered(None, 1000).unwrap().undelivered.len()), (0, records.len()));
}

#[test]
fn what_cannot_be_read_at_the_start_is_no_damage_and_nothing_is_lost() {
    let disk = Faulty::new();
    let place = Place::new();
    let records = half_in_a_file(&disk, &place);
    let names = || FileSystem.list(&place.directory()).unwrap().into_iter().collect::<std::collections::BTreeSet<_>>();
    for of in [".journal-", "redb.1-30", ".undelivered", ".changes", ".id-secret", ".index-key", "records.redb", "data"] {
        for (errno, said) in [(EIO, "smartctl"), (EMFILE, "LimitNOFILE"), (ENFILE, "fs.file-max"), (ENOMEM, "memory"), (EACCES, "chmod")] {
            let before = names();
            // For good: it is not opened, and all stays. What is only derived is derived again.
            disk.fail_reads_with(errno, of, 0, u64::MAX);
            let opened = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default());
            match opened.err() {
                Some(error @ StoreError::CannotRead { .. }) => {
                    let line = error.to_string();
                    assert!(line.contains(of) && line.contains(said) && !line.contains('\n'), "{of}, {errno}: {line}");
                    assert_eq!(names(), before, "{of}, {errno}");
                }
                None => assert_eq!(of, ".undelivered"),
                Some(error) => panic!("{of}, {errno}: {error}"),
            }
            disk.fail_reads(of, 0);
        }
        // In passing.
        disk.fail_reads(of, 2);
        let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
        all_are_there(&store, &records);
        drop(store);
        assert_eq!(set_aside_files(&place), [] as [PathBuf; 0], "{of}");
    }
}

/// redb reads a page here and a page there: whichever read fails, what redb makes of it is not believed.
#[test]
fn a_look_through_a_file_and_a_takeover_tell_a_disk_that_fails_from_damage() {
    let (disk, place) = (Faulty::new(), Place::new());
    drop(half_in_a_file(&disk, &place));
    let file = place.directory().join("records.redb.1-30");
    let mut failed = 0;
    for behind in 0.. {
        disk.fail_reads_with(EIO, "redb.1-30", behind, 1);
        match verify::look_through(&*disk, &file) {
            Err(Fault::Disk(error)) => assert_eq!(error.raw_os_error(), Some(EIO)),
            Err(fault) => panic!("read {behind}: {fault}"),
            Ok(()) => break,
        }
        failed += 1;
    }
    assert!(failed > 3, "{failed}");

    let older = Place::new();
    let records = older::filled(&older);
    let octets = std::fs::read(&older.config.path).unwrap();
    let mut refused = 0;
    for behind in (0..).step_by(5) {
        // Each try fails at the same place.
        disk.fail_reads_with(EIO, "records.redb", behind, u64::MAX);
        match Store::open_on(disk.clone(), &older.config, &older.stats, Tuning::default()) {
            Err(StoreError::CannotRead { source, .. }) => assert_eq!(source.raw_os_error(), Some(EIO)),
            Err(error) => panic!("read {behind}: {error}"),
            // What is read first by then is no part of the takeover.
            Ok(store) => drop(store),
        }
        // It goes when the new files are whole, and not before.
        let is_taken_over = !older.config.path.exists();
        assert!(set_aside_files(&older).is_empty(), "read {behind}");
        assert!(is_taken_over || std::fs::read(&older.config.path).unwrap().len() == octets.len(), "read {behind}");
        refused += u64::from(!is_taken_over);
        disk.fail_reads_with(EIO, "records.redb", behind, 1);
        let store = Store::open_on(disk.clone(), &older.config, &older.stats, Tuning::default()).unwrap();
        assert_eq!((older.stats.store.records.get(), store.unreadable()), (records as u64, 0), "read {behind}");
        drop(store);
        std::fs::remove_dir_all(older.directory()).unwrap();
        if is_taken_over {
            break;
        }
        older::filled(&older);
    }
    assert!(refused > 3, "{refused}");
}

/// A directory, a fifo or a link where a file of the store should be: said in one line at once, and all stays.
#[test]
fn what_is_no_file_is_refused_in_one_line_and_nothing_waits_for_it() {
    let (disk, place) = (Faulty::new(), Place::new());
    let records = half_in_a_file(&disk, &place);
    let elsewhere = place.directory().with_extension("elsewhere");
    let names = |part: &str| {
        let mut paths = disk.list(&place.directory()).unwrap();
        paths.retain(|path| path.to_string_lossy().contains(part));
        paths.sort();
        paths
    };
    for part in [".journal-", "redb.1-30", ".undelivered", ".id-secret", ".index-key", ".lock"] {
        let path = names(part).remove(0);
        std::fs::rename(&path, &elsewhere).unwrap();
        for odd in ["a directory", "a fifo", "a link"] {
            match odd {
                "a directory" => std::fs::create_dir(&path).unwrap(),
                "a fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                _ => std::os::unix::fs::symlink(&elsewhere, &path).unwrap(),
            }
            let before = names("records.redb");
            let opened = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default());
            // What is only read whole may be a link, and what is undelivered can be derived.
            let is_read_whole = (odd == "a link" && [".id-secret", ".index-key"].contains(&part)) || part == ".undelivered";
            match opened {
                Ok(store) => {
                    assert!(is_read_whole, "{part}: {odd}");
                    all_are_there(&store, &records);
                }
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.contains(path.to_str().unwrap()) && line.contains("Move it away"), "{part}: {odd}: {line}");
                    assert_eq!(names("records.redb"), before, "{part}: {odd}");
                }
            }
            // Nor does `doctor --store` wait; as the store is closed, it says that nothing holds it.
            assert!(!matches!(verify(&place.config.path), Err(StoreError::Locked(_))), "{part}: {odd}");
            if path.is_dir() { std::fs::remove_dir(&path).unwrap() } else { std::fs::remove_file(&path).unwrap() }
        }
        std::fs::rename(&elsewhere, &path).unwrap();
    }
    all_are_there(&place.open(), &records);
}

#[test]
fn a_file_that_could_not_be_read_once_can_be_read_again() {
    let (disk, place) = (Faulty::new(), Place::new());
    let records = half_in_a_file(&disk, &place);
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    store.tidy().unwrap();
    for of in ["redb.1-30", "redb.31-60"] {
        // Nobody hears of what had passed when it was read anew.
        disk.fail_reads(of, 1);
        all_are_there(&store, &records);
        disk.fail_reads(of, 2);
        assert!(matches!(store.query(&Query { limit: 1000, ..Query::default() }), Err(StoreError::Degraded(_))));
        all_are_there(&store, &records);
        disk.fail_reads(of, 2);
        assert!(store.forget("sender0@example.org").is_err());
        all_are_there(&store, &records);
    }
    assert_eq!(store.forget("sender1@example.org").unwrap(), 1);
    assert_eq!(disk.list(&place.directory()).unwrap().iter().filter(|path| path.to_string_lossy().contains("unreadable")).count(), 0);
}

#[test]
fn records_can_be_read_while_the_file_system_is_read_only() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let written = record(&store, 1);
    commit(&store, written.clone());
    // Until redb has a record, some milliseconds, it is to be read only while the store can be written.
    assert!(store.record(written.id).unwrap().is_some());
    disk.errno.store(EROFS, Ordering::SeqCst);
    assert!(store.commit(record(&store, 2)).blocking_recv().unwrap().is_err());
    assert!(store.record(written.id).unwrap().is_some());
    assert!(matches!(store.forget("sender1@example.org"), Err(StoreError::Degraded(_))));
}

#[test]
fn a_disk_that_is_nearly_full_puts_mail_off_before_a_commit_can_fail() {
    let place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    for free in [2 << 20, 3 << 20] {
        let written = record(&store, 1);
        commit(&store, written.clone());
        disk.free.store(free, Ordering::SeqCst);
        eventually("it is noticed", || !store.writable());
        assert!(store.trouble().unwrap().contains("free"));
        assert!(store.record(written.id).unwrap().is_some(), "what was acknowledged can be read");
        disk.free.store(64 << 20, Ordering::SeqCst);
        eventually("it goes on", || store.writable());
    }
    disk.free.store(1 << 20, Ordering::SeqCst);
    eventually("it is noticed", || !store.writable());
    assert!(store.trouble().unwrap().contains("free"));
    assert!(!store.query(&Query::default()).unwrap().records.is_empty(), "records can be read");
    disk.free.store(6 << 20, Ordering::SeqCst);
    // Not enough to go on with: it would be full again at once.
    let looks = disk.looks.load(Ordering::SeqCst);
    eventually("it has been looked at again and again", || disk.looks.load(Ordering::SeqCst) > looks + 3);
    assert!(store.trouble().is_some());
    disk.free.store(64 << 20, Ordering::SeqCst);
    eventually("it goes on", || store.writable());
    commit(&store, record(&store, 2));
}

#[test]
fn on_a_full_disk_the_ballast_goes_so_that_expired_records_can() {
    let mut place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let ballast = place.directory().join("records.redb.ballast");
    eventually("the ballast is there", || ballast.exists());
    commit_all(&store, (0..300).map(|number| record(&store, number)));
    disk.free.store(0, Ordering::SeqCst);
    eventually("it is noticed", || !store.writable());
    assert!(ballast.exists(), "nothing has expired: nothing to win");
    place.config.retention = Duration::ZERO;
    store.reload(&place.config);
    eventually("the expired records are gone", || place.stats.store.records.get() == 0);
    assert!(!ballast.exists());
    disk.free.store(1 << 30, Ordering::SeqCst);
    eventually("it goes on", || store.writable());
    eventually("the ballast is back", || ballast.exists());
}

/// Ids may be ahead of their dates: then a look at what could have expired goes over many records that have not.
#[test]
fn on_a_full_disk_the_look_at_what_has_expired_ends() {
    let mut place = Place::new();
    let disk = Faulty::new();
    let store = Store::open_on(disk.clone(), &place.config, &place.stats, Tuning::default()).unwrap();
    let ballast = place.directory().join("records.redb.ballast");
    eventually("the ballast is there", || ballast.exists());
    let minutes = |ago: i64| jiff::Timestamp::now() - jiff::SignedDuration::from_mins(ago);
    let aged = |number: usize, id: i64, date: i64| {
        let id = RecordId(id::first_of(minutes(id).as_millisecond()) + number as u128);
        Record { id, date: minutes(date), ..record(&store, number) }
    };
    // One that will have expired, many that will not, and one whose id is so far ahead of its date that the look goes over all of them.
    commit_all(&store, [aged(2000, 56, 61)].into_iter().chain((0..2000).map(|number| aged(number, 55, 55))).chain([aged(2001, 0, 50)]));
    disk.free.store(0, Ordering::SeqCst);
    eventually("it is noticed", || !store.writable());
    place.config.retention = Duration::from_secs(3600);
    store.reload(&place.config);
    eventually("what has expired is gone", || place.stats.store.records.get() == 2001);
    disk.free.store(1 << 30, Ordering::SeqCst);
    eventually("it goes on", || store.writable());
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused_in_one_line() {
    let place = Place::new();
    let store = place.open();
    let refused = Store::open(&place.config, &Stats::new()).err().unwrap();
    assert!(matches!(refused, StoreError::Locked(_)));
    let line = refused.to_string();
    assert!(line.contains("records.redb") && line.contains("another process") && !line.contains('\n'), "{line}");
    commit(&store, record(&store, 1));
    drop(store);
    place.open();
}

#[test]
fn a_place_that_cannot_be_written_is_refused_in_one_line() {
    let place = Place::new();
    std::fs::write(place.directory(), "a file where the directory should be").unwrap();
    let refused = Store::open(&place.config, &place.stats).err().unwrap();
    // The kind is what the exit code is made of.
    assert!(matches!(&refused, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists), "{refused:?}");
    let line = refused.to_string();
    assert!(line.contains("records.redb") && !line.contains('\n'), "{line}");
}

#[test]
fn a_lost_directory_is_noticed_and_made_anew() {
    let place = Place::new();
    let store = place.open();
    let lost = record(&store, 1);
    commit(&store, lost.clone());
    assert!(store.record(lost.id).unwrap().is_some());
    let secret = std::fs::read(place.directory().join("records.redb.id-secret")).unwrap();
    std::fs::rename(place.directory(), place.directory().with_extension("lost")).unwrap();
    // Never a success for a record in a file that has no name any more.
    assert!(store.commit(record(&store, 2)).blocking_recv().unwrap().is_err());
    eventually("it goes on", || store.writable());
    let after = record(&store, 3);
    commit(&store, after.clone());
    // What was acknowledged and stood in the journal alone was in memory too: it finds its place in the new directory.
    assert_eq!(place.stats.store.records.get(), 2);
    store.tidy().unwrap();
    assert_eq!(std::fs::read(place.directory().join("records.redb.id-secret")).unwrap(), secret);
    assert!(matches!(Store::open(&place.config, &Stats::new()), Err(StoreError::Locked(_))), "the lock is held again");
    drop(store);
    let store = place.open();
    assert!(store.record(after.id).unwrap().is_some() && store.record(lost.id).unwrap().is_some());
}

#[test]
fn a_thread_that_dies_says_so() {
    let place = Place::new();
    let store = place
        .open_with(Tuning { at_step: Some(Arc::new(|step| assert_ne!(step, Step::Synced, "a fault in the keeper"))), ..Tuning::default() });
    commit(&store, record(&store, 1));
    assert!(store.tidy().is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(store.died()), "store-keeper");
    assert!(!store.writable());
    let left = killed(&place);
    drop(left.open());
    assert_eq!(left.stats.store.records.get(), 1);
}
