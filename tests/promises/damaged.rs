//! What a disk gives back is not always what was written: each file of the store with a flipped bit, cut to nothing or gone costs what
//! stood there and no more, and both the daemon and `doctor --store` say so. A store has one daemon, whatever becomes of its lock's file.

use super::files_with;
use crate::support::client::deliver;
use crate::support::daemon::cli;
use crate::support::process::{Finished, Process};
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE, eventually, messages};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Messages, each alone in its frame: a journal of 256 KiB and some of the next.
const MESSAGES: usize = 90;

fn copied(from: &Path) -> Arc<TempDir> {
    let copy = tempfile::tempdir().unwrap();
    for path in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    Arc::new(copy)
}

fn flip(path: &Path, at: usize) {
    let mut octets = std::fs::read(path).unwrap();
    octets[at] ^= 1;
    std::fs::write(path, octets).unwrap();
}

fn doctor(dir: &Path) -> Finished {
    cli(&["doctor", "--store", "--config", dir.join("mailsluice.toml").to_str().unwrap()])
}

fn files_named(dir: &Path, part: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(part)).collect()
}

fn first(dir: &Path, part: &str) -> Option<PathBuf> {
    files_named(dir, part).into_iter().min()
}

fn says_error(daemon: &Daemon) -> bool {
    daemon.events().iter().any(|event| event["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("error")))
}

#[test]
fn each_file_that_is_damaged_is_told_and_costs_its_own_stretch() {
    let endpoint =
        Endpoint::with(|request| Answer::status(if request.body.windows(7).any(|w| w == b"later-1") { 500 } else { 200 })).start();
    let config = Config::to(&endpoint).set("store.max_size", "16MiB");
    let daemon = Daemon::start(config.clone());
    for n in 0..MESSAGES {
        let subject = if n % 10 == 0 { format!("later-1{n:03}") } else { format!("now-{n:03}") };
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&subject, "text"));
    }
    let dir = daemon.shared_dir();
    eventually("a file of records", || first(dir.path(), "records.redb.1-").filter(|path| !path.to_string_lossy().ends_with(".new")));
    eventually("what is undelivered", || first(dir.path(), ".undelivered").filter(|path| !path.to_string_lossy().ends_with(".part")));
    eventually("all recorded", || (daemon.admin.stat("store.records") == MESSAGES as u64).then_some(()));
    daemon.kill();

    let octets_of = |path: &Path| std::fs::read(path).unwrap();
    let used_journal = |dir: &Path| files_named(dir, ".journal-").into_iter().find(|path| octets_of(path)[0] != 0).unwrap();
    type Damage<'a> = Box<dyn Fn(&Path) -> PathBuf + 'a>;
    let flipped = |part: &'static str, at: usize| -> Damage<'_> {
        Box::new(move |dir| {
            let path = first(dir, part).unwrap();
            flip(&path, at);
            path
        })
    };
    let cut = |part: &'static str| -> Damage<'_> {
        Box::new(move |dir| {
            let path = first(dir, part).unwrap();
            std::fs::write(&path, []).unwrap();
            path
        })
    };
    let of_a_file: Damage<'_> = Box::new(|dir| {
        let path = first(dir, "records.redb.1-").unwrap();
        // Wherever it stands: a page that was copied on the way may be one that nothing reads.
        let octets = octets_of(&path);
        let mut damaged = octets.clone();
        memchr::memmem::find_iter(&octets, b"now-007").for_each(|at| damaged[at] ^= 1);
        std::fs::write(&path, damaged).unwrap();
        path
    });
    let of_the_journal: Damage<'_> = Box::new(|dir| {
        let path = used_journal(dir);
        flip(&path, 4096 * 3 + 200);
        path
    });
    let of_its_last_frame: Damage<'_> = Box::new(|dir| {
        let path = used_journal(dir);
        let last = octets_of(&path).chunks(4096).take_while(|page| page[0] != 0).count() - 1;
        flip(&path, 4096 * last + 200);
        path
    });
    let shortened = |length: u64| -> Damage<'_> {
        Box::new(move |dir| {
            let path = used_journal(dir);
            std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            path
        })
    };
    // What is damaged, and how many records that may cost.
    let cases: [(&str, Damage<'_>, usize); 12] = [
        ("a record in a file", of_a_file, 1),
        ("a file's first page", flipped("records.redb.1-", 20), 0),
        ("a file of nothing", cut("records.redb.1-"), 80),
        ("the journal", of_the_journal, 1),
        ("the journal's last frame", of_its_last_frame, 1),
        ("the journal, of nothing", shortened(0), 30),
        ("the journal, cut short", shortened(3 * 4096), 30),
        ("id-secret", flipped(".id-secret", 7), 0),
        ("index-key", flipped(".index-key", 70), 0),
        ("undelivered", flipped(".undelivered", 30), 0),
        ("undelivered, of nothing", cut(".undelivered"), 0),
        (
            "the journals are gone",
            Box::new(|dir| {
                files_named(dir, ".journal-").iter().for_each(|path| std::fs::remove_file(path).unwrap());
                dir.join("records.redb.journal-1")
            }),
            80,
        ),
    ];
    for (what, damage, most) in cases {
        let copy = copied(dir.path());
        // The store's place is in its configuration.
        let text = config.clone().set("store.path", copy.path().join("records.redb").to_str().unwrap()).text();
        // Nor is an endpoint waited for.
        let text = text.replace(&endpoint.url(""), "http://127.0.0.1:9");
        std::fs::write(copy.path().join("mailsluice.toml"), text).unwrap();
        let path = damage(copy.path());
        let examined = doctor(copy.path());
        if path.exists() {
            assert!(examined.out.contains("damaged") || examined.err.contains("damaged"), "{what}: {examined:?}");
        }
        let daemon = Daemon::start_in(Arc::clone(&copy), config.clone());
        let found = daemon.admin.records("").len();
        println!("{what}: {MESSAGES} acknowledged, {found} found");
        assert!(found >= MESSAGES - most && found + usize::from(most > 0) <= MESSAGES, "{what}: {found} of {MESSAGES}");
        eventually(&format!("a line about {what}"), || says_error(&daemon).then_some(()));
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("now", "text")).starts("250 ");
        assert_eq!(daemon.stop().code, Some(0), "{what}");
        // What was put out of the way is no secret afterwards either.
        let aside = !files_named(copy.path(), "unreadable").is_empty();
        let examined = doctor(copy.path());
        assert_eq!(examined.out.contains("set aside"), aside, "{what}: {examined:?}");
    }
}

#[test]
fn a_store_has_one_daemon_and_stays_where_its_link_led() {
    let endpoint = Endpoint::ok();
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("link.redb");
    let (there, elsewhere) = (place.path().join("there"), place.path().join("elsewhere"));
    std::fs::create_dir(&there).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(there.join("records.redb"), &link).unwrap();
    let config = Config::to(&endpoint).set("store.path", link.to_str().unwrap());
    let mut daemon = Daemon::start(config.clone());
    deliver(daemon.smtp(), "zoe@sender.test", &["b@example.test"], &messages::simple("one", "text")).starts("250 ");

    // A second one is refused by its own path, by the link, and when the lock's file is gone.
    let other = |path: &Path| config.clone().set("store.path", path.to_str().unwrap()).set("smtp.listen", vec!["127.0.0.1:0"]);
    for (path, remove) in [(link.clone(), false), (there.join("records.redb"), false), (there.join("records.redb"), true)] {
        if remove {
            std::fs::remove_file(there.join("records.redb.lock")).unwrap();
        }
        let file = place.path().join("second.toml");
        std::fs::write(&file, other(&path).text()).unwrap();
        let mut command = crate::support::daemon::command();
        let mut second = Process::start(command.args(["serve", "--config"]).arg(&file));
        let status = second.wait(PATIENCE);
        assert!(matches!(status.code(), Some(69 | 73 | 74)), "{status}: {}", second.lines.text());
        assert!(second.lines.text().contains("in use by another process"), "{}", second.lines.text());
    }
    assert!(daemon.running());
    eventually("it noticed, and has a lock again", || {
        (daemon.log().contains("can be used again") && daemon.admin.get("/readyz").status == 200).then_some(())
    });
    deliver(daemon.smtp(), "zoe@sender.test", &["b@example.test"], &messages::simple("two", "text")).starts("250 ");

    // Where the link leads later is nobody's concern.
    std::fs::remove_file(&link).unwrap();
    symlink(elsewhere.join("records.redb"), &link).unwrap();
    let forgotten = daemon.admin.post("/forget", "application/json", r#"{"address": "zoe@sender.test"}"#);
    assert_eq!((forgotten.status, forgotten.json()["records"].as_u64()), (200, Some(2)));
    assert_eq!(files_with(place.path(), "zoe@sender.test"), [] as [&str; 0]);
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(daemon.stop().code, Some(0));
}
