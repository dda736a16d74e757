//! `RCPT TO`: routes, and the authorization callback.

use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, messages};
use std::time::{Duration, Instant};

fn two_routes(first: &Endpoint, second: &Endpoint) -> Config {
    Config::without_routes()
        .route("tickets", &["*@tickets.example.test", "support+*@example.test"], &first.url("/tickets"))
        .of_route("format", "rfc822")
        .route("rest", &["*@example.test", "postmaster"], &second.url("/rest"))
        .of_route("format", "rfc822")
}

#[test]
fn the_first_route_that_matches_gets_the_message() {
    let (tickets, rest) = (Endpoint::ok(), Endpoint::ok());
    let daemon = Daemon::start(two_routes(&tickets, &rest));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    for (to, at_tickets) in [
        ("1@tickets.example.test", true),
        ("SUPPORT+42@EXAMPLE.TEST", true),
        ("support@example.test", false),
        ("anyone@example.test", false),
        ("postmaster", false),
    ] {
        tickets.clear();
        rest.clear();
        client.transaction("a@sender.test", &[to]);
        client.data(&messages::simple("x", "text")).starts("250 ");
        assert_eq!((tickets.count(), rest.count()), if at_tickets { (1, 0) } else { (0, 1) }, "{to}");
    }
    assert_eq!(daemon.admin.stat("recipients.accepted"), 5);
}

#[test]
fn no_route_and_another_route() {
    let (tickets, rest) = (Endpoint::ok(), Endpoint::ok());
    let daemon = Daemon::start(two_routes(&tickets, &rest));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect("RCPT TO:<x@elsewhere.test>", "550 5.1.1 ");
    client.expect("DATA", "5");
    client.expect("RCPT TO:<1@tickets.example.test>", "250 ");
    client.expect("RCPT TO:<x@example.test>", "452 4.5.3 ");
    client.expect("RCPT TO:<2@tickets.example.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!((tickets.count(), rest.count()), (1, 0));
    let recipients = daemon.admin.records("").remove(0)["recipients"].clone();
    assert_eq!(recipients, serde_json::json!(["1@tickets.example.test", "2@tickets.example.test"]));
    assert_eq!(daemon.admin.stat("recipients.refused.no_route"), 1);
    assert_eq!(daemon.admin.stat("recipients.refused.other_route"), 1);
}

#[test]
fn too_many_recipients() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_recipients", 2));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["1@example.test", "2@example.test"]);
    client.expect("RCPT TO:<3@example.test>", "452 4.5.3 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
}

/// The domain is one however it is spelled, and quotes that say nothing are nothing; a local part is what the application makes of it.
#[test]
fn who_is_named_twice_counts_once() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", "250 ");
    let named = [
        "r+AbC@example.test",
        "r+aBc@example.test",
        "X@example.test",
        "x@example.test",
        "stra\u{df}e@b\u{fc}cher.test",
        "strasse@b\u{fc}cher.test",
    ];
    let again = ["r+AbC@EXAMPLE.test", "\"x\"@example.test.", "stra\u{df}e@xn--bcher-kva.test"];
    for to in named.into_iter().chain(again) {
        client.expect(&format!("RCPT TO:<{to}>"), "250 2.1.5");
    }
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(daemon.admin.records("").remove(0)["recipients"], serde_json::json!(named));
}

#[test]
fn the_callback_decides() {
    let authorizer = Endpoint::with(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let to = |name: &str| body.contains(&format!("to={name}%40example.test"));
        if to("yes") {
            Answer::status(204)
        } else if to("no") {
            Answer::text(404, "no such mailbox\r\n250 forged")
        } else if to("quiet") {
            Answer::status(403)
        } else if to("broken") {
            Answer::status(500)
        } else {
            Answer::Reset(Vec::new())
        }
    })
    .start();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("authorize_url", authorizer.url("/authorize")));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<alice@sender.test> SIZE=1234", "250 ");
    let refused = client.expect("RCPT TO:<no@example.test>", "550 5.7.1 no such mailbox");
    assert_eq!(refused.lines.len(), 1);
    client.expect("RCPT TO:<quiet@example.test>", "550 5.7.1 ");
    client.expect("RCPT TO:<broken@example.test>", "450 4.3.0 ");
    client.expect("RCPT TO:<gone@example.test>", "450 4.3.0 ");
    client.expect("RCPT TO:<yes@example.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(endpoint.count(), 1);
    let asked = authorizer.requests();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("POST", "/authorize"));
    assert_eq!(asked[0].field("content-type"), "application/x-www-form-urlencoded");
    let form = String::from_utf8(asked[0].body.clone()).unwrap();
    let mut pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    pairs.sort();
    let expected = [
        ("from", "alice@sender.test"),
        ("helo_domain", "client.test"),
        ("remote_ip", "127.0.0.1"),
        ("size", "1234"),
        ("to", "no@example.test"),
    ];
    assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    // The refusals of the endpoint, not its failures.
    assert_eq!(daemon.admin.stat("recipients.accepted"), 1);
    assert!(daemon.admin.stat("recipients.refused.authorization") >= 2);
}

#[test]
fn the_callback_as_json() {
    let authorizer = Endpoint::ok();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("authorize_url", authorizer.url("/authorize.json?key=1")));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("alice@sender.test", &["bob@example.test"]);
    let asked = authorizer.only();
    assert!(asked.field("content-type").starts_with("application/json"));
    let json = asked.json();
    assert_eq!(
        (&json["to"], &json["from"], &json["helo_domain"]),
        (&"bob@example.test".into(), &"alice@sender.test".into(), &"client.test".into())
    );
    assert_eq!(json["remote_ip"], "127.0.0.1");
    assert!(json.get("size").is_none(), "none was declared: {json}");
}

#[test]
fn a_callback_that_hangs_defers_and_holds_up_nobody_else() {
    let gate = Gate::default();
    let authorizer = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let endpoint = Endpoint::ok();
    let config = Config::without_routes()
        .route("asked", &["*@asked.test"], &endpoint.url("/asked"))
        .of_route("authorize_url", authorizer.url("/authorize"))
        .route("free", &["*@free.test"], &endpoint.url("/free"));
    let daemon = Daemon::start(config);
    let mut waiting = Client::connect(daemon.smtp());
    waiting.ehlo();
    waiting.expect("MAIL FROM:<a@sender.test>", "250 ");
    waiting.send("RCPT TO:<x@asked.test>\r\n");
    let asked = Instant::now();
    authorizer.wait_for(1);
    crate::support::client::deliver(daemon.smtp(), "a@sender.test", &["y@free.test"], &messages::simple("x", "text")).starts("250 ");
    assert!(asked.elapsed() < Duration::from_secs(4), "another route waited for the callback");
    waiting.reply().starts("450 4.3.0 ");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    gate.open();
}

/// The two forms of an internationalised domain are one, in the file and on the wire.
#[test]
fn a_domain_is_the_same_in_both_its_forms() {
    let (first, second, third) = (Endpoint::ok(), Endpoint::ok(), Endpoint::ok());
    let config = Config::without_routes()
        .route("ascii", &["*@xn--br-via.ee"], &first.url("/"))
        .of_route("format", "rfc822")
        .route("unicode", &["*@B\u{fc}cher.test", "*@*.b\u{fc}cher.test"], &second.url("/"))
        .of_route("format", "rfc822")
        .route("one", &["J\u{fc}rgen@example.test"], &third.url("/"))
        .of_route("format", "rfc822");
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    for (to, endpoint) in [
        ("foo@b\u{e4}r.ee", &first),
        ("foo@xn--br-via.ee", &first),
        ("foo@BA\u{308}R.EE", &first),
        ("foo@xn--bcher-kva.test", &second),
        ("foo@b\u{fc}cher.test", &second),
        ("foo@mx.XN--bcher-KVA.test.", &second),
        ("ju\u{308}rgen@example.test", &third),
        ("J\u{dc}RGEN@EXAMPLE.TEST", &third),
    ] {
        [&first, &second, &third].iter().for_each(|endpoint| endpoint.clear());
        client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", "250 ");
        client.expect(&format!("RCPT TO:<{to}>"), "250 2.1.5");
        client.data(&messages::simple("x", "text")).starts("250 ");
        assert_eq!(endpoint.count(), 1, "{to}");
        let recipients = daemon.admin.records("").remove(0)["recipients"].clone();
        assert_eq!(recipients, serde_json::json!([to.trim_end_matches('.')]), "as the sender wrote it");
    }
    client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", "250 ");
    client.expect("RCPT TO:<foo@bar.ee>", "550 5.1.1");
}

/// RFC 5321 section 4.5.1.
#[test]
fn postmaster_without_a_domain() {
    for (hostname, globs, expected) in [
        ("mx.t.test", vec!["*@t.test"], Some("postmaster@t.test")),
        ("mx.t.test", vec!["*@*.u.test", "*@mx.t.test"], Some("postmaster@mx.t.test")),
        ("mx.t.test", vec!["*@t.test", "PostMaster"], Some("Postmaster")),
        ("mx.t.test", vec!["support@t.test"], None),
    ] {
        let endpoint = Endpoint::ok();
        let config = Config::without_routes().set("smtp.hostname", hostname).route("one", &globs, &endpoint.url("/"));
        let daemon = Daemon::start(config);
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.expect("MAIL FROM:<>", "250 ");
        let Some(expected) = expected else {
            client.expect("RCPT TO:<Postmaster>", "550 5.1.1");
            continue;
        };
        client.expect("RCPT TO:<Postmaster>", "250 2.1.5");
        client.expect(&format!("RCPT TO:<{}>", expected.to_uppercase()), "250 2.1.5");
        client.data(&messages::simple("x", "text")).starts("250 ");
        assert_eq!(endpoint.only().json()["envelope"]["recipients"], serde_json::json!([expected]), "{globs:?}");
    }
}

/// An address of 1 000 octets is the same everywhere: record, queries, export, callback, formats; and goes everywhere.
#[test]
fn a_long_address_is_carried_whole() {
    let long = |local: &str, domain: &str| format!("{}@{domain}", local.repeat((998 - 1 - domain.len()) / local.len()));
    let (from, to) = (long("s.", "sender.test"), long("r+", "example.test"));
    for format in ["json", "multipart", "raw", "rfc822", "rails"] {
        let (endpoint, authorizer) = (Endpoint::ok(), Endpoint::ok());
        let config = Config::to(&endpoint).of_route("format", format).of_route("authorize_url", authorizer.url("/authorize.json"));
        let daemon = Daemon::start(config);
        let mut client = Client::connect(daemon.smtp());
        client.envelope(&from, &[&to]);
        client.data(&messages::simple("x", "text")).starts("250 ");
        let asked = authorizer.only().json();
        assert_eq!((asked["from"].as_str(), asked["to"].as_str()), (Some(&*from), Some(&*to)), "{format}");
        let request = endpoint.only();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let has = |text: &str| body.contains(text);
        match format {
            "rfc822" => assert_eq!((request.field("mailsluice-mail-from"), request.field("mailsluice-rcpt-to")), (&*from, &*to)),
            "rails" => assert!(request.field("mailsluice-mail-from") == from && has(&to)),
            _ => assert!(has(&from) && has(&to), "{format}"),
        }
        let record = daemon.admin.records("").remove(0);
        assert_eq!((record["sender"].as_str(), record["recipients"][0].as_str()), (Some(&*from), Some(&*to)));
        let found = daemon.admin.records(&format!("recipient={}", to.replace('+', "%2B")));
        assert_eq!(found.len(), 1);
        let body = serde_json::json!({ "address": to.to_uppercase() }).to_string();
        assert_eq!(daemon.admin.post("/forget", "application/json", &body).json()["records"], 1, "{format}");
        assert_eq!(daemon.admin.records("").remove(0)["sender"].as_str(), Some(&*from));
    }
}

/// Servers take so many octets of a request's header and no more.
#[test]
fn the_recipients_of_rfc822_fit_into_one_field() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "rfc822"));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    let mut taken = Vec::new();
    for n in 0..60 {
        let address = format!("{n:03}{}@example.test", "x".repeat(150));
        client.send(format!("RCPT TO:<{address}>\r\n"));
        let reply = client.reply();
        if reply.code == 250 {
            taken.push(address);
        } else {
            reply.starts("452 4.5.3 ");
        }
    }
    assert!((30..40).contains(&taken.len()), "{}", taken.len());
    client.data(&messages::simple("x", "text")).starts("250 ");
    let request = endpoint.only();
    let fields: Vec<&str> = request.fields.all("mailsluice-rcpt-to").collect();
    assert_eq!(fields, [taken.join(",")]);
    assert!(fields[0].len() <= 6 * 1024);
}

/// Told at RCPT where the size was declared, else at the end of the data, by DATA and by BDAT; other routes take as much as ever.
#[test]
fn a_route_takes_messages_up_to_its_own_size() {
    let endpoint = Endpoint::ok();
    let config = Config::without_routes()
        .route("small", &["*@small.test"], &endpoint.url("/small"))
        .of_route("max_message_size", "2KiB")
        .route("rest", &["*"], &endpoint.url("/rest"));
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test> SIZE=2049", "250 ");
    client.expect("RCPT TO:<x@small.test>", "552 5.3.4 ");
    client.expect("RCPT TO:<x@large.test>", "250 ");
    let message = |octets: usize| [b"Subject: x\r\n\r\n".to_vec(), vec![b'x'; octets - 16], b"\r\n".to_vec()].concat();
    client.data(&message(4096)).starts("250 ");
    for (octets, reply) in [(2048, "250 "), (2049, "552 5.3.4 "), (100_000, "552 5.3.4 ")] {
        client.transaction("a@sender.test", &["x@small.test"]);
        client.data(&message(octets)).starts(reply);
        client.transaction("a@sender.test", &["x@small.test"]);
        client.bdat(&message(octets), true).starts(reply);
    }
    client.transaction("a@sender.test", &["x@large.test"]);
    client.data(&message(100_000)).starts("250 ");
    assert_eq!(endpoint.count(), 4);
    assert_eq!(daemon.admin.stat("messages.refused.size"), 4);
    let small = daemon.admin.records("route=small").iter().filter(|record| record["outcome"] == "rejected").count();
    assert_eq!(small, 4, "each has its record");
}
