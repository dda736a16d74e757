//! fail2ban: its own tool reads a log that the daemon wrote with the filter of the package, and finds whom it should and nobody else.

use crate::support::certificates::Authority;
use crate::support::daemon::command;
use crate::support::process::{Process, run};
use crate::support::{Answer, Client, Config, Endpoint, PATIENCE, turn};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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

/// Who comes, by its number: its address, and what it does there until it is sent away.
mod crowd {
    use super::*;

    pub(super) fn address(n: u32) -> IpAddr {
        let [_, a, b, c] = n.to_be_bytes();
        IpAddr::from([127, 1 + a, b, c])
    }

    pub(super) fn come(n: u32, smtp: SocketAddr) {
        let mut client = Client::connect_from(address(n), smtp);
        client.reply().starts("220 ");
        let long = "x".repeat(900);
        match n % 6 {
            // A scanner of web servers.
            0 => drop(client.try_send("GET / HTTP/1.1\r\nHost: mx\r\n\r\n")),
            // Another protocol.
            1 => drop(client.try_send("\x16\x03\x01\x02\0\r\nSSH-2.0-x\r\n\u{1b}[2J\r\n")),
            // Guessed recipients.
            2 => drop(client.try_send(format!("EHLO spam\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<x{n}@elsewhere.test>\r\nQUIT\r\n"))),
            3 => {
                client.expect("EHLO scan", "250 ");
                client.expect("STARTTLS", "220 ");
                drop(client.try_send("not TLS at all, whatever was said\r\n"));
            }
            // Somebody who wants another one to be found, at length.
            4 => drop(client.try_send(format!(
                "EHLO sender_ip=203.0.113.9\r\nMAIL FROM:<\"client refused sender_ip=203.0.113.8 {long}\"@b.test>\r\n\
                 RCPT TO:<\"sender_ip=203.0.113.7 {long}\"@elsewhere.test>\r\nQUIT\r\n"
            ))),
            // Many at once.
            _ => drop(client.try_send(format!(
                "EHLO spam\r\nMAIL FROM:<a@b.test>\r\n{}QUIT\r\n",
                (0..5).map(|m| format!("RCPT TO:<x{m}@elsewhere.test>\r\n")).collect::<String>()
            ))),
        }
        client.rest();
    }
}

/// A crowd of clients that come once each, as fast as it can, beside mail: what a second has in the log is bounded, and so is an hour; each address
/// that was refused stands there, by itself or by its network; the filter finds all of those that have a line, and no sender of mail.
/// `MAILSLUICE_TEST_FULL=1` takes three minutes of it.
#[test]
fn a_hostile_crowd_has_a_bounded_log_that_names_everybody() {
    let _turn = turn::shared();
    let seconds = if std::env::var_os("MAILSLUICE_TEST_FULL").is_some() { 180 } else { 3 };
    let endpoint =
        Endpoint::with(|request| if request.body.windows(4).any(|w| w == b"LATE") { Answer::status(503) } else { Answer::status(200) })
            .start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let tls = Authority::new().issue_into(dir.path(), "mx", &["mx.test"]);
    let config = Config::without_routes()
        .route("all", &["*@example.test"], &endpoint.url("/in"))
        .of_route("format", "rfc822")
        .set("store.path", dir.path().join("s.redb").to_str().unwrap())
        .set("smtp.tls.certificate", tls.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", tls.key.to_str().unwrap())
        .set("log.format", "text")
        .set("smtp.max_errors", 3);
    std::fs::write(&file, config.text()).unwrap();
    let mut daemon = Process::start(command().args(["serve", "--config"]).arg(&file));
    let smtp: SocketAddr = daemon.lines.wait_for("the listener", |line| line.split("listener=smtp address=").nth(1)?.trim().parse().ok());
    daemon.lines.wait_for("it is ready", |line| line.contains(" ready ").then_some(()));

    let (begun, next) = (Instant::now(), AtomicU32::new(0));
    let going_on = || begun.elapsed() < Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while going_on() {
                    crowd::come(next.fetch_add(1, Ordering::Relaxed), smtp);
                }
            });
        }
        // Whose mail is taken, and whose is told to come later.
        scope.spawn(|| {
            for n in (0..100_u8).cycle() {
                if !going_on() {
                    break;
                }
                let mut honest = Client::connect_from(IpAddr::from([127, 200, 0, 1 + n]), smtp);
                honest.reply().starts("220 ");
                honest.envelope("client.refused@sender.test", &["b@example.test"]);
                let text = if n % 2 == 0 { "LATE" } else { "ok" };
                honest.data(format!("Subject: {text}\r\n\r\n{text}\r\n").as_bytes()).starts(if n % 2 == 0 { "450 " } else { "250 " });
                honest.quit();
            }
        });
    });
    // Longer than it was meant to, where the machine had other things to do.
    let took = begun.elapsed();
    let octets = daemon.lines.text().len();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0));
    let came = next.load(Ordering::Relaxed);

    let log = daemon.lines.text();
    let bound = 20 * (took.as_secs() + 3);
    let about_mail = |line: &&str| [" sender_ip=", "lines left out"].iter().any(|part| line.contains(part));
    let lines = log.lines().take_while(|line| !line.contains(" draining ")).filter(about_mail).count();
    println!(
        "{came} clients in {took:?}: {lines} lines, {octets} octets, {} MB an hour; {} octets when it ended",
        octets as u64 * 3600 / took.as_secs() / 1_000_000,
        log.len() - octets
    );
    assert!(lines as u64 <= bound, "{lines} lines in {took:?}");
    assert!(octets as u64 <= bound / 20 * (18 << 10), "{octets} octets in {took:?}");

    let own: BTreeSet<IpAddr> = log.lines().filter_map(|line| line.split(" sender_ip=").nth(1)?.split(' ').next()?.parse().ok()).collect();
    let clients = log.lines().filter(|line| line.contains("lines left out")).filter_map(|line| line.split(" clients=").nth(1));
    let named: BTreeSet<IpNet> = clients
        .flat_map(|clients| clients.trim_matches('"').split(", "))
        .map(|name| name.split(' ').next().unwrap())
        .map(|name| name.parse().unwrap_or_else(|_| IpNet::from(name.parse::<IpAddr>().unwrap())))
        .collect();
    for ip in (0..came).map(crowd::address) {
        let in_a_network = || (8..=32).any(|bits| named.contains(&IpNet::new(ip, bits).unwrap().trunc()));
        assert!(own.contains(&ip) || in_a_network(), "{ip} is nowhere");
    }
    let text = dir.path().join("text.log");
    std::fs::write(&text, &log).unwrap();
    let hostile = own.iter().filter(|ip| ip.to_string().split('.').nth(1) != Some("200")).map(ToString::to_string).collect();
    assert_eq!(found(&text), hostile);
}
