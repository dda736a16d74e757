//! The authorization callback says where a message goes: what it may name, what goes along, how long it is kept.

use crate::support::{Answer, Client, Config, Daemon, Endpoint, NameServer, Request, Says, eventually, messages};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

const JSON: &str = "application/json; charset=utf-8";

fn say(body: &Value) -> Answer {
    typed(JSON, &body.to_string())
}

fn typed(content_type: &str, body: &str) -> Answer {
    Answer::Respond { status: 200, fields: vec![("Content-Type".into(), content_type.into())], body: body.into() }
}

/// Answers by the recipient's local part; others are taken as they are.
fn authorizer(answers: Vec<(&'static str, Answer)>) -> Endpoint {
    Endpoint::with(move |request| {
        let to = request.json()["to"].as_str().unwrap().split('@').next().unwrap().to_owned();
        answers.iter().find(|(local, _)| *local == to).map_or(Answer::status(204), |(_, answer)| answer.clone())
    })
    .start()
}

fn origin(endpoint: &Endpoint) -> String {
    endpoint.url("")
}

/// A route with credentials, a header and a signature of its own.
fn config(home: &Endpoint, asked: &Endpoint, to: &[&str]) -> Config {
    Config::without_routes()
        .route("r", &["*"], &format!("http://user:secret@{}/in", home.address))
        .of_route("headers", toml::Table::from_iter([("X-Home".to_owned(), "1".into())]))
        .of_route("signing_secret", vec!["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"])
        .of_route("authorize_url", asked.url("/authorize.json"))
        .of_route("authorize_to", to.to_vec())
}

/// One message to this recipient, and the request that came of it.
#[track_caller]
fn arrives(client: &mut Client, local: &str, at: &Endpoint) -> std::sync::Arc<Request> {
    at.clear();
    client.transaction("a@sender.test", &[&format!("{local}@x.test")]);
    client.data(&messages::simple(local, "text")).starts("250 ");
    at.only()
}

#[test]
fn what_goes_along_to_the_place_that_it_names() {
    let (home, other, third) = (Endpoint::ok(), Endpoint::with(redirecting).start(), Endpoint::always(Answer::status(401)));
    let place = |endpoint: &Endpoint, path: &str| json!({ "url": endpoint.url(path), "headers": { "X-Tenant": "7", "x-home": "2" } });
    let bearer = json!({ "url": other.url("/other"), "headers": { "Authorization": "Bearer t" } });
    let led = json!({ "url": other.url(&format!("/to?{}", third.url("/third"))), "headers": { "X-Tenant": "7" } });
    let asked = authorizer(vec![
        ("own", say(&place(&home, "/own?q=1"))),
        ("other", say(&bearer)),
        ("led", say(&led)),
        ("empty", say(&json!({}))),
        ("headers", say(&json!({ "headers": { "X-Tenant": "7" } }))),
        ("unreadable", typed("application/json", "{\"url\": ")),
        ("text", typed("text/plain", &bearer.to_string())),
    ]);
    let daemon = Daemon::start(config(&home, &asked, &["self", &origin(&other)]));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let own = arrives(&mut client, "own", &home);
    assert_eq!((own.target.as_str(), own.field("x-tenant"), own.field("authorization")), ("/own?q=1", "7", "Basic dXNlcjpzZWNyZXQ="));
    assert_eq!(own.fields.all("x-home").collect::<Vec<_>>(), ["2"], "the answer's own");
    own.field("webhook-signature");
    let elsewhere = arrives(&mut client, "other", &other);
    assert_eq!((elsewhere.target.as_str(), elsewhere.field("authorization")), ("/other", "Bearer t"));
    elsewhere.field("webhook-signature");
    assert!(elsewhere.fields.get("x-home").is_none(), "{:?}", elsewhere.fields);
    // What names no place is taken as any 2xx is.
    for local in ["empty", "headers", "unreadable", "text", "nothing"] {
        let request = arrives(&mut client, local, &home);
        assert_eq!((request.target.as_str(), request.field("x-home")), ("/in", "1"), "{local}");
        assert!(request.fields.get("x-tenant").is_none(), "{local}");
    }
    // A redirect from there to another origin takes nothing along; what that origin says of credentials is no refusal.
    client.transaction("a@sender.test", &["led@x.test"]);
    client.data(&messages::simple("led", "text")).starts("450 4.3.0 ");
    let led = third.only();
    for name in ["x-tenant", "x-home", "authorization", "webhook-signature"] {
        assert!(led.fields.get(name).is_none(), "{name}: {:?}", led.fields);
    }
}

fn redirecting(request: &Request) -> Answer {
    match request.target.strip_prefix("/to?") {
        Some(location) => Answer::redirect(307, location),
        None => Answer::status(200),
    }
}

#[test]
fn what_is_not_allowed_defers_and_is_logged() {
    let (home, other) = (Endpoint::ok(), Endpoint::ok());
    let url = |url: &str| say(&json!({ "url": url }));
    let with = |headers: Value| say(&json!({ "url": home.url("/x"), "headers": headers }));
    let many = Value::Object((0..33).map(|n| (format!("X-{n}"), "y".into())).collect());
    let cut = json!({ "url": home.url("/x"), "padding": "x".repeat(40_000) });
    let breaks_off =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{}", json!({ "url": home.url("/x") }));
    let cases = vec![
        ("origin", url(&other.url("/x"))),
        ("userinfo", url(&home.url("/x").replace("http://", "http://u:p@"))),
        ("scheme", url("ftp://127.0.0.1/x")),
        ("relative", url("/x")),
        ("number", say(&json!({ "url": 1 }))),
        ("host", with(json!({ "Host": "x" }))),
        ("injected", with(json!({ "X": "a\r\nY: b" }))),
        ("credentials", with(json!({ "Authorization": "Bearer x" }))),
        ("many", with(many)),
        ("large", with(json!({ "X": "y".repeat(8200) }))),
        ("long", say(&cut)),
        ("cut", Answer::Octets(breaks_off.into_bytes())),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let asked = authorizer(cases);
    let daemon = Daemon::start(config(&home, &asked, &["self"]).set("smtp.max_errors", 100));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    for name in &names {
        client.expect(&format!("RCPT TO:<{name}@x.test>"), "450 4.3.0 ");
    }
    let logged = |what: &str| daemon.log().lines().filter(|line| line.contains(what)).count();
    let lines = || (logged("names a place where the message may not go"), logged("answer did not all come in time"));
    eventually("a line for each", || (lines() == (names.len() - 2, 2)).then_some(()));
    client.expect("RCPT TO:<fine@x.test>", "250 ");
    assert_eq!((home.count(), other.count()), (0, 0));
}

/// All of it counts, for as long as the question may take.
#[test]
fn an_answer_that_comes_in_pieces() {
    let (home, other) = (Endpoint::ok(), Endpoint::ok());
    let body = json!({ "url": other.url("/other"), "headers": { "X-Tenant": "7", "X-More": "x".repeat(100) } }).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let each = Duration::from_millis(2500) / u32::try_from(answer.len()).unwrap();
    let asked = authorizer(vec![("slow", Answer::Drip(answer.into_bytes(), each))]);
    let daemon = Daemon::start(config(&home, &asked, &["self", &origin(&other)]));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    assert_eq!(arrives(&mut client, "slow", &other).field("x-tenant"), "7");
}

/// `https://*`: the address counts, whatever the name.
#[test]
fn any_public_place_is_none_within() {
    let server = NameServer::start();
    server.say("inner.test", Says::Addresses(60, vec![Ipv4Addr::LOCALHOST.into()]));
    let (home, inner) = (Endpoint::ok(), Endpoint::ok());
    let port = inner.address.port();
    let at = move |host: &str| say(&json!({ "url": format!("https://{host}:{port}/") }));
    let asked = authorizer(vec![
        ("literal", at("127.0.0.1")),
        ("mapped", at("[::ffff:10.0.0.1]")),
        ("localhost", at("localhost")),
        ("clear", say(&json!({ "url": "http://93.184.216.34/" }))),
        ("named", at("inner.test")),
    ]);
    let config = config(&home, &asked, &["https://*"]).set("dns.servers", vec![server.address.to_string()]);
    let daemon = Daemon::start(config.set("smtp.max_errors", 100));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    for local in ["literal", "mapped", "localhost", "clear"] {
        client.expect(&format!("RCPT TO:<{local}@x.test>"), "450 4.3.0 ");
    }
    client.expect("RCPT TO:<named@x.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("450 4.4.1 ");
    assert_eq!((inner.connections(), home.count()), (0, 0));
}

#[test]
fn a_recipient_with_another_place_takes_another_transaction() {
    let (home, other) = (Endpoint::ok(), Endpoint::ok());
    let place = json!({ "url": other.url("/1"), "headers": { "X": "1" } });
    let asked = authorizer(vec![
        ("one", say(&place)),
        ("same", say(&place)),
        ("path", say(&json!({ "url": other.url("/2"), "headers": { "X": "1" } }))),
        ("header", say(&json!({ "url": other.url("/1"), "headers": { "X": "2" } }))),
    ]);
    let daemon = Daemon::start(config(&home, &asked, &[&origin(&other)]));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect("RCPT TO:<one@x.test>", "250 ");
    for local in ["path", "header", "none"] {
        client.expect(&format!("RCPT TO:<{local}@x.test>"), "452 4.5.3 ");
    }
    client.expect("RCPT TO:<same@x.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(other.only().json()["envelope"]["recipients"], json!(["one@x.test", "same@x.test"]));
    // The first binds, also one without a place.
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect("RCPT TO:<none@x.test>", "250 ");
    client.expect("RCPT TO:<one@x.test>", "452 4.5.3 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(home.only().json()["envelope"]["recipients"], json!(["none@x.test"]));
    assert_eq!(daemon.admin.stat("recipients.refused.other_route"), 4);
}

#[test]
fn answers_are_kept_as_they_say_until_a_reload() {
    let home = Endpoint::ok();
    let kept = |answer: Answer, control: &str| answer.field("Cache-Control", control);
    let asked = authorizer(vec![
        ("kept", kept(say(&json!({ "url": home.url("/kept") })), "max-age=60")),
        ("no", kept(Answer::text(404, "no such mailbox"), "public, max-age=60")),
        ("private", kept(say(&json!({ "url": home.url("/x") })), "private, max-age=60")),
        ("never", kept(Answer::status(204), "no-store")),
        ("failing", kept(Answer::status(503), "max-age=60")),
    ]);
    let config = config(&home, &asked, &["self"]).set("smtp.max_errors", 1000);
    let mut daemon = Daemon::start(config.clone());
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let mut rcpt = |from: &str, local: &str| {
        client.expect(&format!("MAIL FROM:<{from}>"), "250 ");
        let reply = client.command(&format!("RCPT TO:<{local}@x.test>"));
        client.expect("RSET", "250 ");
        reply.code
    };
    // Twice by one sender, once by another: how often it was asked.
    for (local, code, questions) in [("kept", 250, 2), ("no", 550, 2), ("private", 250, 3), ("never", 250, 3), ("failing", 450, 3)] {
        asked.clear();
        for from in ["a@sender.test", "a@sender.test", "b@sender.test"] {
            assert_eq!(rcpt(from, local), code, "{local}");
        }
        assert_eq!(asked.count(), questions, "{local}");
    }
    let kept = arrives(&mut client, "kept", &home);
    assert_eq!(kept.target, "/kept");
    asked.clear();
    daemon.reload(config);
    eventually("it is asked again", || {
        client.expect("MAIL FROM:<a@sender.test>", "250 ");
        client.expect("RCPT TO:<kept@x.test>", "250 ");
        client.expect("RSET", "250 ");
        (asked.count() > 0).then_some(())
    });
}

/// Without `authorize_to` nobody looks into an answer.
#[test]
fn an_answer_is_not_looked_into_unless_it_is_allowed_to_say_something() {
    let (home, other) = (Endpoint::ok(), Endpoint::ok());
    let asked = authorizer(vec![("other", say(&json!({ "url": other.url("/"), "headers": 1 })))]);
    let daemon = Daemon::start(config(&home, &asked, &[]));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    assert_eq!(arrives(&mut client, "other", &home).target, "/in");
    assert_eq!(other.count(), 0);
}
