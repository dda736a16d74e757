//! What stands before every path: whose request it is (Host, Origin, content type, token), and the headers of every answer.
//! A refusal is a status and one sentence; it is logged at `debug` without the token.

use super::answer::{self, Problem};
use super::app::App;
use super::listener::{Arrival, Speech};
use crate::config::Config;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Paths that stay open on loopback and on a socket when a token is set.
const OPEN_LOCALLY: [&str; 2] = ["/stats", "/metrics"];
/// What a load balancer asks, from anywhere and by HTTP/1.0 without a `Host`; off this machine the answer has no reason in it.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];

/// Of the inspector, for the page alone.
const SETTINGS: [&str; 2] = ["/inspector/next", "/inspector/sample"];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(speech) = request.extensions().get::<Arc<Speech>>() {
        speech.heard();
    }
    // Why there is no mail at present is for those on this machine.
    let silent = HEALTH.contains(&request.uri().path()) && !request.extensions().get::<Arrival>().is_some_and(|arrival| arrival.is_local());
    let mut response = match check(&app, &request) {
        Ok(()) => match next.run(request).await {
            answer if silent && !answer.status().is_success() => (answer.status(), answer::plain("not now\n")).into_response(),
            answer => answer,
        },
        Err(problem) => {
            tracing::debug!(status = problem.status.as_u16(), path = ?request.uri().path(), "admin request refused");
            refusal(problem)
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, app.page.policy.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(problem: Problem) -> Response {
    let asks_for_token = problem.status == StatusCode::UNAUTHORIZED;
    let mut response = problem.into_response();
    if asks_for_token {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mailsluice\""));
    }
    response
}

fn check(app: &App, request: &Request) -> Result<(), Problem> {
    let Some(arrival) = request.extensions().get::<Arrival>().copied() else {
        return Err(Problem::internal("a connection without an address"));
    };
    let config = app.deps.config.load();
    let path = request.uri().path();
    let health = HEALTH.contains(&path);
    if health && request.version() < Version::HTTP_11 && !request.headers().contains_key(header::HOST) {
        return Ok(());
    }
    let host = host(request.uri(), request.headers())?;
    if !is_own_name(host, arrival, &config) {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this listener does not go by the name in Host; admin.hosts may name further ones",
        ));
    }
    check_origin(request.method(), request.headers(), host)?;
    // What an endpoint is POSTed; the inspector's own settings are not.
    let inspector = path == "/inspector" || (path.starts_with("/inspector/") && !SETTINGS.contains(&path));
    if changes_state(request.method()) && !inspector && !is_json(request.headers()) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json"));
    }
    let open = path == "/" || health || (arrival.is_local() && OPEN_LOCALLY.contains(&path));
    match &config.admin.token {
        Some(token) if !open && !has_token(request.headers(), token.expose()) => {
            Err(Problem::new(StatusCode::UNAUTHORIZED, "send Authorization: Bearer with the token of admin.token_file"))
        }
        _ => Ok(()),
    }
}

fn changes_state(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The authority the request names: of an absolute target, else of its one Host (RFC 9112 section 3.2).
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(only), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::bad_request("exactly one Host is needed"));
    };
    match uri.authority() {
        Some(authority) => Ok(authority.as_str()),
        None => only.to_str().map_err(|_| Problem::bad_request("Host is not a name")),
    }
}

/// DNS rebinding: a foreign name that resolves to this address must not read anything. The names `localhost` and the loopback
/// addresses cannot be rebound; the port is not compared, so that a forwarded port works. A name says nothing on a Unix
/// socket, which no browser reaches.
fn is_own_name(host: &str, arrival: Arrival, config: &Config) -> bool {
    let Arrival::Tcp { local, .. } = arrival else { return true };
    let Some(name) = without_port(host) else { return false };
    let hosts = || config.admin.hosts.iter();
    if let Some(address) = literal(name) {
        return address == local || address.is_loopback() || hosts().any(|host| host.parse() == Ok(address));
    }
    let hostname = &config.smtp.hostname;
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || (!hostname.is_empty() && name.eq_ignore_ascii_case(hostname))
        || hosts().any(|host| name.eq_ignore_ascii_case(host))
}

fn literal(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

/// `name`, `name:port`, `[v6]`, `[v6]:port`; nothing else.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_is_fine = port.is_none_or(|port| port.bytes().all(|octet| octet.is_ascii_digit()));
    let name_is_fine = !name.is_empty() && !name.contains('@') && (name.starts_with('[') || !name.contains(':'));
    (port_is_fine && name_is_fine).then_some(name)
}

/// A page of another origin may neither read nor post, whatever the browser would have let it see.
fn check_origin(method: &Method, headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let foreign = || Err(Problem::new(StatusCode::FORBIDDEN, "requests from pages of another origin are refused"));
    for origin in headers.get_all(header::ORIGIN) {
        let authority = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, authority)| authority);
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return foreign();
        }
    }
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if changes_state(method) && matches!(site, Some("cross-site" | "same-site")) {
        return foreign();
    }
    Ok(())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let media_type = value.split_once(';').map_or(value, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Compared as keyless hashes, whose equality takes the same time wherever they differ, and whose length is always one.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, sent)) = value.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && blake3::hash(sent.trim_ascii()) == blake3::hash(token.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names() {
        let loopback = Arrival::Tcp { local: "127.0.0.1".parse().unwrap(), peer_is_loopback: true };
        let outside = Arrival::Tcp { local: "192.0.2.7".parse().unwrap(), peer_is_loopback: false };
        let table: &[(&str, bool, bool)] = &[
            ("localhost", true, true),
            ("LOCALHOST:8025", true, true),
            ("localhost.", true, true),
            ("127.0.0.1:8025", true, true),
            ("[::1]:8025", true, true),
            ("[::1]", true, true),
            ("mx.example.com:1", true, true),
            ("MX.example.com.", true, true),
            ("192.0.2.7:8025", false, true),
            ("192.0.2.8", false, false),
            ("admin.INTERNAL:443", true, true),
            ("192.0.2.9", true, true),
            ("sub.admin.internal", false, false),
            ("evil.test", false, false),
            ("evil.test:8025", false, false),
            ("localhost.evil.test", false, false),
            ("localhost@evil.test", false, false),
            ("evil.test@localhost", false, false),
            ("localhost:80:80", false, false),
            ("localhost:80a", false, false),
            ("::1", false, false),
            ("[::1", false, false),
            ("127.0.0.1.evil.test", false, false),
            ("0x7f000001", false, false),
            ("", false, false),
            (":8025", false, false),
        ];
        let text = "[smtp]\nhostname = \"mx.example.com\"\n[admin]\nhosts = [\"Admin.internal.\", \"192.0.2.9\"]\n\
                    [[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1/\"";
        let config = Config::parse(crate::config::Origin::File("test".into()), text).unwrap();
        for (host, on_loopback, on_outside) in table {
            assert_eq!(is_own_name(host, loopback, &config), *on_loopback, "{host} on loopback");
            assert_eq!(is_own_name(host, outside, &config), *on_outside, "{host} outside");
            assert!(is_own_name(host, Arrival::Unix, &config), "{host} on a socket");
        }
    }

    #[test]
    fn origins() {
        let with = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            check_origin(&Method::GET, &headers, "localhost:8025").is_ok()
        };
        assert!(with("http://localhost:8025"));
        assert!(with("https://LOCALHOST:8025"));
        for foreign in ["http://localhost:8026", "http://localhost", "http://evil.test", "null", "", "http://localhost:8025/"] {
            assert!(!with(foreign), "{foreign}");
        }
        assert!(check_origin(&Method::POST, &HeaderMap::new(), "localhost").is_ok());
    }

    #[test]
    fn tokens() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            has_token(&headers, "s3cret")
        };
        assert!(with("Bearer s3cret"));
        assert!(with("bearer  s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "Basic s3cret", "s3cret", ""] {
            assert!(!with(wrong), "{wrong}");
        }
    }

    #[test]
    fn media_types() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers)
        };
        assert!(with("application/json"));
        assert!(with("Application/JSON; charset=utf-8"));
        for other in ["text/plain", "application/jsonx", "text/plain; application/json", "application/x-www-form-urlencoded", ""] {
            assert!(!with(other), "{other}");
        }
    }
}
