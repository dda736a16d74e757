//! The listener on real sockets, over a real store.

use super::{AdminSocket, Deps, Handle, start};
use crate::config::{Config, Origin, Secret};
use crate::message::Budget;
use crate::record::{Outcome, Record, ServerResponse};
use crate::stats::{Readiness, Stage, Stats};
use crate::store::Store;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

struct Admin {
    address: SocketAddr,
    socket: Option<PathBuf>,
    config: Arc<ArcSwap<Config>>,
    stats: Arc<Stats>,
    store: Arc<Store>,
    budget: Arc<Budget>,
    handle: Option<Handle>,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Admin {
    fn start(origin: Origin, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(origin, change, false)
    }

    fn start_on(origin: Origin, change: impl FnOnce(&mut Config), unix: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = "[smtp]\nlisten = [\"127.0.0.1:2525\"]\nhostname = \"mx.example.test\"\n[[route]]\nname = \"all\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:1/\"\n";
        let mut config = Config::parse(origin, text).unwrap();
        config.store.path = dir.path().join("records.redb");
        change(&mut config);
        let stats = Stats::new();
        let store = Store::open(&config.store, &stats).unwrap();
        let budget = Budget::new(1000, 1.0, 1.0);
        let config = Arc::new(ArcSwap::from_pointee(config));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = if unix { AdminSocket::Unix(UnixListener::bind(&path).unwrap()) } else { AdminSocket::Tcp(listener) };
        let deps = Deps {
            config: Arc::clone(&config),
            stats: Arc::clone(&stats),
            store: Arc::clone(&store),
            ready: Arc::clone(&stats.ready),
            budget: Arc::clone(&budget),
            fleet: Arc::default(),
        };
        let handle = Some(start(deps, socket).unwrap());
        Self { address, socket: unix.then_some(path), config, stats, store, budget, handle, _dir: dir }
    }

    fn production() -> Self {
        Self::start(Origin::File("mailsluice.toml".into()), |_| ())
    }

    fn development() -> Self {
        Self::start(Origin::Development, |_| ())
    }

    fn send(&self, request: &[u8]) -> Answer {
        let mut octets = Vec::new();
        if let Some(path) = &self.socket {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request).unwrap();
            stream.read_to_end(&mut octets).unwrap();
        } else {
            let mut stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request).unwrap();
            stream.read_to_end(&mut octets).unwrap();
        }
        let at = memchr::memmem::find(&octets, b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&octets)));
        let head = String::from_utf8(octets[..at].to_vec()).unwrap();
        let body = octets[at + 4..].to_vec();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: if chunked { unchunked(&body) } else { body } }
    }

    /// A request whose header lines are `fields`, Host included.
    fn raw(&self, method: &str, path: &str, fields: &[&str], body: &[u8]) -> Answer {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())
    }

    fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &["Host: localhost"], b"")
    }

    fn post(&self, path: &str, fields: &[&str], body: &[u8]) -> Answer {
        self.raw("POST", path, &[&["Host: localhost"], fields].concat(), body)
    }

    fn commit(&self, n: u64, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = Record {
            id: self.store.next_id(),
            date: jiff::Timestamp::now(),
            sender_ip: "192.0.2.1".into(),
            message_id: Some(format!("<{n}@example.net>")),
            sender: "a@example.net".into(),
            recipients: vec![format!("b{n}@example.com")],
            subject: Some(format!("subject {n}")),
            server_response: ServerResponse { status: 200, body: "ok".into(), content_type: None, retry_after: None },
            processing_time_us: 1000 + n,
            queue_us: 1,
            forward_us: 2,
            store_us: 3,
            outcome: Outcome::Delivered,
            reply: "250 2.0.0 Ok".into(),
            size: 10,
            tls: None,
            route: "all".into(),
            webhook_id: format!("msg_{n}"),
        };
        change(&mut record);
        self.store.commit(record.clone()).blocking_recv().unwrap().unwrap();
        record
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
    }
}

fn unchunked(mut octets: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = memchr::memmem::find(octets, b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&octets[..end]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&octets[end + 2..end + 2 + length]);
        octets = &octets[end + 4 + length..];
    }
    whole
}

#[test]
fn only_its_own_names_are_served() {
    let admin = Admin::production();
    let port = admin.address.port();
    for host in ["evil.test", "evil.test:8025", "192.0.2.1", "localhost.evil.test", "", "[2001:db8::1]"] {
        for path in ["/", "/stats", "/healthz", "/records", "/nothing"] {
            assert_eq!(admin.raw("GET", path, &[&format!("Host: {host}")], b"").status, 421, "{host} {path}");
        }
    }
    for host in
        ["localhost".to_owned(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), "[::1]".to_owned(), "mx.example.test".to_owned()]
    {
        assert_eq!(admin.raw("GET", "/healthz", &[&format!("Host: {host}")], b"").status, 200, "{host}");
    }
    // The name stands in an absolute target, too, and there must be exactly one.
    assert_eq!(admin.raw("GET", "http://evil.test/stats", &["Host: localhost"], b"").status, 421);
    assert_eq!(admin.raw("GET", "/stats", &["Host: localhost", "Host: evil.test"], b"").status, 400);
    assert_eq!(admin.raw("GET", "/stats", &[], b"").status, 400);
}

#[test]
fn other_origins_and_other_types_change_nothing() {
    let admin = Admin::production();
    admin.commit(1, |_| ());
    let body = br#"{"address": "b1@example.com"}"#;
    let json = "Content-Type: application/json";
    for origin in ["http://evil.test", "null", "http://localhost:1"] {
        assert_eq!(admin.post("/forget", &[json, &format!("Origin: {origin}")], body).status, 403, "{origin}");
        assert_eq!(admin.raw("GET", "/records", &["Host: localhost", &format!("Origin: {origin}")], b"").status, 403, "{origin}");
    }
    assert_eq!(admin.post("/forget", &[json, "Sec-Fetch-Site: cross-site"], body).status, 403);
    assert_eq!(admin.post("/forget", &["Content-Type: text/plain"], body).status, 415);
    assert_eq!(admin.post("/forget", &[], body).status, 415);
    assert_eq!(admin.raw("DELETE", "/records", &["Host: localhost"], b"").status, 415);
    assert_eq!(admin.get("/records").json()["records"].as_array().unwrap().len(), 1);
    let answer = admin.post("/forget", &[json, "Origin: http://localhost"], body);
    assert_eq!((answer.status, answer.json()), (200, json!({"records": 1})));
    assert_eq!(admin.get("/records?recipient=b1@example.com").json()["records"], json!([]));
}

#[test]
fn every_answer_carries_the_policy() {
    let admin = Admin::production();
    let refused = admin.raw("GET", "/stats", &["Host: evil.test"], b"");
    for answer in [admin.get("/"), admin.get("/stats"), admin.get("/nothing"), refused] {
        let policy = answer.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert_eq!(answer.field("access-control-allow-origin"), None);
    }
    assert_eq!(admin.get("/").field("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let admin = Admin::start(Origin::File("f".into()), |config| config.admin.token = Some(Secret::new("s3cret")));
    for path in ["/", "/stats", "/metrics", "/healthz"] {
        assert_eq!(admin.get(path).status, 200, "{path}");
    }
    for path in ["/records", "/records/live", "/export?address=a@b.c", "/histograms/total", "/series", "/undelivered", "/nothing"] {
        let answer = admin.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.field("www-authenticate").unwrap().starts_with("Bearer"));
    }
    let with = |token: &str| admin.raw("GET", "/records", &["Host: localhost", &format!("Authorization: Bearer {token}")], b"").status;
    assert_eq!((with("s3cret"), with("s3creT"), with("")), (200, 401, 401));
    assert!(admin.get("/").text().contains("data-token=\"true\""));
    // A reload takes it away, or brings it.
    let mut open = Config::clone(&admin.config.load());
    open.admin.token = None;
    admin.config.store(Arc::new(open));
    assert_eq!(admin.get("/records").status, 200);
}

#[test]
fn over_a_socket() {
    let admin = Admin::start_on(Origin::File("f".into()), |config| config.admin.token = Some(Secret::new("t")), true);
    assert_eq!(admin.raw("GET", "/stats", &["Host: mailsluice"], b"").status, 200);
    assert_eq!(admin.get("/records").status, 401);
    assert_eq!(admin.raw("GET", "/records", &["Host: x", "Authorization: Bearer t"], b"").status, 200);
}

#[test]
fn readiness_tells_why_not() {
    let admin = Admin::production();
    let ready = |status: u16, text: &str| {
        let answer = admin.get("/readyz");
        assert_eq!((answer.status, answer.text()), (status, text));
        assert_eq!(admin.get("/healthz").status, 200);
    };
    ready(503, "starting\n");
    admin.stats.ready.set(Readiness::Ready);
    ready(200, "ready\n");
    admin.stats.ready.set(Readiness::Degraded("degraded: no certificate".into()));
    ready(503, "degraded: no certificate\n");
    admin.stats.ready.set(Readiness::Draining);
    ready(503, "draining\n");
}

#[test]
fn numbers_in_all_their_forms() {
    let admin = Admin::production();
    let recorder = admin.stats.recorder();
    (1..=1000).for_each(|us| recorder.record(Stage::Total, us));
    let share = admin.budget.share();
    let mut lease = admin.budget.lease(&share);
    lease.resize(250).unwrap();
    let stats = admin.get("/stats").json();
    assert_eq!(stats["memory"], json!({"body_bytes": 250, "body_budget_bytes": 1000}));
    assert_eq!(stats["latency"]["total"]["1m"]["p99_us"], 990);
    let metrics = admin.get("/metrics");
    assert_eq!(metrics.field("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for line in ["mailsluice_memory_body_bytes 250", "mailsluice_stage_duration_seconds_bucket{stage=\"total\",le=\"0.0005\"} 500", "# EOF"]
    {
        assert!(metrics.text().lines().any(|l| l == line), "{line}");
    }
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        let value = metrics.text().lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        assert!(value.parse::<f64>().unwrap() > 0.0, "{name} {value}");
    }
    let json = admin.get("/histograms/total?window=total").json();
    assert_eq!((&json["count"], json["counts"].as_array().unwrap().len()), (&json!(1000), 1000));
    assert!(admin.get("/histograms/total?counts=false").json().get("counts").is_none());
    let text = admin.get("/histograms/total?format=hgrm");
    assert!(text.text().contains("     500.000 0.500000000000        500           2.00\n"), "{}", text.text());
    for (path, status) in [
        ("/histograms/nothing", 404),
        ("/histograms/total?window=5m", 400),
        ("/histograms/total?format=xml", 400),
        ("/histograms/total?route=elsewhere", 404),
    ] {
        assert_eq!(admin.get(path).status, status, "{path}");
    }
    let series = admin.get("/series").json();
    assert_eq!((&series["counted"], &series["points"]), (&json!({"step_seconds": 60, "points": []}), &json!([])));
    assert_eq!(admin.get("/series?span=week").status, 400);
}

#[test]
fn records_by_page_by_id_and_by_message() {
    let admin = Admin::production();
    let records: Vec<_> = (0..5).map(|n| admin.commit(n, |_| ())).collect();
    let retry = |record: &mut Record| {
        record.webhook_id = "msg_retried".into();
        record.outcome = Outcome::Deferred;
    };
    let attempts = [admin.commit(10, retry), admin.commit(11, retry)];
    let ids = |value: &Value| value["records"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let first = admin.get("/records?limit=4").json();
    let second = admin.get(&format!("/records?limit=4&cursor={}", first["cursor"].as_str().unwrap())).json();
    let newest_first: Vec<_> = records.iter().chain(&attempts).rev().map(|record| record.id.to_string()).collect();
    assert_eq!([ids(&first), ids(&second)].concat(), newest_first);
    assert_eq!(second["cursor"], Value::Null);
    assert_eq!(ids(&admin.get("/records?message_id=3@example.net").json()), [records[3].id.to_string()]);
    assert_eq!(ids(&admin.get("/records?text=SUBJECT+2").json()), [records[2].id.to_string()]);
    let one = admin.get(&format!("/records/{}", records[0].id)).json();
    assert_eq!((&one["subject"], &one["forward_us"]), (&json!("subject 0"), &json!(2)));
    let both: Vec<_> = attempts.iter().map(|record| record.id.to_string()).collect();
    assert_eq!(ids(&admin.get(&format!("/records/{}/attempts", attempts[1].id)).json()), both);
    assert_eq!(ids(&admin.get("/records?webhook_id=msg_retried").json()), both);
    let undelivered = admin.get("/undelivered").json();
    assert_eq!(undelivered["undelivered"][0]["attempts"], 2);
    assert_eq!(undelivered["undelivered"][0]["record"]["id"], json!(both[1]));
    assert_eq!(ids(&admin.get("/records?undelivered=true").json()), both[1..]);
    for (path, status) in [
        ("/records/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404),
        ("/records/01ARZ3NDEKTSV4RRFFQ69G5FAV/attempts", 404),
        ("/records/x", 400),
        ("/records?limit=0", 400),
        ("/records?colour=red", 400),
        ("/undelivered?outcome=delivered", 400),
        ("/export", 400),
        ("/records/x/y/z", 404),
    ] {
        let answer = admin.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }
    assert_eq!(admin.get("/forget").status, 405);
}

#[test]
fn an_export_is_lines_over_all_pages() {
    let admin = Admin::production();
    for n in 0..230 {
        admin.commit(n, |record| record.sender = if n % 2 == 0 { "Even@example.net".into() } else { "odd@example.net".into() });
    }
    let answer = admin.get("/export?address=even@example.net");
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/jsonl")));
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 115);
    assert!(lines.iter().all(|record| record["sender"] == "Even@example.net"));
    let forgotten = admin.post("/forget", &["Content-Type: application/json"], br#"{"address": "even@example.net"}"#);
    assert_eq!(forgotten.json(), json!({"records": 115}));
    assert_eq!(admin.get("/export?address=even@example.net").text(), "");
    for body in ["", "{}", "[]", "{\"address\": 3}", "{\"address\": \"\"}", "{\"address\": \"a@b.c\", \"also\": 1}"] {
        assert_eq!(admin.post("/forget", &["Content-Type: application/json"], body.as_bytes()).status, 400, "{body}");
    }
    let long = vec![b' '; 100 * 1024];
    assert_eq!(admin.post("/forget", &["Content-Type: application/json"], &long).status, 413);
}

/// The next event with data, as its id and its JSON.
fn event(stream: &mut impl std::io::BufRead) -> (String, Value) {
    let mut id = String::new();
    for line in stream.lines() {
        let line = line.unwrap();
        if let Some(value) = line.strip_prefix("id: ") {
            id = value.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            return (id, serde_json::from_str(data).unwrap());
        }
    }
    panic!("the stream ended")
}

#[test]
fn live_records_reach_every_client_that_reads() {
    let admin = Admin::production();
    let connect = || {
        let mut stream = TcpStream::connect(admin.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /records/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != ": connected\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0);
        }
        stream
    };
    let mut clients: Vec<_> = (0..20).map(|_| connect()).collect();
    let asleep: Vec<_> = (0..20).map(|_| connect()).collect();
    // A line end in a field must not end the event.
    let records: Vec<_> = (0..3).map(|n| admin.commit(n, |record| record.subject = Some(format!("{n}\n\ndata: {{}}\n")))).collect();
    for client in &mut clients {
        for record in &records {
            let (id, value) = event(client);
            assert_eq!((id, value["subject"].as_str()), (record.id.to_string(), record.subject.as_deref()));
        }
    }
    assert_eq!(admin.get("/healthz").status, 200);
    drop(asleep);
}

#[test]
fn the_inspector_is_open_in_the_development_configuration_only() {
    let admin = Admin::production();
    assert!(admin.get("/").text().contains("data-inspector=\"false\""));
    for path in ["/inspector/requests", "/inspector/requests/1", "/inspector/requests/1/body"] {
        assert_eq!(admin.get(path).status, 404, "{path}");
    }
    for path in ["/inspector", "/inspector/422"] {
        assert_eq!(admin.post(path, &["Content-Type: message/rfc822"], b"x").status, 404, "{path}");
    }
}

#[test]
fn the_inspector_answers_as_asked_and_shows_what_came() {
    let admin = Admin::development();
    assert!(admin.get("/").text().contains("data-inspector=\"true\""));
    assert_eq!(admin.get("/inspector").field("location"), Some("/#inspector"));
    let form = "Content-Type: multipart/form-data; boundary=b";
    let body = b"--b\r\nContent-Disposition: form-data; name=\"plain\"\r\n\r\nhello\r\n--b--\r\n";
    assert_eq!(admin.post("/inspector", &[form, "Webhook-Id: msg_1"], body).status, 200);
    for status in [204, 301, 404, 422, 503, 599] {
        assert_eq!(admin.post(&format!("/inspector/{status}"), &["Content-Type: message/rfc822"], b"x").status, status);
    }
    for status in ["199", "600", "abc", "-1", "99999"] {
        assert_eq!(admin.post(&format!("/inspector/{status}"), &[], b"x").status, 404, "{status}");
    }
    assert_eq!(admin.post("/inspector", &[form, "Origin: http://evil.test"], body).status, 403);
    let list = admin.get("/inspector/requests").json();
    assert_eq!(list["requests"].as_array().unwrap().len(), 7);
    let first = &list["requests"][6];
    assert_eq!((&first["number"], &first["webhook_id"], &first["size"]), (&json!(1), &json!("msg_1"), &json!(body.len())));
    let detail = admin.get("/inspector/requests/1").json();
    assert_eq!((&detail["parts"][0]["name"], &detail["parts"][0]["text"]), (&json!("plain"), &json!("hello")));
    assert!(detail["headers"].as_array().unwrap().contains(&json!(["webhook-id", "msg_1"])), "{detail}");
    assert!(detail["curl"].as_str().unwrap().contains("'http://localhost/inspector'"), "{detail}");
    assert_eq!(admin.get("/inspector/requests/1/body").body, body);
    assert_eq!(admin.get("/inspector/requests/99").status, 404);
}

#[test]
fn a_long_body_is_counted_whole_and_kept_in_part() {
    let admin = Admin::development();
    let body = vec![b'x'; 3_000_000];
    assert_eq!(admin.post("/inspector", &["Content-Type: message/rfc822"], &body).status, 200);
    let detail = admin.get("/inspector/requests/1").json();
    assert_eq!((&detail["size"], &detail["truncated"]), (&json!(3_000_000), &json!(true)));
    assert_eq!(admin.get("/inspector/requests/1/body").body.len(), 1024 * 1024);
}

#[test]
fn stopping_ends_every_connection() {
    let mut admin = Admin::production();
    let mut idle = TcpStream::connect(admin.address).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut live = TcpStream::connect(admin.address).unwrap();
    live.set_read_timeout(Some(PATIENCE)).unwrap();
    live.write_all(b"GET /records/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    live.read_exact(&mut [0; 12]).unwrap();
    admin.handle.take().unwrap().stop();
    assert_eq!(idle.read(&mut [0; 8]).unwrap_or(0), 0);
    while live.read(&mut [0; 4096]).unwrap_or(0) != 0 {}
    assert!(TcpStream::connect(admin.address).is_err());
}
