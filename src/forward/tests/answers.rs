//! One route, one endpoint: what it gets, and what each kind of answer and failure becomes.

use super::*;

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\n.a line\r\n\xff\x00\r\nno newline at the end";

#[test]
fn the_request() {
    let endpoint = Endpoint::always(OK);
    let url = format!("http://us%40er:s%3Acret@{}/in?x=1", endpoint.address);
    let more = "headers = { X-Tenant = \"42\" }\nsigning_secret = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\", \"whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY\"]";
    let rig = Rig::new(&route("r", &url, more));
    for _ in 0..3 {
        assert_eq!(rig.send(MESSAGE).unwrap().status, 200);
    }
    assert_eq!(endpoint.connections(), 1, "the connection is kept alive");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(request.line, "POST /in?x=1 HTTP/1.1");
        assert_eq!(request.body, MESSAGE);
        let field = |name: &str| request.field(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(field("host"), endpoint.address.to_string());
        assert_eq!(field("user-agent"), concat!("mailsluice/", env!("CARGO_PKG_VERSION")));
        assert_eq!(field("content-length"), MESSAGE.len().to_string());
        assert_eq!(field("content-type"), "message/rfc822");
        assert_eq!(field("authorization"), "Basic dXNAZXI6czpjcmV0");
        assert_eq!(field("x-tenant"), "42");
        assert_eq!(field("webhook-id"), "msg_1");
        assert_eq!(field("mailsluice-mail-from"), "from@example.com");
        let timestamp: u64 = field("webhook-timestamp").parse().unwrap();
        let secrets = &rig.route("r").signing_secrets;
        let expected = super::super::webhook::signature(secrets, "msg_1", timestamp, std::iter::once(MESSAGE));
        assert_eq!(field("webhook-signature"), expected);
        for absent in ["transfer-encoding", "accept-encoding", "expect"] {
            assert_eq!(request.field(absent), None);
        }
    }
}

#[test]
fn bodies_of_every_size_and_from_pieces_arrive_as_they_are() {
    let endpoint = Endpoint::always(OK);
    let rig = Rig::new(&format!(
        "{}{}",
        route("r", &endpoint.url("/in"), ""),
        route("pieces", &endpoint.url("/in"), "").replace("rfc822", "rails")
    ));
    for len in [0, 1, 65_535, 65_536, 65_537, 8_000_000] {
        let message: Vec<u8> = (0_u8..251).cycle().take(len).collect();
        for name in ["r", "pieces"] {
            assert_eq!(answer(rig.submit(name, &message).unwrap()).unwrap().status, 200, "{name} {len}");
            let request = endpoint.requests().pop().unwrap();
            let ours: &[u8] = if name == "r" { b"" } else { b"X-Original-To: to@example.org\r\n" };
            assert!(request.body.starts_with(ours), "{name} {len}");
            // Octets that are no header stand behind a blank line.
            let between = request.body.len() - ours.len() - message.len();
            assert!(request.body.ends_with(&message) && (between == 0 || (name == "pieces" && between == 2)), "{name} {len}");
        }
    }
    assert_eq!(rig.budget.held(), 0, "bodies and rendered requests are gone");
}

#[test]
fn statuses_types_and_texts() {
    for status in [200, 204, 299, 300, 303, 304, 400, 404, 429, 500, 599, 700] {
        let text = if matches!(status, 204 | 304) { "" } else { "because" };
        let endpoint = Endpoint::always(format!(
            "HTTP/1.1 {status} Why\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 120\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ));
        let response = Rig::of(&endpoint, "").send(MESSAGE).unwrap();
        assert_eq!((response.status, response.body.as_str()), (status, text));
        assert_eq!(response.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(response.retry_after.as_deref(), Some("120"));
    }
    let early_hints = Endpoint::always(format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{OK}"));
    assert_eq!(Rig::of(&early_hints, "").send(MESSAGE).unwrap().status, 200);
    let no_location = Endpoint::always("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n");
    let response = Rig::of(&no_location, "").send(MESSAGE).unwrap();
    assert_eq!((response.status, response.redirect_refused), (302, None));
}

#[test]
fn not_reached() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = Rig::new(&route("r", &format!("http://{port}/in"), ""));
    assert!(super::not_reached(rig.send(MESSAGE)).contains("refused"));
    let rig = Rig::new(&route("r", "http://no-such-host.invalid/in", ""));
    super::not_reached(rig.send(MESSAGE));
}

#[test]
fn every_way_to_break_off() {
    for said in ["", "HTTP", "HTTP/1.1 200 OK\r\nX: ", "220 mx.example ESMTP\r\n", "\0\u{1}\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n"] {
        let endpoint = Endpoint::start(move |talk| {
            talk.request();
            talk.say(said);
        });
        broken(Rig::of(&endpoint, "").send(MESSAGE));
        assert_eq!(endpoint.connections(), 1, "{said:?}: never sent again");
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    let endpoint = Endpoint::silent();
    let rig = Rig::of(&endpoint, "");
    let begun = Instant::now();
    assert_eq!(broken(rig.send_within(Duration::from_millis(300), MESSAGE)), "waiting: timed out");
    assert!((300..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[test]
fn an_answer_octet_by_octet_ends_at_the_deadline() {
    let drip = |header: &'static str| {
        Endpoint::start(move |talk| {
            talk.request();
            talk.say(header);
            while talk.say("x") {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        })
    };
    // In the header: no answer. In the body: the status has been the answer.
    let endpoint = drip("HTTP/1.1 200 OK\r\nX: ");
    broken(Rig::of(&endpoint, "").send_within(Duration::from_millis(500), MESSAGE));
    let endpoint = drip("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n");
    let begun = Instant::now();
    let response = Rig::of(&endpoint, "").send_within(Duration::from_millis(500), MESSAGE).unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body.starts_with('x') && response.body.len() < 500, "{}", response.body.len());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_body_without_end_is_read_for_a_while_only() {
    let said = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&said);
    let endpoint = Endpoint::start(move |talk| {
        talk.request();
        talk.say("HTTP/1.1 400 No\r\nContent-Length: 104857600\r\n\r\n");
        while count.load(Ordering::SeqCst) < 104_857_600 && talk.say([b'y'; 65_536]) {
            count.fetch_add(65_536, Ordering::SeqCst);
        }
    });
    let response = Rig::of(&endpoint, "").send(MESSAGE).unwrap();
    assert_eq!((response.status, response.body.len()), (400, 2048));
    assert!(said.load(Ordering::SeqCst) < 104_857_600, "the connection was closed on it");
}

#[test]
fn a_body_that_breaks_off_leaves_the_status() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    });
    let response = Rig::of(&endpoint, "").send(MESSAGE).unwrap();
    assert_eq!((response.status, response.body.as_str()), (200, "part"));
}

#[test]
fn a_flood_of_header_fields_is_no_answer() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say("HTTP/1.1 200 OK\r\n");
        while talk.say("X-Flood: 0123456789012345678901234567890123456789\r\n") {}
    });
    broken(Rig::of(&endpoint, "").send(MESSAGE));
}

/// What is always there at once is no reason to wait for more of it.
#[test]
fn a_flood_of_interim_answers_ends_at_the_deadline() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000);
        while talk.say(&flood) {}
    });
    let rig = Rig::of(&endpoint, "");
    let waiting = rig.submit_within(Duration::from_millis(300), MESSAGE).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(answer(waiting)));
    assert_eq!(broken(heard.recv_timeout(PATIENCE).unwrap()), "waiting: timed out");
}

/// Neither a chunk's size, nor what is behind its octets, nor a trailer comes to an end.
#[test]
fn chunks_without_end_are_kept_within_a_bound() {
    for start in ["", "5\r\nhello", "5\r\nhello\r\n0\r\n"] {
        let said = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&said);
        let endpoint = Endpoint::start(move |talk| {
            talk.request();
            talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            talk.say(start);
            while count.load(Ordering::SeqCst) < 104_857_600 && talk.say([b'0'; 65_536]) {
                count.fetch_add(65_536, Ordering::SeqCst);
            }
        });
        let response = Rig::of(&endpoint, "").send(MESSAGE).unwrap();
        assert_eq!((response.status, response.body.len()), (200, start.len().min(5)), "{start:?}");
        assert!(said.load(Ordering::SeqCst) < 104_857_600, "{start:?}: the connection was closed on it");
    }
    // Trailers that do end, one after the other.
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
        while talk.say("X-Trailer: 1\r\n".repeat(1000)) {}
    });
    let begun = Instant::now();
    assert_eq!(Rig::of(&endpoint, "").send(MESSAGE).unwrap().status, 200);
    assert!(begun.elapsed() < PATIENCE, "long before the deadline");
}

#[test]
fn an_early_answer_is_heard_whether_the_endpoint_closes_or_only_stops_reading() {
    let message = vec![b'm'; 8_000_000];
    for closes in [true, false] {
        let endpoint = Endpoint::start(move |talk| {
            talk.header();
            talk.say("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig");
            if !closes {
                // The test's deadline is what would end it.
                std::thread::park_timeout(PATIENCE);
            }
        });
        let begun = Instant::now();
        let response = Rig::of(&endpoint, "").send(&message).unwrap();
        assert_eq!((response.status, response.body.as_str()), (413, "big"), "closes: {closes}");
        assert!(begun.elapsed() < PATIENCE / 2);
    }
}

/// Promise 1: an endpoint has not got a message that it did not read.
#[test]
fn an_early_2xx_is_no_delivery() {
    let endpoint = Endpoint::start(|talk| {
        talk.header();
        talk.say(OK);
    });
    broken(Rig::of(&endpoint, "").send(&vec![b'm'; 8_000_000]));
}

#[test]
fn an_endpoint_that_reads_too_slowly_ends_at_the_deadline() {
    let endpoint = Endpoint::start(|talk| {
        let mut octet = [0; 1000];
        while talk.stream.read(&mut octet).is_ok_and(|n| n > 0) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let begun = Instant::now();
    broken(Rig::of(&endpoint, "").send_within(Duration::from_millis(500), &vec![b'm'; 20_000_000]));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_kept_alive_connection_that_was_closed_is_replaced_once() {
    // Each connection serves one request, then closes when the next one has come.
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say(OK);
        talk.header();
    });
    let rig = Rig::of(&endpoint, "");
    for n in 1..=3 {
        assert_eq!(rig.send(MESSAGE).unwrap().status, 200);
        assert_eq!(endpoint.connections(), n);
    }
    // The replacement is closed as well: that was the one repetition.
    let endpoint = Endpoint::start(|talk| {
        if talk.connection == 0 {
            talk.request();
            talk.say(OK);
        }
        talk.header();
    });
    let rig = Rig::of(&endpoint, "");
    assert_eq!(rig.send(MESSAGE).unwrap().status, 200);
    broken(rig.send(MESSAGE));
    assert_eq!(endpoint.connections(), 2);
}

#[test]
fn nothing_is_repeated_after_the_first_octet_of_a_response() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say(OK);
        talk.request();
        talk.say("H");
    });
    let rig = Rig::of(&endpoint, "");
    assert_eq!(rig.send(MESSAGE).unwrap().status, 200);
    broken(rig.send(MESSAGE));
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn a_connection_closed_while_idle_costs_nothing() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        talk.say(OK);
    });
    let rig = Rig::of(&endpoint, "");
    for _ in 0..5 {
        assert_eq!(rig.send(MESSAGE).unwrap().status, 200);
    }
    assert_eq!(endpoint.requests().len(), 5);
}

#[test]
fn ipv6() {
    let endpoint = Endpoint::start_on("[::1]:0", |talk| while talk.request() && talk.say(OK) {});
    assert_eq!(Rig::of(&endpoint, "").send(MESSAGE).unwrap().status, 200);
    assert_eq!(endpoint.requests()[0].field("host"), Some(endpoint.address.to_string().as_str()));
}

#[test]
fn a_rendered_request_over_the_budget_is_refused() {
    let endpoint = Endpoint::always(OK);
    let mut rig = Rig::new(&route("r", &endpoint.url("/in"), "").replace("rfc822", "json"));
    rig.budget = Budget::new(1024 * 1024, 1.0, 1.0);
    let message = vec![b'm'; 700_000];
    let refused = rig.submit("r", &message).unwrap().blocking_recv().unwrap();
    assert_eq!(refused.err(), Some(Refused::OverBudget));
    assert_eq!((endpoint.connections(), rig.budget.held()), (0, 0));
}
