//! The authorization callback.

use super::*;
use crate::forward::authorize::QUESTIONS_MAX;
use crate::forward::{Authorization, Authorized};
use crate::verify::SpfResult;

fn question() -> Authorization {
    Authorization {
        to: "to+x@example.org".into(),
        from: String::new(),
        size: Some(1234),
        remote_ip: "2001:db8::1".into(),
        helo_domain: "client.example".into(),
        spf: Some(SpfResult { result: "pass", domain: "example.com".into() }),
    }
}

fn rig(callback: &str) -> Rig {
    Rig::new(&route("r", "http://127.0.0.1:9/in", &format!("authorize_url = \"{callback}\"")))
}

fn ask(rig: &Rig) -> Authorized {
    open(rig).blocking_recv().unwrap()
}

fn open(rig: &Rig) -> oneshot::Receiver<Authorized> {
    let (forwarders, route) = (Arc::clone(&rig.forwarders), rig.route("r"));
    rig.run(move || async move { forwarders.authorize(&route, &route.target, &question()).await })
}

#[test]
fn statuses() {
    let plain = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ntext");
    let html = "HTTP/1.1 403 No\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>";
    let cases = [
        (plain(200), Authorized::Yes(None)),
        (plain(204).replace("Content-Length: 4\r\n\r\ntext", "\r\n"), Authorized::Yes(None)),
        (plain(404), Authorized::No(Some("text".into()))),
        (html.to_owned(), Authorized::No(None)),
        (plain(429), Authorized::Unknown),
        (plain(408), Authorized::Unknown),
        (plain(401), Authorized::No(Some("text".into()))),
        (plain(407), Authorized::No(Some("text".into()))),
        (plain(401).replace("Content-Type", "WWW-Authenticate: Basic\r\nContent-Type"), Authorized::Unknown),
        (plain(500), Authorized::Unknown),
        (plain(304), Authorized::Unknown),
        ("garbage\r\n\r\n".to_owned(), Authorized::Unknown),
    ];
    for (said, expected) in cases {
        let endpoint = Endpoint::always(said.clone());
        assert_eq!(ask(&rig(&endpoint.url("/a"))), expected, "{said}");
    }
    assert_eq!(ask(&rig("http://127.0.0.1:1/a")), Authorized::Unknown, "not reached");
}

#[test]
fn redirects_are_not_followed() {
    let target = Endpoint::always(OK);
    let endpoint = Endpoint::always(format!("HTTP/1.1 307 X\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", target.url("/")));
    assert_eq!(ask(&rig(&endpoint.url("/a"))), Authorized::Unknown);
    assert_eq!(target.connections(), 0);
}

#[test]
fn the_form() {
    let endpoint = Endpoint::always(OK);
    let callback = format!("http://u:p@{}/a", endpoint.address);
    assert_eq!(ask(&rig(&callback)), Authorized::Yes(None));
    let request = endpoint.requests().pop().unwrap();
    assert_eq!(request.field("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.field("authorization"), Some("Basic dTpw"));
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let expected = [
        ("to", "to+x@example.org"),
        ("from", ""),
        ("size", "1234"),
        ("remote_ip", "2001:db8::1"),
        ("helo_domain", "client.example"),
        ("spf[result]", "pass"),
        ("spf[domain]", "example.com"),
    ];
    assert!(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{fields:?}");
}

#[test]
fn json_by_the_urls_ending() {
    let endpoint = Endpoint::always(OK);
    assert_eq!(ask(&rig(&endpoint.url("/a.json?key=1"))), Authorized::Yes(None));
    let request = endpoint.requests().pop().unwrap();
    assert_eq!(request.field("content-type"), Some("application/json"));
    let value: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "to": "to+x@example.org", "from": "", "size": 1234, "remote_ip": "2001:db8::1", "helo_domain": "client.example",
            "spf": { "result": "pass", "domain": "example.com" },
        })
    );
}

#[test]
fn a_callback_that_hangs_holds_no_forwarder_and_ends_in_time() {
    let (hanging, good) = (Endpoint::silent(), Endpoint::always(OK));
    let more = format!("authorize_url = \"{}\"\nmax_concurrency = 1", hanging.url("/a"));
    let rig = Rig::new(&format!("{}[forward]\nworkers = 1\n", route("r", &good.url("/in"), &more)));
    let begun = Instant::now();
    let open: Vec<_> = (0..QUESTIONS_MAX).map(|_| open(&rig)).collect();
    wait_until("all are asked", || hanging.connections() == QUESTIONS_MAX);
    assert_eq!(ask(&rig), Authorized::Unknown, "one too many");
    assert!(begun.elapsed().as_millis() < 4500, "it did not wait");
    assert_eq!(rig.send(b"m").unwrap().status, 200);
    for receiver in open {
        assert_eq!(receiver.blocking_recv().unwrap(), Authorized::Unknown);
    }
    assert!((4500..9000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let again = self::open(&rig);
    wait_until("there is room again", || hanging.connections() == QUESTIONS_MAX + 1);
    drop(again);
}
