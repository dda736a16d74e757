//! The connection: banner, limits, deadlines, and who may not be here.

use crate::support::certificates::Authority;
use crate::support::client::{deliver, stuffed};
use crate::support::daemon::command;
use crate::support::process::run;
use crate::support::seccomp::{self, Forbidden};
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE, messages};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn daemon(endpoint: &Endpoint, limits: &[(&str, toml::Value)]) -> Daemon {
    Daemon::start(limits.iter().fold(Config::to(endpoint), |config, (key, value)| config.set(&format!("smtp.{key}"), value.clone())))
}

#[test]
fn the_banner_names_the_host() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[]);
    let mut client = Client::connect_silently(daemon.smtp());
    client.reply().starts("220 mx.test ESMTP");
    let ehlo = client.ehlo();
    assert!(ehlo.lines[0].starts_with("250-mx.test"), "{ehlo:?}");
    let extensions: Vec<&str> = ehlo.lines[1..].iter().map(|line| &line[4..]).collect();
    for extension in ["PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES"] {
        assert!(extensions.contains(&extension), "{extension}: {extensions:?}");
    }
    assert!(
        !extensions.iter().any(|e| e.starts_with("STARTTLS") || e.starts_with("AUTH") || e.starts_with("BINARYMIME")),
        "{extensions:?}"
    );
}

#[test]
fn over_the_limit_of_connections() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("max_connections", 3.into())]);
    let held: Vec<Client> = (0..3).map(|_| Client::connect(daemon.smtp())).collect();
    let mut refused = Client::connect_silently(daemon.smtp());
    refused.reply().starts("421 4.7.0 ");
    refused.closed();
    assert_eq!(daemon.admin.stat("connections.refused.total_limit"), 1);
    drop(held);
    daemon.admin.wait_for_stat("connections.open", 0);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}

#[test]
fn over_the_limit_of_one_address() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("max_connections_per_ip", 2.into())]);
    let from = |octet: u8| Client::connect_from(IpAddr::from([127, 0, 0, octet]), daemon.smtp());
    let mut held = [from(1), from(1), from(2), from(2)];
    for client in &mut held {
        client.reply().starts("220 ");
    }
    let mut refused = from(2);
    refused.reply().starts("421 4.7.0 ");
    refused.closed();
    assert_eq!(daemon.admin.stat("connections.refused.per_ip_limit"), 1);
    drop(held);
    daemon.admin.wait_for_stat("connections.open", 0);
    from(2).reply().starts("220 ");
}

#[test]
fn messages_per_connection() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("max_messages_per_connection", 2.into())]);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    for _ in 0..2 {
        client.transaction("a@sender.test", &["b@example.test"]);
        client.data(&messages::simple("x", "text")).starts("250 ");
    }
    client.expect("MAIL FROM:<a@sender.test>", "421 4.7.0 ");
    client.closed();
    assert_eq!(endpoint.count(), 2);
}

#[test]
fn bad_commands_end_in_421() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("max_errors", 3.into())]);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let mut codes = Vec::new();
    while let Ok(()) = client.try_send("XYZZY\r\n") {
        let Ok(reply) = client.try_reply() else { break };
        codes.push(reply.code);
    }
    assert_eq!(codes.pop(), Some(421), "{codes:?}");
    assert!((2..=3).contains(&codes.len()) && codes.iter().all(|&code| code == 500), "{codes:?}");
}

#[test]
fn refused_recipients_count_as_errors() {
    let endpoint = Endpoint::ok();
    let config = Config::without_routes().route("some", &["*@example.test"], &endpoint.url("/in")).set("smtp.max_errors", 3);
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    let mut codes = Vec::new();
    while let Ok(()) = client.try_send("RCPT TO:<guess@other.test>\r\n") {
        let Ok(reply) = client.try_reply() else { break };
        codes.push(reply.code);
    }
    assert_eq!(codes.pop(), Some(421), "{codes:?}");
    assert!((2..=3).contains(&codes.len()) && codes.iter().all(|&code| code == 550), "{codes:?}");
}

/// Who does not wait for the replies named the good ones as well, in however many packets and through whatever they come.
#[test]
fn unknown_recipients_do_not_keep_the_message_from_good_ones() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let config = Config::without_routes()
        .route("some", &["*@example.test"], &endpoint.url("/in"))
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let unknown: String = (0..12).map(|n| format!("RCPT TO:<{n}@other.test>\r\n")).collect();
    let good: String = (0..3).map(|n| format!("RCPT TO:<{n}@example.test>\r\n")).collect();
    let octets = format!("MAIL FROM:<a@sender.test>\r\n{unknown}{good}DATA\r\n").into_bytes();
    for tls in [false, true] {
        for piece in [octets.len(), 100, 7] {
            let mut client = Client::connect(daemon.smtp());
            client.ehlo();
            if tls {
                client.starttls(authority.client(rustls::ALL_VERSIONS));
                client.ehlo();
            }
            octets.chunks(piece).for_each(|piece| client.send(piece));
            client.reply().starts("250 2.1.0 ");
            for reply in [["550 5.1.1 "; 12].as_slice(), &["250 2.1.5 "; 3], &["354 "]].concat() {
                client.reply().starts(reply);
            }
            client.send("text\r\n.\r\n");
            client.reply().starts("250 2.0.0 Ok: ");
        }
    }
    assert_eq!(endpoint.count(), 6);
}

#[test]
fn an_http_client_is_sent_away() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[]);
    for line in ["GET / HTTP/1.1", "POST /in HTTP/1.0", "OPTIONS * HTTP/1.1"] {
        let mut client = Client::connect(daemon.smtp());
        client.send(format!("{line}\r\nHost: mx.test\r\nContent-Length: 20\r\n\r\nEHLO x\r\nMAIL FROM:<>\r\n"));
        client.reply().starts("421 4.7.0 ");
        let rest = client.rest();
        assert!(rest.is_empty(), "{line}: {:?}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn long_commands() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[]);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect(&format!("NOOP {}", "x".repeat(3000)), "500 5.5.2 ");
    client.expect("NOOP", "250 ");
    // Without any end: closed, and not after reading for ever.
    let mut client = Client::connect(daemon.smtp());
    let begun = Instant::now();
    while client.try_send(vec![b'x'; 64 << 10]).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "still reading a command without end");
    }
}

#[test]
fn an_idle_client_is_closed() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("command_timeout", "1s".into())]);
    let mut client = Client::connect(daemon.smtp());
    let begun = Instant::now();
    client.reply().starts("421 4.4.2 ");
    client.closed();
    assert!(begun.elapsed() >= Duration::from_millis(900));
    // Octet by octet is no progress either: the command as a whole has the deadline.
    let mut client = Client::connect(daemon.smtp());
    let begun = Instant::now();
    let patient = client.tcp().try_clone().unwrap();
    patient.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let reply = loop {
        let _ = client.try_send("N");
        match client.try_reply() {
            Ok(reply) => break reply,
            Err(error) => assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    };
    reply.starts("421 4.4.2 ");
}

#[test]
fn data_that_stop_are_given_up() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("data_timeout", "1s".into())]);
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(b"Subject: half\r\n\r\nhalf");
    client.reply().starts("421 4.4.2 ");
    client.closed();
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    assert_eq!(endpoint.count(), 0);
}

#[test]
fn a_message_has_a_deadline_as_a_whole() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[("message_timeout", "2s".into())]);
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.tcp().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    let reply = loop {
        assert!(begun.elapsed() < Duration::from_secs(10), "still taken");
        let _ = client.try_send(b"a line of this message\r\n");
        if let Ok(reply) = client.try_reply() {
            break reply;
        }
    };
    reply.starts("421 4.4.2 ");
    assert!(begun.elapsed() >= Duration::from_millis(1900));
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let endpoint = Endpoint::ok();
    let daemon = daemon(&endpoint, &[]);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text"));
    daemon.admin.wait_for_stat("connections.open", 0);
    let before = daemon.descriptors();
    let dialog =
        [b"EHLO x\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n".to_vec(), stuffed(&messages::simple("x", "t"))]
            .concat();
    for at in (0..dialog.len() - 3).step_by(3) {
        let mut client = Client::connect(daemon.smtp());
        client.send(&dialog[..at]);
        if at % 2 == 0 { client.reset() } else { drop(client) }
    }
    daemon.admin.wait_for_stat("connections.open", 0);
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    crate::support::eventually("all descriptors closed", || (daemon.descriptors() <= before).then_some(()));
    assert_eq!(endpoint.count(), 1);
}

/// io_uring forbidden, as container runtimes do: exit 69, one line, the sysctl's name in it.
#[test]
fn io_uring_forbidden() {
    let endpoint = Endpoint::ok();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(
        &file,
        Config::to(&endpoint).set("store.path", dir.path().join("s.redb").to_str().unwrap()).set("log.format", "text").text(),
    )
    .unwrap();
    let mut command = command();
    command.arg("serve").arg("--config").arg(&file);
    seccomp::forbid(&mut command, Forbidden { call: libc::SYS_io_uring_setup, argument: None, error: libc::EPERM });
    let finished = run(&mut command, PATIENCE);
    assert_eq!(finished.code, Some(69), "{finished:?}");
    let said = format!("{}{}", finished.out, finished.err);
    let line = said.lines().find(|line| line.contains("kernel.io_uring_disabled"));
    assert!(line.is_some(), "{said}");
    assert_eq!(said.trim().lines().filter(|line| line.contains("io_uring")).count(), 1, "{said}");
    assert_eq!(said.matches("is forbidden here").count(), 1, "said once: {said}");
    assert!(said.contains("seccomp"), "{said}");
}
