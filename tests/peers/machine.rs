//! What needs root on this machine: small file systems, another user. Skipped by name where the tests do not run as root.

use crate::promises::files_with;
use crate::support::client::deliver;
use crate::support::load::{self, Load, recorded};
use crate::support::small_disk::SmallDisk;
use crate::support::{Answer, Config, Daemon, Endpoint, eventually, messages, turn};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_disk_that_fills_up_under_load_and_is_freed() {
    let _turn = turn::alone();
    let disk = SmallDisk::new(64);
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint).set("store.path", disk.path("records.redb").to_str().unwrap()));
    let load = Load { persistent: true, ..Load::new(daemon.smtp(), u64::MAX) };
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| load::run(&load, &stop));
        endpoint.wait_for(200);
        let filler = disk.fill();
        // It notices, says so, and takes no mail.
        eventually("a degraded store", || (daemon.admin.json("/stats")["store"]["degraded"] == true).then_some(()));
        eventually("not ready", || (daemon.admin.get("/readyz").status == 503).then_some(()));
        assert_eq!(daemon.admin.get("/healthz").status, 200);
        eventually("mail that was told to come later", || (daemon.admin.stat("messages.refused.store") > 0).then_some(()));
        std::fs::remove_file(filler).unwrap();
        // And by itself it takes mail again.
        eventually("ready again", || (daemon.admin.get("/readyz").status == 200).then_some(()));
        let seen = endpoint.count();
        endpoint.wait_for(seen + 100);
        stop.store(true, Ordering::Relaxed);
        running.join().unwrap()
    });
    assert!(outcome.count(Some(452)) > 0, "mail was told to come later");
    let codes: BTreeSet<_> = outcome.replies.values().collect();
    assert!(codes.iter().all(|code| matches!(code, Some(250 | 451 | 452))), "{codes:?}");
    let records = recorded(&daemon);
    let lost: Vec<_> = outcome.accepted().filter(|id| !records.contains(id)).collect();
    assert!(lost.is_empty(), "answered 250, neither in the store nor in the log: {lost:?}");
    assert!(daemon.running());
    assert!(daemon.admin.stat("messages.refused.store") > 0);
    let dir = daemon.shared_dir();
    assert_eq!(daemon.stop().code, Some(0));
    assert!(files_with(dir.path(), "X-Load-Sum").is_empty());
}

#[test]
fn a_disk_that_stays_full_keeps_its_answers() {
    // With room for the ballast and without.
    for mebibytes in [64, 24] {
        let disk = SmallDisk::new(mebibytes);
        let endpoint = Endpoint::ok();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let config = Config::to(&endpoint).set("store.path", disk.path("records.redb").to_str().unwrap());
        let mut daemon = Daemon::start_in(Arc::clone(&dir), config.clone());
        let mut accepted = 1;
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("before", "text")).starts("250 ");
        let delivered = |daemon: &Daemon| daemon.admin.records("outcome=delivered").len();
        assert_eq!(delivered(&daemon), 1);
        let filler = disk.fill();
        let mut still_answers = |daemon: &Daemon| {
            // The journal has its place already.
            eventually("452", || match deliver_or_refused(daemon) {
                250 => {
                    accepted += 1;
                    None
                }
                code => (code == 452).then_some(()),
            });
            // Meanwhile the store is opened anew, and again.
            let since = Instant::now();
            eventually("a second of 452", || {
                assert_eq!(deliver_or_refused(daemon), 452);
                (since.elapsed() > Duration::from_secs(1)).then_some(())
            });
            eventually("reads go on", || (daemon.admin.get("/records").status == 200).then_some(()));
            assert!(delivered(daemon) > 0);
            // Promise 3: one that was already with the endpoint may stand in the log instead.
            daemon.log().matches("the record could not be stored").count()
        };
        let mut logged = still_answers(&daemon);
        if mebibytes == 24 {
            // Killed, it has no ballast to give up for its start.
            daemon.kill();
            daemon = Daemon::spawn(dir, config, |_| {});
            logged += still_answers(&daemon);
        }
        std::fs::remove_file(filler).unwrap();
        eventually("mail again", || (deliver_or_refused(&daemon) == 250).then_some(()));
        assert_eq!(delivered(&daemon) + logged, accepted + 1, "all that was answered 250");
    }
}

/// One message; the code of the reply to DATA or to its end.
fn deliver_or_refused(daemon: &Daemon) -> u16 {
    let mut client = crate::support::Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    let reply = client.command("DATA");
    if reply.code != 354 {
        return reply.code;
    }
    client.send(crate::support::client::stuffed(&messages::simple("again", "text")));
    client.reply().code
}

/// `kill -9` while addresses are being forgotten under load: what was acknowledged stays so.
#[test]
fn kill_9_in_the_middle_of_forget() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = Config::to(&endpoint);
    let mut accepted = BTreeSet::new();
    let mut forgotten = Vec::new();
    for round in 0..6 {
        let daemon = Daemon::start_in(Arc::clone(&dir), config.clone());
        for n in 0..10 {
            let address = format!("person-{round}-{n}@example.test");
            deliver(daemon.smtp(), "a@sender.test", &[&address], &messages::simple("personal", "text")).starts("250 ");
        }
        let load = Load { senders: 4, ..Load::new(daemon.smtp(), u64::MAX) };
        let stop = AtomicBool::new(false);
        let (outcome, done) = std::thread::scope(|scope| {
            let running = scope.spawn(|| load::run(&load, &stop));
            let admin = daemon.admin.clone();
            let forgetting = scope.spawn(move || {
                let mut done = Vec::new();
                for n in 0..10 {
                    let address = format!("person-{round}-{n}@example.test");
                    let body = format!("{{\"address\": \"{address}\"}}");
                    let head = format!(
                        "POST /forget HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        admin.host(),
                        body.len()
                    );
                    match admin.request(&head, body.as_bytes()) {
                        Ok(answer) if answer.status == 200 => done.push(address),
                        _ => break,
                    }
                }
                done
            });
            let seen = endpoint.count();
            endpoint.wait_for(seen + 20 + round * 15);
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            (running.join().unwrap(), forgetting.join().unwrap())
        });
        accepted.extend(outcome.accepted());
        forgotten.extend(done);
    }
    let daemon = Daemon::start_in(Arc::clone(&dir), config);
    let records = recorded(&daemon);
    let lost: Vec<_> = accepted.difference(&records).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(!forgotten.is_empty(), "nothing was forgotten in time");
    daemon.stop();
    for address in forgotten {
        assert_eq!(files_with(dir.path(), &address), Vec::<String>::new(), "{address} was acknowledged as forgotten");
    }
}

/// `kill -9` while the oldest records make room for new ones: the newest stay, and the file stays below its maximum.
#[test]
fn kill_9_in_the_middle_of_retention() {
    const MAX_SIZE: u64 = 4 * 1024 * 1024;
    let _turn = turn::alone();
    // Answers that are kept whole: the store is full after some hundred of them.
    let endpoint = Endpoint::always(Answer::text(200, &"because ".repeat(250)));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = Config::to(&endpoint).set("store.max_size", "4MiB");
    for round in 0..6 {
        let daemon = Daemon::start_in(Arc::clone(&dir), config.clone());
        let load = Load { senders: 4, ..Load::new(daemon.smtp(), u64::MAX) };
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let running = scope.spawn(|| load::run(&load, &stop));
            let seen = u64::try_from(endpoint.count()).unwrap();
            eventually("the oldest go", || {
                let kept = daemon.admin.stat("store.records");
                let came = u64::try_from(endpoint.count()).unwrap();
                (came > kept + 100 && came > seen + 60 + round * 25).then_some(())
            });
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap()
        });
        let daemon = Daemon::start_in(Arc::clone(&dir), config.clone());
        let records = recorded(&daemon);
        let newest: Vec<u64> = outcome.accepted().collect::<BTreeSet<_>>().into_iter().rev().take(100).collect();
        let lost: Vec<_> = newest.iter().filter(|id| !records.contains(id)).collect();
        assert!(!newest.is_empty() && lost.is_empty(), "round {round}, lost: {lost:?}");
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        let of_store = files.filter(|file| {
            file.file_name().to_string_lossy().starts_with("records.redb") && !file.path().ends_with("records.redb.ballast")
        });
        let taken: u64 = of_store.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum();
        assert!(taken <= MAX_SIZE, "{taken}");
        daemon.stop();
    }
}

#[test]
fn a_store_that_cannot_be_read_is_set_aside() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("old", "text")).starts("250 ");
    let dir = daemon.shared_dir();
    let killed = daemon.kill();
    let path = dir.path().join("records.redb");
    let garbage = vec![0x5a; 100_000];
    std::fs::write(&path, &garbage).unwrap();
    let daemon = killed.restart();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("new", "text")).starts("250 ");
    // The last records before the kill are in the journal as well, and come along.
    assert_eq!(daemon.admin.records("").len(), 2);
    let aside: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| *file != path && std::fs::read(file).is_ok_and(|octets| octets == garbage))
        .collect();
    assert_eq!(aside.len(), 1, "kept under a name that says so: {aside:?}");
    assert!(daemon.events().iter().any(|event| event["level"] == "error"), "loudly: {}", daemon.log());
}

/// A thousand flipped bits at a time: it opens or sets aside, and answers, whatever they hit.
#[test]
fn flipped_bits_do_not_end_the_daemon() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..50 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("n{n}"), "text")).starts("250 ");
    }
    for round in 0..4_usize {
        let dir = daemon.shared_dir();
        let killed = daemon.kill();
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let kept = ["records.redb.id-secret", "records.redb.index-key"].map(|name| dir.path().join(name));
        for path in files.filter(|path| path.to_string_lossy().contains("records.redb") && !kept.contains(path)) {
            let mut octets = std::fs::read(&path).unwrap();
            let step = octets.len() / 1000 + 1;
            for at in (round * 7..octets.len()).step_by(step) {
                octets[at] ^= 1 << (at % 8);
            }
            std::fs::write(&path, &octets).unwrap();
        }
        daemon = killed.restart();
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("after", "text")).starts("250 ");
        for record in daemon.admin.records("") {
            assert!(record["id"].as_str().is_some_and(|id| id.len() == 26), "{record}");
        }
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert_eq!(daemon.stop().code, Some(0));
}

/// No core dump, no debugger of the same user: `/proc/PID` of a process that is not dumpable belongs to root.
#[test]
fn the_process_leaves_no_core() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    let daemon = Daemon::spawn(dir, Config::to(&endpoint), |command| {
        command.uid(65534).gid(65534);
    })
    .ready();
    let proc = format!("/proc/{}", daemon.pid());
    assert_eq!(std::fs::metadata(format!("{proc}/environ")).unwrap().uid(), 0, "dumpable");
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
