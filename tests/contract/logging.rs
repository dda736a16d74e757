//! Whoever reads the log, slowly or not at all: mail and the end of the daemon do not wait for that.

use crate::support::admin::Admin;
use crate::support::{Client, Config, Endpoint, daemon, eventually, messages, port};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

/// A pipe that takes no octet more.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = nix::fcntl::OFlag::from_bits_retain(nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap());
    let set = |flags| nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    set(flags | nix::fcntl::OFlag::O_NONBLOCK);
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    (reader, writer.into())
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::ok();
    let (smtp, admin) = (port::free(), port::free());
    let config = Config::to(&endpoint)
        .set("smtp.listen", vec![format!("127.0.0.1:{smtp}")])
        .set("admin.listen", format!("127.0.0.1:{admin}"))
        .set("store.path", dir.path().join("records.redb").to_str().unwrap())
        .set("log.level", "debug");
    let file = dir.path().join("mailsluice.toml");
    std::fs::write(&file, config.text()).unwrap();
    let (mut reader, writer) = full_pipe();
    let mut process = daemon::command().arg("serve").arg("--config").arg(&file).stdin(Stdio::null()).stderr(writer).spawn().unwrap();
    let admin = Admin::new(&format!("127.0.0.1:{admin}"));
    eventually("readiness", || (admin.try_get("/readyz").ok()?.status == 200).then_some(()));

    let lost = || -> u64 {
        let text = admin.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with("mailsluice_log_lines_lost_total ")).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let smtp = ([127, 0, 0, 1], smtp).into();
    let mut client = Client::connect(smtp);
    eventually("the queue to be full", || {
        // A line each.
        for _ in 0..200 {
            Client::connect(smtp).reset();
        }
        (lost() > 0).then_some(())
    });
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("one", "text")).starts("250 2.0.0 Ok: ");
    assert_eq!(endpoint.count(), 1);

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id().cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = eventually("its end", || process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.len() >= 4096);
}
