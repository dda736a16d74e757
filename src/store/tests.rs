//! The store on real files; power cuts and full disks are in the simulation under `tests/`.

use super::*;
use crate::record::ServerResponse;
use std::path::{Path, PathBuf};
use std::time::Instant;

mod damage;
mod erasing;
mod faults;
mod journal;
mod keeping;
mod older;

/// A directory with a store in it.
pub(super) struct Place {
    directory: tempfile::TempDir,
    pub(super) config: config::Store,
    pub(super) stats: Arc<Stats>,
}

impl Place {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config::Store {
            path: directory.path().join("data/records.redb"),
            retention: Duration::from_secs(30 * 86400),
            max_size: 1 << 32,
            redact: config::Redact::default(),
        };
        Self { directory, config, stats: Stats::new() }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(super) fn open(&self) -> Arc<Store> {
        Store::open(&self.config, &self.stats).unwrap()
    }

    pub(super) fn open_with(&self, tuning: Tuning) -> Arc<Store> {
        Store::open_on(Arc::new(FileSystem), &self.config, &self.stats, tuning).unwrap()
    }

    /// Every file of the store's directory that holds a text in any letter case.
    pub(super) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        files_with(&self.directory(), text)
    }
}

/// A file is made of so few records, and at once.
pub(super) fn small() -> Tuning {
    Tuning { batch: 20, housekeeping: Duration::from_millis(5), ..Tuning::default() }
}

/// Octets that the store takes on the disk, the ballast apart.
pub(super) fn usage(place: &Place) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_none_or(|extension| extension != "ballast"));
    files.filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// A copy of a store's files as they lie there at one moment: what a kill leaves. Files that come and go while they are copied make it another
/// moment for each, which no kill does: then it is done again.
pub(super) fn killed(place: &Place) -> Place {
    let listing = || {
        let entries = std::fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read(path).ok())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut before = listing();
    loop {
        let after = listing();
        if before == after {
            break;
        }
        before = after;
    }
    let copy = Place::new();
    std::fs::create_dir(copy.directory()).unwrap();
    for (path, octets) in before {
        std::fs::write(copy.directory().join(path.file_name().unwrap()), octets.unwrap()).unwrap();
    }
    copy
}

pub(super) fn set_aside_files(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains(".unreadable-")).collect()
}

pub(super) fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let wanted = text.to_ascii_lowercase();
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| {
            // A file of a rewrite may be gone by now.
            let octets = std::fs::read(path).unwrap_or_default().to_ascii_lowercase();
            memchr::memmem::find(&octets, wanted.as_bytes()).is_some()
        })
        .collect()
}

pub(super) fn record(store: &Store, number: usize) -> Record {
    Record {
        id: store.next_id(),
        date: jiff::Timestamp::from_microsecond(jiff::Timestamp::now().as_microsecond()).unwrap(),
        sender_ip: "192.0.2.7".into(),
        message_id: Some(format!("<Message-{number}@example.org>")),
        sender: format!("Sender{number}@example.org"),
        recipients: vec![format!("to{number}@example.com"), "all@example.com".into()],
        subject: Some(format!("Subject {number}")),
        server_response: ServerResponse {
            status: 201,
            body: format!("stored as {number}"),
            content_type: Some("text/plain".into()),
            retry_after: Some("30".into()),
        },
        processing_time_us: 3000,
        queue_us: 1000,
        forward_us: 2000,
        store_us: 0,
        outcome: Outcome::Delivered,
        reply: "250 2.0.0 Ok".into(),
        size: 4096,
        tls: None,
        route: "tickets".into(),
        webhook_id: format!("webhook-{number}"),
    }
}

pub(super) fn commit(store: &Store, record: Record) {
    store.commit(record).blocking_recv().unwrap().unwrap();
}

/// Many records at once, so that they share commits.
pub(super) fn commit_all(store: &Store, records: impl IntoIterator<Item = Record>) {
    let answers: Vec<_> = records.into_iter().map(|record| store.commit(record)).collect();
    for answer in answers {
        answer.blocking_recv().unwrap().unwrap();
    }
}

/// Waits until something holds; fails after half a minute.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
