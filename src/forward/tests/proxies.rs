//! A proxy between us and the endpoints.

use super::*;

fn rig(proxy: &Endpoint, url: &str) -> Rig {
    Rig::new(&format!("[forward]\nproxy = \"http://user:se%40cret@{}\"\n{}", proxy.address, route("r", url, "")))
}

#[test]
fn a_proxy_is_asked_in_the_absolute_form_and_finds_the_name_itself() {
    let proxy = Endpoint::always(OK);
    let rig = rig(&proxy, "http://app.test:8080/in?x=1");
    for _ in 0..2 {
        assert_eq!(rig.send(b"m").unwrap().status, 200);
    }
    for request in proxy.requests() {
        assert_eq!(request.line, "POST http://app.test:8080/in?x=1 HTTP/1.1");
        assert_eq!((request.field("host"), request.field("connection")), (Some("app.test:8080"), Some("close")));
        assert_eq!(request.field("proxy-authorization"), Some("Basic dXNlcjpzZUBjcmV0"));
    }
    assert_eq!(proxy.connections(), 2, "none is kept alive");
}

#[test]
fn this_host_is_asked_without_it() {
    let (proxy, endpoint) = (Endpoint::always("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), Endpoint::always(OK));
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(rig(&proxy, &format!("http://{host}:{}/", endpoint.address.port())).send(b"m").unwrap().status, 200);
    }
    let requests = endpoint.requests();
    assert_eq!((proxy.connections(), requests.len()), (0, 2));
    assert!(requests.iter().all(|request| request.field("proxy-authorization").is_none()));
}

/// What is behind it counts as outside: a redirect does not lead from there to an inner address.
#[test]
fn nothing_comes_back_inside() {
    let inner = Endpoint::always(OK);
    let location = inner.url("/");
    let proxy = Endpoint::always(format!("HTTP/1.1 307 There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
    let response = rig(&proxy, "http://app.test/in").send(b"m").unwrap();
    assert!(response.status == 307 && response.redirect_refused.is_some(), "{response:?}");
    assert_eq!(inner.connections(), 0);
}

#[test]
fn tls_goes_through_a_tunnel_or_not_at_all() {
    let tunnel = Endpoint::start(|talk| {
        talk.header();
        talk.say("HTTP/1.1 200 Connection established\r\n\r\n");
        let mut hello = [0; 3];
        // A handshake's record, and then no server behind it.
        talk.reader.read_exact(&mut hello).unwrap();
        assert_eq!(hello[..2], [0x16, 0x03]);
    });
    let why = not_reached(rig(&tunnel, "https://app.test/in").send(b"m"));
    assert!(why.starts_with("TLS: "), "{why}");
    let requests = tunnel.requests();
    assert_eq!((requests[0].line.as_str(), requests[0].field("host")), ("CONNECT app.test:443 HTTP/1.1", Some("app.test:443")));
    assert!(requests[0].field("proxy-authorization").is_some());
    let refusing = Endpoint::start(|talk| {
        talk.header();
        talk.say("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(not_reached(rig(&refusing, "https://app.test/in").send(b"m")), "connect: the proxy refuses: 407");
    // In the clear it is the answer to the POST, and no endpoint's.
    let refusing = Endpoint::always("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(not_reached(rig(&refusing, "http://app.test/in").send(b"m")), "connect: the proxy refuses: 407");
}
