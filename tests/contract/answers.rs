//! The endpoint's answer becomes the SMTP reply: the contract's table, and answers made to hurt.

use crate::support::client::{Reply, deliver};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, Request, eventually, messages};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[track_caller]
fn one(daemon: &Daemon) -> Reply {
    deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &messages::simple("one", "text"))
}

/// The record of the message sent last: status, outcome, reply.
#[track_caller]
fn last(daemon: &Daemon) -> (u64, String, String) {
    let record = daemon.admin.records("").remove(0);
    let text = |key: &str| record[key].as_str().unwrap().to_owned();
    (record["server_response"]["status"].as_u64().unwrap(), text("outcome"), text("reply"))
}

#[test]
fn each_status_has_its_reply() {
    const TABLE: &[(u16, &str, &str)] = &[
        (200, "250 2.0.0 Ok: ", "delivered"),
        (201, "250 2.0.0 Ok: ", "delivered"),
        (202, "250 2.0.0 Ok: ", "delivered"),
        (204, "250 2.0.0 Ok: ", "delivered"),
        (299, "250 2.0.0 Ok: ", "delivered"),
        (300, "450 4.4.2 ", "deferred"),
        (303, "450 4.4.2 ", "deferred"),
        (304, "450 4.4.2 ", "deferred"),
        (305, "450 4.4.2 ", "deferred"),
        (400, "554 5.7.1 ", "rejected"),
        (401, "450 4.3.0 ", "deferred"),
        (403, "554 5.7.1 ", "rejected"),
        (404, "554 5.7.1 ", "rejected"),
        (407, "450 4.3.0 ", "deferred"),
        (408, "450 4.3.0 ", "deferred"),
        (410, "554 5.7.1 ", "rejected"),
        (413, "554 5.7.1 ", "rejected"),
        (421, "450 4.3.0 ", "deferred"),
        (422, "554 5.7.1 ", "rejected"),
        (425, "450 4.3.0 ", "deferred"),
        (429, "450 4.3.0 ", "deferred"),
        (431, "450 4.3.0 ", "deferred"),
        (499, "554 5.7.1 ", "rejected"),
        (500, "450 4.3.0 ", "deferred"),
        (502, "450 4.3.0 ", "deferred"),
        (503, "450 4.3.0 ", "deferred"),
        (599, "450 4.3.0 ", "deferred"),
        (600, "450 4.4.2 ", "deferred"),
        (999, "450 4.4.2 ", "deferred"),
    ];
    let endpoint = Endpoint::in_turn(TABLE.iter().map(|&(status, _, _)| Answer::status(status)).collect());
    let daemon = Daemon::start(Config::to(&endpoint));
    for &(status, reply, outcome) in TABLE {
        let got = one(&daemon);
        assert!(got.text().starts_with(reply), "{status}: {got:?}");
        assert_eq!(last(&daemon), (u64::from(status), outcome.to_owned(), got.text().to_owned()), "{status}");
    }
    // 100-continue nobody asked for comes before an answer.
    assert_eq!(endpoint.count(), TABLE.len());
}

#[test]
fn interim_answers_are_passed_over() {
    let endpoint = Endpoint::always(Answer::Octets(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
    ));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("250 2.0.0 Ok: ");
    assert_eq!(last(&daemon).0, 201);
}

#[test]
fn defer_statuses_may_be_none() {
    let endpoint = Endpoint::always(Answer::status(429));
    let daemon = Daemon::start(Config::to(&endpoint).of_route("defer_statuses", toml::Value::Array(Vec::new())));
    one(&daemon).starts("554 5.7.1 ");
}

#[test]
fn retry_after_goes_into_the_record() {
    let endpoint = Endpoint::always(Answer::text(503, "busy").field("Retry-After", "120"));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("450 4.3.0 busy");
    assert_eq!(daemon.admin.records("")[0]["server_response"]["retry_after"], "120");
}

/// Until then the route is shown as paused, and mail for it told so.
#[test]
fn an_endpoint_that_asks_to_be_left_alone_is_shown_as_paused() {
    let endpoint = Endpoint::always(Answer::text(503, "busy").field("Retry-After", "120"));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("450 4.3.0 busy");
    eventually("a pause", || (daemon.admin.json("/stats")["routes"]["all"]["breaker"] == "paused").then_some(()));
    one(&daemon).starts("451 4.3.2 Endpoint asks to be left alone");
    assert_eq!(endpoint.requests().len(), 1);
}

/// A date that is over, or no time at all, asks for nothing.
#[test]
fn a_retry_after_that_is_over_pauses_nothing() {
    for over in ["Wed, 21 Oct 2015 07:28:00 GMT", "0"] {
        let endpoint = Endpoint::always(Answer::text(503, "busy").field("Retry-After", over));
        let daemon = Daemon::start(Config::to(&endpoint));
        for _ in 0..5 {
            one(&daemon).starts("450 4.3.0 busy");
        }
        assert_eq!(endpoint.requests().len(), 5, "{over}");
    }
}

/// What the text of an answer becomes in the reply.
#[test]
fn text_is_made_safe() {
    let long = "word ".repeat(400);
    let table: &[(&str, &str)] = &[
        ("No such ticket", "554 5.7.1 No such ticket"),
        ("two\r\nlines", "554 5.7.1 two"),
        ("split\r\n250 2.0.0 Ok: forged\r\n", "554 5.7.1 split"),
        ("lone\rcr\nand lf", "554 5.7.1 lone"),
        ("tab\tand \u{7} bell", "554 5.7.1 tab"),
        ("5.1.1 its own code", "554 5.7.1 its own code"),
        ("2.0.0 its own code", "554 5.7.1 its own code"),
        (&long, "554 5.7.1 word word"),
    ];
    for (text, expected) in table {
        let endpoint = Endpoint::always(Answer::text(422, text));
        let daemon = Daemon::start(Config::to(&endpoint));
        let reply = one(&daemon);
        assert_eq!(reply.lines.len(), 1, "{text:?}: {reply:?}");
        assert!(reply.text().starts_with(expected), "{text:?}: {reply:?}");
        assert!(reply.text().len() <= 510, "{} octets", reply.text().len());
        assert!(reply.text().bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{reply:?}");
    }
}

#[test]
fn text_keeps_its_letters_for_a_client_with_smtputf8() {
    let endpoint = Endpoint::always(Answer::text(422, "Größe \u{202e}falsch"));
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", "250 ");
    client.expect("RCPT TO:<b@example.test>", "250 ");
    let reply = client.data(&messages::simple("x", "text"));
    assert!(reply.text().starts_with("554 5.7.1 Größe"), "{reply:?}");
    client.quit();
    assert!(one(&daemon).text().is_ascii());
}

#[test]
fn only_plain_text_is_shown_to_the_sender() {
    let answer = Answer::Respond {
        status: 500,
        fields: vec![("Content-Type".into(), "text/html".into())],
        body: b"<h1>secret stack trace</h1>".to_vec(),
    };
    let endpoint = Endpoint::always(answer);
    let daemon = Daemon::start(Config::to(&endpoint));
    let reply = one(&daemon);
    assert!(reply.text().starts_with("450 4.3.0 ") && !reply.text().contains("secret"), "{reply:?}");
    let record = daemon.admin.records("").remove(0);
    assert_eq!(record["server_response"]["body"], "<h1>secret stack trace</h1>");
    assert_eq!(record["server_response"]["content_type"], "text/html");
}

#[test]
fn a_response_body_of_any_length_is_bounded() {
    // 100 MiB announced; 2 KiB are kept.
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 104857600\r\n\r\n".to_vec();
    let endpoint = Endpoint::always(Answer::Endless(head, vec![b'x'; 64 << 10]));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("250 2.0.0 Ok: ");
    let record = daemon.admin.records("").remove(0);
    assert_eq!(record["server_response"]["body"].as_str().unwrap(), "x".repeat(2048));
    // No end at all, and an endless header.
    for octets in [&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nX: "] {
        let endpoint = Endpoint::always(Answer::Endless(octets.to_vec(), vec![b'y'; 64 << 10]));
        let daemon = Daemon::start(Config::to(&endpoint).of_route("timeout", "3s"));
        let begun = Instant::now();
        let reply = one(&daemon);
        let expected = if octets.ends_with(b"\r\n\r\n") { "250 2.0.0 Ok: " } else { "450 4.4.2 " };
        assert!(reply.text().starts_with(expected), "{reply:?}");
        assert!(begun.elapsed() < Duration::from_secs(8));
        assert!(daemon.rss() < 300 << 20, "{} octets", daemon.rss());
    }
}

#[test]
fn a_flood_of_header_fields_is_malformed() {
    let mut octets = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..100_000 {
        octets.extend_from_slice(format!("X-Flood-{n}: x\r\n").as_bytes());
    }
    octets.extend_from_slice(b"\r\n");
    let endpoint = Endpoint::always(Answer::Octets(octets));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("450 4.4.2 ");
}

#[test]
fn an_octet_a_second_ends_at_the_deadline() {
    let drip = Answer::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), Duration::from_millis(400));
    let endpoint = Endpoint::always(drip);
    let daemon = Daemon::start(Config::to(&endpoint).of_route("timeout", "2s"));
    let begun = Instant::now();
    one(&daemon).starts("450 4.4.2 ");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(7), "{took:?}");
    assert_eq!(last(&daemon).0, 0);
}

#[test]
fn a_body_that_breaks_off_behind_a_2xx_is_delivered() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    for answer in [Answer::Octets(half.clone()), Answer::Reset(half)] {
        let endpoint = Endpoint::always(answer);
        let daemon = Daemon::start(Config::to(&endpoint));
        one(&daemon).starts("250 2.0.0 Ok: ");
        assert_eq!(last(&daemon).1, "delivered");
    }
}

/// A redirect's target gets the same POST.
#[test]
fn redirects_are_followed_with_the_same_post() {
    for status in [301, 302, 307, 308] {
        let target = Endpoint::always(Answer::text(200, "here"));
        let from = Endpoint::always(Answer::redirect(status, &target.url("/there?x=1")));
        let daemon = Daemon::start(
            Config::to(&from)
                .of_route("headers", toml::Table::from_iter([("X-Tenant".to_owned(), toml::Value::from("42"))]))
                .of_route("signing_secret", vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]),
        );
        one(&daemon).starts("250 2.0.0 Ok: ");
        let (first, second) = (from.only(), target.only());
        assert_eq!((second.method.as_str(), second.target.as_str()), ("POST", "/there?x=1"));
        assert_eq!(first.body, second.body, "{status}");
        assert_eq!(first.field("webhook-id"), second.field("webhook-id"));
        assert_eq!(first.field("x-tenant"), "42");
        assert!(first.fields.get("webhook-signature").is_some());
        // Another port is another origin.
        for name in ["x-tenant", "webhook-signature", "authorization"] {
            assert_eq!(second.fields.get(name), None, "{name} went to another origin");
        }
    }
}

#[test]
fn credentials_stay_with_the_origin() {
    let endpoint =
        Endpoint::with(|request| if request.target == "/in" { Answer::redirect(307, "/elsewhere") } else { Answer::status(200) }).start();
    let url = endpoint.url("/in").replace("http://", "http://user:s%40cret@");
    let daemon = Daemon::start(Config::without_routes().route("all", &["*"], &url).of_route("format", "rfc822"));
    one(&daemon).starts("250 ");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.field("authorization"), "Basic dXNlcjpzQGNyZXQ=", "{}", request.target);
    }
    assert!(!daemon.log().contains("cret"), "{}", daemon.log());
}

#[test]
fn redirects_end_after_three() {
    let endpoint = Endpoint::with(|request| {
        let n: u32 = request.target.trim_start_matches("/in").parse().unwrap_or(0);
        if n == 3 { Answer::status(200) } else { Answer::redirect(307, &format!("/in{}", n + 1)) }
    })
    .start();
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("250 2.0.0 Ok: ");
    assert_eq!(endpoint.count(), 4);
    let looping = Endpoint::always(Answer::redirect(308, "/in"));
    let daemon = Daemon::start(Config::to(&looping));
    one(&daemon).starts("450 4.4.2 ");
    assert_eq!(looping.count(), 4);
    assert_eq!(last(&daemon).0, 308);
}

#[test]
fn redirects_that_are_not_followed() {
    // A location that is none, a scheme that is none of ours, https to http.
    for location in ["ftp://example.test/", "file:///etc/passwd", "gopher://127.0.0.1/", "http://", "javascript:alert(1)"] {
        let endpoint = Endpoint::always(Answer::redirect(302, location));
        let daemon = Daemon::start(Config::to(&endpoint));
        one(&daemon).starts("450 4.4.2 ");
        assert_eq!((endpoint.count(), last(&daemon).0), (1, 302), "{location}");
    }
    let endpoint = Endpoint::always(Answer::status(302));
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("450 4.4.2 ");
    let authority = crate::support::certificates::Authority::new();
    let plain = Endpoint::ok();
    let location = plain.url("/x");
    let secure = Endpoint::with(move |_| Answer::redirect(307, &location)).tls(authority.server(&["127.0.0.1"])).start();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let daemon = Daemon::start_in(dir, Config::to(&secure).of_route("ca_certificate", ca.to_str().unwrap()));
    one(&daemon).starts("450 4.4.2 ");
    assert_eq!((secure.count(), plain.count()), (1, 0));
}

#[test]
fn https_endpoints_are_verified() {
    let authority = crate::support::certificates::Authority::new();
    let stranger = crate::support::certificates::Authority::new();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let good = Endpoint::with(|_| Answer::status(200)).tls(authority.server(&["127.0.0.1"])).start();
    let wrong_name = Endpoint::with(|_| Answer::status(200)).tls(authority.server(&["other.test"])).start();
    let unknown = Endpoint::with(|_| Answer::status(200)).tls(stranger.server(&["127.0.0.1"])).start();
    let mut config = Config::without_routes();
    for (name, endpoint) in [("good", &good), ("wrong", &wrong_name), ("unknown", &unknown)] {
        let recipients = format!("{name}@example.test");
        config = config
            .route(name, &[&recipients], &endpoint.url("/in"))
            .of_route("format", "rfc822")
            .of_route("ca_certificate", ca.to_str().unwrap());
    }
    let daemon = Daemon::start_in(dir, config);
    let send = |to: &str| deliver(daemon.smtp(), "a@sender.test", &[to], &messages::simple("x", "text"));
    send("good@example.test").starts("250 2.0.0 Ok: ");
    send("wrong@example.test").starts("450 4.4.1 ");
    send("unknown@example.test").starts("450 4.4.1 ");
    assert_eq!((wrong_name.count(), unknown.count()), (0, 0));
}

#[test]
fn an_endpoint_over_ipv6() {
    let endpoint = Endpoint::with(|_| Answer::status(200)).on(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])).start();
    let daemon = Daemon::start(Config::to(&endpoint));
    one(&daemon).starts("250 ");
}

#[test]
fn a_host_with_several_addresses_tries_the_next() {
    // `localhost` is ::1 and 127.0.0.1; only one of them listens.
    let endpoint = Endpoint::ok();
    let url = format!("http://localhost:{}/in", endpoint.address.port());
    let daemon = Daemon::start(Config::without_routes().route("all", &["*"], &url).of_route("format", "rfc822"));
    one(&daemon).starts("250 ");
}

#[test]
fn a_proxy_in_the_environment_does_not_matter() {
    let endpoint = Endpoint::ok();
    let trap = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let proxy = trap.url("/");
    let daemon = Daemon::spawn(dir, Config::to(&endpoint), |command| {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, &proxy);
        }
    })
    .ready();
    one(&daemon).starts("250 ");
    assert_eq!((endpoint.count(), trap.count()), (1, 0));
}

#[test]
fn connections_are_kept_and_a_stale_one_is_tried_once_more() {
    // Kept-alive connections are their ring's.
    let on_one_ring = |endpoint: &Endpoint| Daemon::start(Config::to(endpoint).set("smtp.threads", 1));
    let endpoint = Endpoint::ok();
    let daemon = on_one_ring(&endpoint);
    for _ in 0..5 {
        one(&daemon).starts("250 ");
    }
    assert_eq!(endpoint.connections(), 1, "kept alive");
    // Closed at the second request, before any octet of an answer: one retry on a connection of its own.
    let seen = std::sync::Mutex::new(std::collections::BTreeMap::<u64, u32>::new());
    let closing = Endpoint::with(move |request: &Request| {
        let mut seen = seen.lock().unwrap();
        let on_this = seen.entry(request.connection).or_default();
        *on_this += 1;
        if *on_this == 1 { Answer::status(200) } else { Answer::Reset(Vec::new()) }
    })
    .start();
    let daemon = on_one_ring(&closing);
    one(&daemon).starts("250 ");
    one(&daemon).starts("250 ");
    let requests = closing.requests();
    assert_eq!(requests.len(), 3, "the first, the one that broke, the same again");
    assert_eq!(requests[1].field("webhook-id"), requests[2].field("webhook-id"));
    // A fresh connection that breaks is not tried again.
    let broken = Endpoint::always(Answer::Reset(Vec::new()));
    let daemon = Daemon::start(Config::to(&broken));
    one(&daemon).starts("450 4.4.2 ");
    assert_eq!(broken.count(), 1);
}

#[test]
fn an_early_answer_to_a_large_message_is_not_lost() {
    let endpoint =
        Endpoint::with(|_| Answer::status(200)).early(|_, _| Some(Answer::text(413, "too much").field("Connection", "close"))).start();
    let daemon = Daemon::start(Config::to(&endpoint));
    let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::of_size("big", 300_000));
    assert!(reply.text().starts_with("554 5.7.1 "), "{reply:?}");
    // With 8 MB the reset may overtake the answer: then the sender keeps the message.
    let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::of_size("big", 8_000_000));
    assert!(reply.text().starts_with("554 5.7.1 ") || reply.text().starts_with("450 4.4.2 "), "{reply:?}");
}

#[test]
fn a_client_that_goes_away_before_the_answer_counts_as_a_lost_reply() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = messages::simple("lost", "text");
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(crate::support::client::stuffed(&message));
    endpoint.wait_for(1);
    client.reset();
    gate.open();
    daemon.admin.wait_for_stat("messages.replies_lost", 1);
    // Its retry carries the same id, so that the endpoint can drop it.
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message).starts("250 ");
    let requests = endpoint.requests();
    assert_eq!(requests[0].field("webhook-id"), requests[1].field("webhook-id"));
    assert_eq!(daemon.admin.records("").len(), 2);
}

#[test]
fn nothing_listens_at_the_endpoint() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for url in [format!("http://{address}/in"), "http://does-not-exist.invalid/in".to_owned()] {
        let daemon = Daemon::start(Config::without_routes().route("all", &["*"], &url));
        one(&daemon).starts("450 4.4.1 ");
        assert_eq!(last(&daemon).0, 0, "{url}");
    }
}
