//! A thread of the store that dies in the real daemon. strace answers its write with more octets than it had, as no kernel does: the standard
//! library then panics in the middle of the store's own work. Skipped where there is no strace, or it may not trace.

use super::program;
use crate::support::client::{deliver, stuffed};
use crate::support::{Client, Config, Daemon, Endpoint, eventually, messages};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The thread's number.
fn thread(daemon: &Daemon, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
    let mut named = tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.next().unwrap().file_name().into_string().unwrap()
}

#[test]
fn a_writer_that_dies_ends_the_process_with_70_and_its_records_are_lines() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("before", "text")).starts("250 ");
    let writer = thread(&daemon, "store-writer");
    let mut strace = Command::new(program("strace"))
        .args(["-qq", "-e", "trace=pwrite64", "-e", "inject=pwrite64:retval=1000000000:when=1", "-o"])
        .arg(daemon.dir().join("strace"))
        .args(["-p", &writer])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/task/{writer}/status", daemon.pid());
    eventually("strace", || (!std::fs::read_to_string(&status).ok()?.contains("TracerPid:\t0\n")).then_some(()));

    // The endpoint has it, so its sender is told that; the record is a line.
    let begun = Instant::now();
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(stuffed(&messages::simple("lost", "text")));
    // On a busy machine the second that is left may be too short for that.
    if let Ok(reply) = client.try_reply() {
        reply.starts("250 2.0.0 Ok: ");
    }
    let stopped = daemon.ended();
    let _ = (strace.kill(), strace.wait());
    assert_eq!(stopped.code, Some(70), "{}", stopped.log);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let lines = || stopped.log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let records: Vec<serde_json::Value> =
        lines().filter_map(|line| line["record"].as_str().map(|record| serde_json::from_str(record).unwrap())).collect();
    assert_eq!(records.iter().map(|record| record["subject"].as_str()).collect::<Vec<_>>(), [Some("lost")]);
    assert!(lines().any(|line| line["thread"] == "store-writer" && line["message"].as_str().is_some_and(|text| text.contains("died"))));
    assert_eq!(endpoint.count(), 2);
}
