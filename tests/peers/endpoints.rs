//! Web servers that applications run on, as endpoints: a hundred long recipients, and large messages, in every format. Each says what it got.

use super::program;
use super::python::interpreter;
use crate::support::process::Process;
use crate::support::{Client, Config, Daemon, eventually, messages, port};
use base64::Engine as _;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

const FORMATS: [&str; 5] = ["json", "multipart", "raw", "rfc822", "rails"];
const RECIPIENTS: usize = 100;
const RECIPIENT_OCTETS: usize = 250;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

fn digest(octets: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Text, and these octets attached.
fn with_attachment(octets: &[u8]) -> Vec<u8> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(octets);
    let mut message = b"From: alice@sender.test\r\nTo: bob@example.test\r\nSubject: attached\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nsee attachment\r\n--b\r\nContent-Type: application/octet-stream\r\n\
        Content-Disposition: attachment; filename=all.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        .to_vec();
    for line in encoded.as_bytes().chunks(76) {
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"--b--\r\n");
    message
}

/// Sends until each recipient has been in a transaction; what must have come, by record: recipients and content.
fn send(client: &mut Client, recipients: &[String], message: &[u8], content: &[u8]) -> BTreeMap<String, usize> {
    let (mut left, mut expected) = (recipients.to_vec(), BTreeMap::new());
    while !left.is_empty() {
        client.expect("MAIL FROM:<alice@sender.test>", "250 ");
        let (taken, later): (Vec<String>, Vec<String>) = left.into_iter().partition(|recipient| {
            let reply = client.command(&format!("RCPT TO:<{recipient}>"));
            assert!(matches!(reply.code, 250 | 452), "{reply:?}");
            reply.code == 250
        });
        assert!(!taken.is_empty());
        client.data(message).starts("250 ");
        *expected.entry(format!("{} {}", digest(taken.join("\n").as_bytes()), digest(content))).or_default() += 1;
        left = later;
    }
    expected
}

#[track_caller]
fn takes_everything(command: impl FnOnce(u16) -> Command) {
    let port = port::free();
    let mut command = command(port);
    let _server = Process::start(command.env("PYTHONDONTWRITEBYTECODE", "1"));
    eventually("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut config = Config::without_routes();
    for format in FORMATS {
        config = config
            .route(format, &[&format!("*@{format}.test")], &format!("http://127.0.0.1:{port}/in"))
            .of_route("format", format)
            .of_route("timeout", "2m");
    }
    let daemon = Daemon::start(config.set("memory.per_ip_share", 1.0));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    // As much as fits into 25 MiB once it is encoded.
    let large = octets(if std::env::var_os("MAILSLUICE_TEST_FULL").is_some() { 17 << 20 } else { 3 << 20 });
    for format in FORMATS {
        let recipient = |n: usize| {
            let domain = format!("@{format}.test");
            let local = format!("{n:03}+{}", "r".repeat(RECIPIENT_OCTETS - 4 - domain.len()));
            format!("{local}{domain}")
        };
        let many: Vec<String> = (0..RECIPIENTS).map(recipient).collect();
        let small = messages::simple("many", "text");
        let attached = with_attachment(&large);
        // What the formats that take a message apart hand on as a file.
        let apart = matches!(format, "json" | "multipart");
        let mut expected = send(&mut client, &many, &small, if apart { b"" } else { &small });
        assert_eq!(expected.values().sum::<usize>() > 1, format == "rfc822", "{format}: one field of 6 KiB takes so many");
        expected.append(&mut send(&mut client, &many[..1], &attached, if apart { &large } else { &attached }));
        let records = daemon.admin.records(&format!("route={format}"));
        let mut got = BTreeMap::<String, usize>::new();
        for record in records {
            let response = &record["server_response"];
            let said: serde_json::Value =
                serde_json::from_str(response["body"].as_str().unwrap()).unwrap_or_else(|error| panic!("{format}: {error}: {response}"));
            let text = |key: &str| said[key].as_str().unwrap().to_owned();
            *got.entry(format!("{} {}", text("recipients"), text("content"))).or_default() += 1;
        }
        assert_eq!(got, expected, "{format}");
    }
}

/// So many octets, of every kind.
fn octets(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect()
}

#[test]
fn pythons_http_server() {
    takes_everything(|port| {
        let mut command = Command::new(interpreter());
        command.arg(file("endpoints.py")).arg(port.to_string());
        command
    });
}

#[test]
fn gunicorn() {
    takes_everything(|port| {
        let mut command = Command::new(interpreter());
        command.args(["-m", "gunicorn", "--bind", &format!("127.0.0.1:{port}"), "--threads", "2", "--timeout", "120", "--chdir"]);
        command.arg(file("")).arg("endpoints:wsgi");
        command
    });
}

#[test]
fn uvicorn() {
    takes_everything(|port| {
        let mut command = Command::new(interpreter());
        command.args(["-m", "uvicorn", "--port", &port.to_string(), "--app-dir"]).arg(file("")).arg("endpoints:asgi");
        command
    });
}

#[test]
fn node() {
    takes_everything(|port| {
        let mut command = Command::new(program("node"));
        command.arg(file("endpoints.mjs")).arg(port.to_string());
        command
    });
}

/// Beyond what PHP takes by itself: 8 MB of a form, and of a file 2 MB.
#[test]
fn phps_built_in_server() {
    takes_everything(|port| {
        let mut command = Command::new(program("php"));
        for limit in ["post_max_size=64M", "upload_max_filesize=64M", "memory_limit=512M"] {
            command.args(["-d", limit]);
        }
        command.args(["-S", &format!("127.0.0.1:{port}")]).arg(file("endpoints.php"));
        command
    });
}
