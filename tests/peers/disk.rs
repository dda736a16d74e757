//! The real daemon on a disk that hangs and fails: strace holds its writes up or makes them fail. Skipped where there is no strace, or it
//! may not trace.

use super::program;
use crate::support::client::{deliver, stuffed};
use crate::support::daemon::BINARY;
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE, eventually, messages};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a store makes octets durable with, whichever way it does.
const SYNCS: &str = "fsync,fdatasync,pwrite64,pwritev2,sync_file_range";

/// Something done to system calls of a running daemon, until it is dropped.
struct Injected(Child);

impl Injected {
    #[track_caller]
    fn into(daemon: &Daemon, calls: &str, what: &str) -> Self {
        let log = daemon.dir().join("strace");
        let child = Command::new(program("strace"))
            .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{what}"), "-o"])
            .arg(&log)
            .args(["-p", &daemon.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let traced = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        eventually("strace", || std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).ok()?.flatten().all(traced).then_some(()));
        Self(child)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // The kernel lets go of what it traced.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of promise 3: the subjects of records that the log has instead of the store.
fn logged(log: &str) -> Vec<String> {
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["record"].as_str().map(str::to_owned);
    let subject = |record: String| serde_json::from_str::<serde_json::Value>(&record).unwrap()["subject"].as_str().map(str::to_owned);
    log.lines().filter_map(record).filter_map(subject).collect()
}

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint).set("shutdown.grace", "3s"));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("before", "text")).starts("250 ");
    let injected = Injected::into(&daemon, SYNCS, "delay_enter=300s");

    // The endpoint has answered at once, so its sender is told that, though the record is not durable.
    let mut waiting = Client::connect(daemon.smtp());
    waiting.envelope("a@sender.test", &["b@example.test"]);
    waiting.expect("DATA", "354 ");
    waiting.send(stuffed(&messages::simple("held", "text")));
    endpoint.wait_for(2);
    let answered = Instant::now();

    // Nothing new is taken, and it says why.
    let reason = eventually("not ready", || {
        let response = daemon.admin.get("/readyz");
        (response.status == 503).then(|| response.text())
    });
    assert!(reason.contains("disk"), "{reason}");
    eventually("a line that says so", || {
        daemon.log().lines().any(|line| line.contains("no mail is taken") && line.contains("disk")).then_some(())
    });
    let mut new = Client::connect(daemon.smtp());
    new.envelope("a@sender.test", &["b@example.test"]);
    new.expect("DATA", "452 4.3.1");
    let text = daemon.admin.get("/metrics").text();
    let wait = text.lines().find_map(|line| line.strip_prefix("mailsluice_store_wait_seconds ")).unwrap();
    assert!(wait.parse::<f64>().unwrap() > 1.9, "{wait}");
    assert_eq!(daemon.admin.get("/healthz").status, 200);
    assert_eq!(endpoint.count(), 2);

    waiting.reply().starts("250 2.0.0 Ok: ");
    let took = answered.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(40), "{took:?}");
    eventually("its line", || (logged(&daemon.log()) == ["held"]).then_some(()));

    // The end does not wait for the disk either.
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    eventually("its last line", || daemon.log().contains("the disk does not answer: ended without it").then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    // The kernel buries a thread that is traced when its tracer has looked at it, and that one sleeps.
    drop(injected);
    let stopped = daemon.ended();
    assert_eq!(stopped.code, Some(0), "{}", stopped.log);
    assert_eq!(logged(&stopped.log), ["held"]);
}

/// systemd is asked for more time while the store opens, and hears of it when it is open.
#[test]
fn a_start_that_waits_for_the_disk_asks_systemd_for_time() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let _daemon = Daemon::spawn(Arc::clone(&dir), Config::to(&endpoint), |command| {
        // The daemon stays our child (-D); its first thread opens the store, and the others are left alone.
        let mut held = Command::new(program("strace"));
        held.args(["-D", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=15s:when=1", "-o", "/dev/null", BINARY]);
        held.args(command.get_args()).env("NOTIFY_SOCKET", dir.path().join("notify"));
        held.current_dir(command.get_current_dir().unwrap());
        *command = held;
    });
    let mut told = Vec::new();
    while !told.contains(&"READY=1".to_owned()) {
        let mut octets = [0; 4096];
        let n = manager.recv(&mut octets).unwrap_or_else(|error| panic!("{error}; only {told:?}"));
        told.extend(String::from_utf8_lossy(&octets[..n]).lines().map(str::to_owned));
    }
    let more = told.iter().position(|line| line == "EXTEND_TIMEOUT_USEC=20000000");
    assert!(more.is_some(), "{told:?}");
}
