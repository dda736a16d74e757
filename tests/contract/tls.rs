//! STARTTLS: versions, injection, `require`, and certificates that are renewed.

use crate::support::certificates::{Authority, Files};
use crate::support::client::deliver;
use crate::support::daemon::cli;
use crate::support::{Client, Config, Daemon, Endpoint, eventually, eventually_within, messages, turn};
use nix::sys::signal::Signal;
use rustls::version::{TLS12, TLS13};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

struct Secured {
    authority: Authority,
    endpoint: Endpoint,
    files: Files,
    dir: Arc<TempDir>,
}

impl Secured {
    fn new() -> Self {
        let authority = Authority::new();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
        Self { authority, endpoint: Endpoint::ok(), files, dir }
    }

    fn config(&self) -> Config {
        Config::to(&self.endpoint)
            .set("smtp.tls.certificate", self.files.certificate.to_str().unwrap())
            .set("smtp.tls.private_key", self.files.key.to_str().unwrap())
    }

    fn start(&self, config: Config) -> Daemon {
        Daemon::start_in(Arc::clone(&self.dir), config)
    }
}

#[test]
fn both_versions_and_the_record_names_them() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    for (version, name) in [(&TLS12, "TLSv1.2 "), (&TLS13, "TLSv1.3 ")] {
        let mut client = Client::connect(daemon.smtp());
        let ehlo = client.ehlo();
        assert!(ehlo.lines.iter().any(|line| line.ends_with("STARTTLS")), "{ehlo:?}");
        client.starttls(secured.authority.client(&[version]));
        assert_eq!(client.tls_version(), Some(version.version));
        let ehlo = client.ehlo();
        assert!(!ehlo.lines.iter().any(|line| line.ends_with("STARTTLS")), "{ehlo:?}");
        client.transaction("a@sender.test", &["b@example.test"]);
        client.data(&messages::simple("x", "text")).starts("250 ");
        client.expect("STARTTLS", "503 5.5.1 ");
        client.quit();
        let tls = daemon.admin.records("").remove(0)["tls"].as_str().unwrap().to_owned();
        assert!(tls.starts_with(name) && tls.contains("_AES_") || tls.contains("CHACHA20"), "{tls}");
    }
    assert_eq!(daemon.admin.stat("latency.tls_handshake.total.count"), 2);
}

#[test]
fn a_large_message_under_tls_comes_whole() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    let message = messages::of_size("big", 5_000_000);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.starttls(secured.authority.client(rustls::ALL_VERSIONS));
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&message).starts("250 ");
    assert!(secured.endpoint.only().body == message);
}

#[test]
fn the_lowest_version_can_be_raised() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config().set("smtp.tls.min_version", "1.3"));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("STARTTLS", "220 ");
    assert!(client.handshake(secured.authority.client(&[&TLS12])).is_err());
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.starttls(secured.authority.client(&[&TLS13]));
    client.ehlo();
}

#[test]
fn required_before_anything_else() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config().set("smtp.tls.require", true).set("smtp.max_errors", 50));
    let mut client = Client::connect(daemon.smtp());
    for line in ["NOOP", "RSET", "EHLO client.test"] {
        client.expect(line, "250 ");
    }
    for line in ["MAIL FROM:<a@sender.test>", "RCPT TO:<b@example.test>", "DATA", "VRFY x", "MAIL FROM:<a@sender.test> SIZE=3"] {
        client.expect(line, "530 5.7.0 ");
    }
    client.starttls(secured.authority.client(rustls::ALL_VERSIONS));
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    let mut client = Client::connect(daemon.smtp());
    client.expect("HELO client.test", "250 ");
    client.quit();
}

#[test]
fn the_own_client_speaks_it() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config().set("smtp.tls.require", true));
    let server = daemon.smtp().to_string();
    let big = secured.dir.path().join("big.eml");
    std::fs::write(&big, messages::of_size("big", 3_000_000)).unwrap();
    for files in [&[][..], &[big.to_str().unwrap(), big.to_str().unwrap()]] {
        cli(&[&["send", "--server", &server, "--to", "b@example.test"], files].concat()).ok();
    }
    let records = daemon.admin.records("");
    assert!(records.len() == 3 && records.iter().all(|record| record["tls"].as_str().unwrap().starts_with("TLSv1.3 ")), "{records:?}");
}

#[test]
fn what_stands_behind_starttls_in_the_clear_is_discarded() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    // Injected commands that would set an envelope, in the same packet as STARTTLS.
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.send(b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@sender.test>\r\nRCPT TO:<b@example.test>\r\n");
    client.reply().starts("220 ");
    client.handshake(secured.authority.client(rustls::ALL_VERSIONS)).unwrap();
    // Nothing of it was done, nothing of it is answered.
    client.expect("RCPT TO:<b@example.test>", "503 5.5.1 ");
    client.expect("MAIL FROM:<a@sender.test>", "503 5.5.1 ");
    client.envelope("a@sender.test", &["b@example.test"]);
    client.quit();
    // What was said before is forgotten too (RFC 3207 section 4.2).
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.starttls(secured.authority.client(rustls::ALL_VERSIONS));
    client.expect("DATA", "503 5.5.1 ");
    client.quit();
}

#[test]
fn plain_octets_for_a_handshake() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    for octets in
        [&b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0\0\0\0\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.expect("STARTTLS", "220 ");
        client.send(octets);
        client.finish();
        let rest = client.rest();
        assert!(!rest.starts_with(b"250") && !rest.starts_with(b"5"), "{:?}", String::from_utf8_lossy(&rest));
    }
    daemon.admin.wait_for_stat("connections.open", 0);
}

#[test]
fn no_tickets_and_no_resumption() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    // One client configuration, with its session cache, for two connections.
    for version in [&TLS12, &TLS13] {
        let config = secured.authority.client(&[version]);
        for _ in 0..2 {
            let mut client = Client::connect(daemon.smtp());
            client.ehlo();
            client.starttls(Arc::clone(&config));
            client.ehlo();
            assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
            client.quit();
        }
    }
}

#[test]
fn starttls_without_a_certificate_is_not_offered() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    let ehlo = client.ehlo();
    assert!(!ehlo.lines.iter().any(|line| line.ends_with("STARTTLS")));
    let reply = client.command("STARTTLS");
    assert!((500..=504).contains(&reply.code), "{reply:?}");
}

/// A client that trusts only the new authority gets through once the new pair is in use.
#[track_caller]
fn served_by(daemon: &Daemon, authority: &Authority) -> bool {
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("STARTTLS", "220 ");
    client.handshake(authority.client(rustls::ALL_VERSIONS)).is_ok()
}

#[test]
fn a_renewed_pair_is_in_use_after_sighup() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    assert!(served_by(&daemon, &secured.authority));
    let mut old_session = Client::connect(daemon.smtp());
    old_session.ehlo();
    old_session.starttls(secured.authority.client(rustls::ALL_VERSIONS));
    let renewed = Authority::new();
    assert!(!served_by(&daemon, &renewed));
    renewed.issue_into(secured.dir.path(), "mx", &["mx.test"]);
    daemon.signal(Signal::SIGHUP);
    eventually_within(Duration::from_secs(60), "the renewed pair", || served_by(&daemon, &renewed).then_some(()));
    old_session.envelope("a@sender.test", &["b@example.test"]);
    old_session.data(&messages::simple("x", "text")).starts("250 ");
}

/// Half of the senders with TLS, on connections that go on and on new ones.
#[test]
fn a_renewal_that_failed_is_told() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    let metric = |line: &str| daemon.admin.get("/metrics").text().lines().any(|found| found.starts_with(line)).then_some(());
    eventually_within(Duration::from_secs(60), "its end", || metric("mailsluice_tls_certificate_not_after_seconds{file=\"/"));
    metric("mailsluice_tls_reload_failures_total 0").unwrap();
    std::fs::write(secured.dir.path().join("mx.pem"), "no certificate").unwrap();
    eventually_within(Duration::from_secs(60), "the failure", || metric("mailsluice_tls_reload_failures_total 1"));
    let notices = daemon.admin.json("/notices")["notices"].to_string();
    assert!(notices.contains("smtp.tls cannot be used, the old pair stays"), "{notices}");
    assert!(served_by(&daemon, &secured.authority));
    Authority::new().issue_into(secured.dir.path(), "mx", &["mx.test"]);
    let mended = || daemon.admin.json("/notices")["notices"].as_array().unwrap().is_empty().then_some(());
    eventually_within(Duration::from_secs(60), "mended", mended);
}

#[test]
fn certificates_renewed_under_load_cost_nothing() {
    let _turn = turn::alone();
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    let authorities: Vec<Authority> = (0..4).map(|_| Authority::new()).collect();
    let trusted = Authority::client_of_any(std::iter::once(&secured.authority).chain(&authorities), rustls::ALL_VERSIONS);
    let renewals_done = AtomicBool::new(false);
    let delivered = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..8_usize)
            .map(|number| {
                let (daemon, trusted, renewals_done) = (&daemon, &trusted, &renewals_done);
                scope.spawn(move || {
                    let mut delivered = 0_usize;
                    while !renewals_done.load(Ordering::SeqCst) || delivered < 20 {
                        let mut client = Client::connect(daemon.smtp());
                        client.ehlo();
                        if number % 2 == 0 {
                            client.starttls(Arc::clone(trusted));
                            client.ehlo();
                        }
                        for _ in 0..5 {
                            client.transaction("a@sender.test", &["b@example.test"]);
                            client.data(&messages::simple("x", "text")).starts("250 ");
                            delivered += 1;
                        }
                        client.quit();
                    }
                    delivered
                })
            })
            .collect();
        for authority in &authorities {
            let seen = secured.endpoint.count();
            eventually("mail flows", || (secured.endpoint.count() > seen + 40).then_some(()));
            authority.issue_into(secured.dir.path(), "mx", &["mx.test"]);
            daemon.signal(Signal::SIGHUP);
            eventually("the renewed pair", || served_by(&daemon, authority).then_some(()));
        }
        renewals_done.store(true, Ordering::SeqCst);
        senders.into_iter().map(|sender| sender.join().unwrap()).sum::<usize>()
    });
    assert_eq!(secured.endpoint.count(), delivered);
}

#[test]
fn a_renewed_pair_is_in_use_within_a_minute_and_a_broken_one_is_not() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    assert!(served_by(&daemon, &secured.authority));
    // A certificate without its key: logged, the old pair stays.
    let other = Authority::new();
    let (certificate, _) = other.issue(&["mx.test"]);
    std::fs::write(&secured.files.certificate, certificate).unwrap();
    eventually_within(Duration::from_secs(70), "a line about the broken pair", || {
        daemon.events().iter().any(|event| event["level"] == "error" && event.to_string().contains("mx.pem")).then_some(())
    });
    assert!(served_by(&daemon, &secured.authority));
    let renewed = Authority::new();
    renewed.issue_into(secured.dir.path(), "mx", &["mx.test"]);
    eventually_within(Duration::from_secs(70), "the renewed pair", || served_by(&daemon, &renewed).then_some(()));
}

#[test]
fn a_pair_that_does_not_match_is_refused_at_the_start() {
    let secured = Secured::new();
    let other = secured.authority.issue_into(secured.dir.path(), "other", &["mx.test"]);
    let config = secured.config().set("smtp.tls.private_key", other.key.to_str().unwrap());
    let file = secured.dir.path().join("c.toml");
    std::fs::write(&file, config.set("store.path", secured.dir.path().join("s").to_str().unwrap()).text()).unwrap();
    for command in ["check", "serve"] {
        let finished = cli(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(finished.code, Some(78), "{command}: {finished:?}");
        assert!(format!("{}{}", finished.out, finished.err).contains("other.key"), "{finished:?}");
    }
}

#[test]
fn delivery_in_the_clear_stays_possible() {
    let secured = Secured::new();
    let daemon = secured.start(secured.config());
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}
