//! The real daemon on a disk that forgets: `forgetful.c`, before every call of its C library. A sync fails once, later ones succeed, what it
//! was for is in the page cache and not on the disk; then the cache lets go of it, and the power goes.

use super::program;
use crate::support::load::{self, Load, logged, recorded};
use crate::support::process::run;
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE, eventually};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// As in `forgetful.c`.
const PAGE: usize = 4096;
const PLACE: usize = 24 + PAGE;
const LOST: u64 = 2;

struct ForgetfulDisk {
    dir: Arc<TempDir>,
    side: TempDir,
    library: PathBuf,
}

impl ForgetfulDisk {
    fn new() -> Self {
        let side = tempfile::tempdir().unwrap();
        let library = side.path().join("forgetful.so");
        let mut compile = Command::new(program("gcc"));
        compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library);
        compile.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/forgetful.c")).args(["-ldl", "-lpthread"]);
        run(&mut compile, PATIENCE).ok();
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), side, library }
    }

    fn start(&self, config: &Config) -> Daemon {
        Daemon::spawn(Arc::clone(&self.dir), config.clone(), |command| {
            command.env("LD_PRELOAD", &self.library).env("DISK_SIDE", self.side.path()).env("DISK_FOLDER", self.dir.path());
        })
        .ready()
    }

    /// The so many-th sync, or durable write, of a file of such a name fails; comes back when it has.
    fn fail(&self, number: u32, name: &str) {
        let (fail, new) = (self.side.path().join("fail"), self.side.path().join("new"));
        std::fs::write(&new, format!("{number} {name}")).unwrap();
        std::fs::rename(&new, &fail).unwrap();
        eventually(&format!("sync {number} of {name} fails"), || (!fail.exists()).then_some(()));
    }

    /// Puts back what was on the disk: of pages that a failed sync left behind, or of all that are not durable.
    fn put_back(&self, also_unsynced: bool) -> usize {
        let undo = std::fs::File::open(self.side.path().join("undo")).unwrap();
        let files: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut count = 0;
        for at in (0..).step_by(PLACE) {
            let mut place = [0; PLACE];
            if undo.read_exact_at(&mut place, at).is_err() {
                return count;
            }
            let number = |at: usize| u64::from_ne_bytes(place[at..at + 8].try_into().unwrap());
            let (inode, page, state) = (number(0), number(8), number(16));
            if inode == 0 {
                return count;
            }
            let is_it = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode);
            if let Some(path) = files.iter().find(is_it).filter(|_| state == LOST || (also_unsynced && state != 0)) {
                std::fs::File::options().write(true).open(path).unwrap().write_all_at(&place[24..], page * PAGE as u64).unwrap();
                count += 1;
            }
        }
        count
    }
}

fn damaged(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("unreadable")).collect()
}

#[test]
fn a_sync_that_fails_once_costs_no_record() {
    // Some messages stay undelivered.
    let endpoint = Endpoint::with(|request| Answer::status(if load::id_of(request).is_multiple_of(10) { 500 } else { 200 })).start();
    let disk = ForgetfulDisk::new();
    // Small journals: a file is made of some hundred records.
    let config = Config::to(&endpoint).set("store.max_size", "16MiB");
    let (mut accepted, mut in_log) = (BTreeSet::new(), BTreeSet::new());
    // Of a file that is built: its data, its header, and what closing wrote. The directory. What stands beside. Journals: an append, and zeros.
    let directory = format!("{}$", disk.dir.path().display());
    for (number, name) in [(1, ".new$"), (2, ".new$"), (3, ".new$"), (1, &*directory), (1, ".undelivered.part$"), (9, ".journal-")] {
        let daemon = disk.start(&config);
        let stop = AtomicBool::new(false);
        let load = Load { persistent: true, recipient: "b@example.test".into(), ..Load::new(daemon.smtp(), u64::MAX) };
        let outcome = std::thread::scope(|scope| {
            let running = scope.spawn(|| load::run(&load, &stop));
            disk.fail(number, name);
            let seen = endpoint.count();
            endpoint.wait_for(seen + 150);
            disk.put_back(false);
            let seen = endpoint.count();
            endpoint.wait_for(seen + 50);
            in_log.extend(logged(&daemon.log()));
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap()
        });
        assert!(outcome.count(Some(250)) > 150, "{name}: mail goes on");
        accepted.extend(outcome.accepted());
        // The power goes.
        disk.put_back(true);
        let daemon = disk.start(&config);
        let mut found = recorded(&daemon);
        found.extend(&in_log);
        let lost: Vec<_> = accepted.difference(&found).collect();
        let (found, in_log) = (accepted.intersection(&found).count(), accepted.intersection(&in_log).count());
        println!("sync {number} of {name}: {} acknowledged, {found} found, {in_log} of these in the log", accepted.len());
        assert!(lost.is_empty(), "sync {number} of {name}: {} of {} are lost: {lost:?}", lost.len(), accepted.len());
        assert_eq!(damaged(disk.dir.path()), [] as [PathBuf; 0], "sync {number} of {name}");
        assert_eq!(daemon.stop().code, Some(0));
    }
}
