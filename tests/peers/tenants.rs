//! The reference application of the authorization callback: a hundred tenants in SQLite, one route.

use super::python::interpreter;
use crate::support::process::Process;
use crate::support::{Client, Config, Daemon, Endpoint, eventually, messages, port};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

const TENANTS: usize = 100;

struct Application {
    port: u16,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Application {
    fn start() -> Self {
        let (port, dir) = (port::free(), tempfile::tempdir().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/tenants.py");
        let process = Process::start(Command::new(interpreter()).arg(script).arg(port.to_string()).arg(dir.path().join("tenants.db")));
        eventually("the application", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { port, _process: process, _dir: dir }
    }

    fn put(&self, rows: &serde_json::Value) {
        let body = rows.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "POST /tenants HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
}

fn row(n: usize, at: &Endpoint) -> serde_json::Value {
    json!({ "domain": format!("t{n}.test"), "url": at.url(&format!("/tenant/{n}")), "token": format!("token-{n}") })
}

#[test]
fn a_tenant_moves_while_mail_flows() {
    let application = Application::start();
    let (home, old, new) = (Endpoint::ok(), Endpoint::ok(), Endpoint::ok());
    application.put(&(0..TENANTS).map(|n| row(n, &old)).collect());
    let config = Config::without_routes()
        .route("tenants", &["*"], &home.url("/in"))
        .of_route("format", "rfc822")
        .of_route("authorize_url", format!("http://127.0.0.1:{}/authorize.json", application.port))
        .of_route("authorize_to", vec![old.url(""), new.url("")]);
    let daemon = Daemon::start(config.set("smtp.max_messages_per_connection", 1_000_000));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let mut send = |n: usize, subject: &str| {
        client.transaction("a@sender.test", &[&format!("x@T{n}.test")]);
        client.data(&messages::simple(subject, "text")).starts("250 ");
    };
    for n in 0..TENANTS {
        send(n, "first");
    }
    let got: Vec<(String, String)> =
        old.requests().iter().map(|request| (request.target.clone(), request.field("authorization").to_owned())).collect();
    let expected: Vec<(String, String)> = (0..TENANTS).map(|n| (format!("/tenant/{n}"), format!("Bearer token-{n}"))).collect();
    assert_eq!(got, expected);
    // It moves between two messages; no message is lost, none is at both, and none goes back.
    old.clear();
    let mut sent = 0;
    for _ in 0..20 {
        send(7, &format!("flow-{sent}"));
        sent += 1;
    }
    application.put(&json!([row(7, &new)]));
    eventually("the new place has it", || {
        send(7, &format!("flow-{sent}"));
        sent += 1;
        (new.count() >= 20).then_some(())
    });
    let subjects = |endpoint: &Endpoint| -> Vec<usize> {
        let number = |body: &[u8]| {
            let text = String::from_utf8_lossy(body).into_owned();
            text.lines().find_map(|line| line.strip_prefix("Subject: flow-")).unwrap().parse().unwrap()
        };
        endpoint.requests().iter().map(|request| number(&request.body)).collect()
    };
    assert_eq!([subjects(&old), subjects(&new)].concat(), (0..sent).collect::<Vec<_>>());
    assert!(new.requests().iter().all(|request| request.field("authorization") == "Bearer token-7"));
    send(8, "flow-0");
    assert_eq!(old.requests().last().unwrap().target, "/tenant/8");
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect("RCPT TO:<x@unknown.test>", "550 5.7.1 nobody has unknown.test here");
    assert_eq!(home.count(), 0);
}
