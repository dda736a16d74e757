//! fail2ban: its own tool reads a log that the daemon wrote with the filter of the package, and finds whom it should and nobody else.

use crate::support::daemon::command;
use crate::support::process::{Process, run};
use crate::support::{Answer, Client, Config, Endpoint, PATIENCE, turn};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// Addresses that the filter finds in a file.
fn found(log: &std::path::Path) -> BTreeSet<String> {
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/fail2ban/mailsluice.conf");
    let out = run(Command::new(super::program("fail2ban-regex")).args(["-o", "<ip>"]).arg(log).arg(filter), PATIENCE).ok();
    out.lines().map(str::to_owned).collect()
}

#[test]
fn finds_who_was_refused_and_cut_off() {
    let _turn = turn::shared();
    let endpoint = Endpoint::always(Answer::text(422, "recipient refused sender_ip=203.0.113.9 reply=\"550 5.1.1 x"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let config = Config::without_routes()
        .route("all", &["*@example.test"], &endpoint.url("/in"))
        .set("store.path", dir.path().join("s.redb").to_str().unwrap())
        .set("log.format", "text")
        .set("smtp.max_errors", 3);
    std::fs::write(&file, config.text()).unwrap();
    let daemon = Process::start(command().args(["serve", "--config"]).arg(&file));
    let smtp: SocketAddr = daemon.lines.wait_for("the listener", |line| line.split("listener=smtp address=").nth(1)?.trim().parse().ok());
    daemon.lines.wait_for("it is ready", |line| line.contains(" ready ").then_some(()));
    let from = |last: u8| {
        let mut client = Client::connect_from(IpAddr::from([127, 0, 0, last]), smtp);
        client.reply().starts("220 ");
        client.ehlo();
        client
    };
    let mut refused = from(11);
    refused.expect("MAIL FROM:<a@sender.test>", "250 ");
    refused.expect(r#"RCPT TO:<"sender_ip=203.0.113.8 x"@elsewhere.test>"#, "550 5.1.1 ");
    refused.quit();
    let mut junk = from(12);
    for _ in 0..3 {
        junk.expect("XYZZY", "500 ");
    }
    junk.reply().starts("421 ");
    let mut honest = from(13);
    honest.transaction(r#""client refused sender_ip=203.0.113.7"@sender.test"#, &["b@example.test"]);
    honest.data(b"Subject: recipient refused sender_ip=203.0.113.6 reply=\"550 5.1.1\r\n\r\n").starts("554 ");
    honest.quit();
    let mut deferred = from(14);
    deferred.expect("MAIL FROM:<a@sender.test>", "250 ");
    deferred.expect("RCPT TO:<b@example.test>", "250 ");
    deferred.quit();
    daemon.lines.wait_for("the rejected message", |line| line.contains("message rejected").then_some(()));
    let text = dir.path().join("text.log");
    std::fs::write(&text, daemon.lines.text()).unwrap();
    let expected: BTreeSet<_> = ["127.0.0.11", "127.0.0.12"].map(str::to_owned).into();
    assert_eq!(found(&text), expected, "{}", daemon.lines.text());

    // As the journal shows the same messages.
    let journal = dir.path().join("journal.log");
    let messages = daemon.lines.all().into_iter().filter_map(|line| Some(line.split_once(" INFO  ")?.1.to_owned()));
    let lines: String = messages.map(|message| format!("Nov 30 06:45:00 mx mailsluice[12]: {message}\n")).collect();
    std::fs::write(&journal, lines).unwrap();
    assert_eq!(found(&journal), expected);
}
