//! Redirects: the same POST again, and what does not go along.

use super::*;
use crate::http::{self, Wanted};

fn moved(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 5\r\n\r\nthere")
}

const CONFIDENTIAL: &str = "headers = { X-Tenant = \"42\" }\nsigning_secret = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]";

fn confidential(endpoint: &Endpoint) -> Rig {
    Rig::new(&route("r", &format!("http://u:p@{}/in", endpoint.address), CONFIDENTIAL))
}

fn carries_secrets(request: &Request) -> bool {
    let carried = ["x-tenant", "authorization", "webhook-signature"].map(|name| request.field(name).is_some());
    assert!(carried == [true; 3] || carried == [false; 3], "all or none: {carried:?}");
    carried[0]
}

#[test]
fn the_same_post_again() {
    for status in [301, 302, 307, 308] {
        let endpoint = Endpoint::start(move |talk| {
            while talk.request() {
                let first = talk.seen.lock().unwrap().len() == 1;
                talk.say(if first { moved(status, "there?y=2#fragment") } else { OK.to_owned() });
            }
        });
        let response = confidential(&endpoint).send(b"the message").unwrap();
        assert_eq!((response.status, response.redirect_refused), (200, None));
        let requests = endpoint.requests();
        assert_eq!(requests[1].line, "POST /there?y=2 HTTP/1.1");
        assert_eq!(requests[1].body, b"the message");
        assert_eq!(requests[1].field("webhook-id"), Some("msg_1"));
        assert!(requests.iter().all(carries_secrets));
    }
}

#[test]
fn secrets_stay_with_the_origin_and_do_not_come_back_to_it() {
    let (tell, home) = std::sync::mpsc::channel::<String>();
    let home = Mutex::new(home);
    let other = Endpoint::start(move |talk| {
        talk.request();
        let url = home.lock().unwrap().recv().unwrap();
        talk.say(moved(307, &url));
    });
    let away = moved(307, &other.url("/x"));
    let endpoint = Endpoint::start(move |talk| {
        while talk.request() {
            let first = talk.seen.lock().unwrap().len() == 1;
            talk.say(if first { &away } else { OK });
        }
    });
    tell.send(endpoint.url("/chosen-by-the-other")).unwrap();
    assert_eq!(confidential(&endpoint).send(b"m").unwrap().status, 200);
    assert!(!carries_secrets(&other.requests()[0]));
    let requests = endpoint.requests();
    assert_eq!(requests.iter().map(carries_secrets).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn three_hops_and_no_more() {
    let endpoint = Endpoint::always(moved(308, "/in"));
    let response = Rig::of(&endpoint, "").send(b"m").unwrap();
    assert_eq!((response.status, response.body.as_str()), (308, "there"));
    assert!(response.redirect_refused.is_some_and(|why| why.contains('3')));
    assert_eq!(endpoint.requests().len(), 4);
}

#[test]
fn targets_that_are_not_asked() {
    for location in ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "https://[::1", "mailto:a@b"] {
        let endpoint = Endpoint::always(moved(302, location));
        let response = Rig::of(&endpoint, "").send(b"m").unwrap();
        assert_eq!(response.status, 302, "{location}");
        assert!(response.redirect_refused.is_some(), "{location}");
    }
}

#[test]
fn a_redirects_body_does_not_use_up_the_deadline() {
    let endpoint = Endpoint::start(|talk| {
        talk.request();
        if talk.seen.lock().unwrap().len() > 1 {
            talk.say(OK);
            return;
        }
        talk.say("HTTP/1.1 307 Moved\r\nLocation: /there\r\nContent-Length: 9999\r\n\r\n");
        while talk.say("x") {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let begun = Instant::now();
    assert_eq!(Rig::of(&endpoint, "").send(b"m").unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(8));
}

/// On the address that is connected to, also one of a kept-alive connection.
#[test]
fn an_inner_address_is_not_connected_to_for_a_public_one() {
    let endpoint = Endpoint::always(OK);
    let rig = Rig::of(&endpoint, "");
    assert_eq!(rig.send(b"m").unwrap().status, 200);
    let name = format!("http://localhost:{}/", endpoint.address.port());
    for url in
        [endpoint.url("/"), name, format!("http://[::ffff:127.0.0.1]:{}/", endpoint.address.port()), "http://169.254.169.254/".into()]
    {
        let client = rig.forwarders.lines.load().get("r").unwrap().client();
        let target = url.parse().unwrap();
        let asked = rig.run(move || async move {
            let deadline = Instant::now() + PATIENCE;
            client
                .post(&http::Request {
                    url: &target,
                    headers: &[],
                    len: 1,
                    body: &[b"m"],
                    deadline,
                    socket: None,
                    at_home: true,
                    redirected: false,
                    only_public: true,
                    wanted: Wanted::Start,
                })
                .await
                .map(|_| ())
        });
        match asked.blocking_recv().unwrap() {
            Err(none) => assert!(none.why.starts_with("redirect from a public address"), "{url}: {none}"),
            Ok(()) => panic!("{url} was asked"),
        }
    }
    assert_eq!((endpoint.connections(), endpoint.requests().len()), (1, 1));
}
