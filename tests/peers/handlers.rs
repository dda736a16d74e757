//! The README's applications, run as they stand there but for their port, take a real message.

use crate::support::client::deliver;
use crate::support::process::Process;
use crate::support::{Config, Daemon, Endpoint, eventually, port};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

const README: &str = include_str!("../../README.md");

#[test]
fn what_is_shown_is_short_and_what_comes() {
    assert_eq!(code("python").lines().count(), 6);
    let shown = block("json");
    assert_eq!(shown.lines().count(), 12);
    let shown: serde_json::Value = serde_json::from_str(shown).unwrap();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::without_routes().route("app", &["*"], &endpoint.url("/inbound")));
    let message = "Subject: Printer on fire\r\nMessage-ID: <1@sender.example>\r\nFrom: ann@sender.example\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nIt burns.\r\n\r\n--b\r\nContent-Type: image/png\r\n\
        Content-Disposition: attachment; filename=fire.png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBO\r\n--b--\r\n";
    deliver(daemon.smtp(), "ann@sender.example", &["support@example.com"], message.as_bytes()).starts("250 ");
    let mut came: serde_json::Value = serde_json::from_slice(&endpoint.requests()[0].body).unwrap();
    // What the README leaves out, and what depends on the connection.
    came["headers"].as_object_mut().unwrap().retain(|name, _| ["subject", "message_id", "from"].contains(&name.as_str()));
    for field in ["helo_domain", "remote_ip", "tls"] {
        came["envelope"][field] = shown["envelope"][field].clone();
    }
    assert_eq!(came, shown);
}

/// The README's only block of this kind.
#[track_caller]
fn block(language: &str) -> &'static str {
    let blocks: Vec<_> = README.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [block] = blocks.as_slice() else { panic!("{} blocks of {language}", blocks.len()) };
    block
}

/// The README's code in this language.
#[track_caller]
fn code(language: &str) -> &'static str {
    let block = block(language);
    assert!(block.contains("3000"), "{block}");
    block
}

fn takes_a_message(language: &str, file: &str, command: impl Fn(&str, u16) -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let port = port::free();
    let file = dir.path().join(file);
    std::fs::write(&file, code(language).replace("3000", &port.to_string())).unwrap();
    let application = Process::start(command(file.to_str().unwrap(), port).current_dir(dir.path()));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the application", || TcpStream::connect(address).ok());
    let config = Config::without_routes().route("app", &["*"], &format!("http://{address}/inbound")).of_route("timeout", "20s");
    let daemon = Daemon::start(config);
    let message = "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nIt bürns.\r\n";
    deliver(daemon.smtp(), "a@sender.test", &["support@example.test"], message.as_bytes()).starts("250 ");
    application.lines.wait_for("what it has read", |line| line.contains("support@example.test Grüße It bürns.").then_some(()));
}

mod python {
    #[test]
    fn takes_a_message() {
        super::takes_a_message("python", "inbound.py", |_, port| {
            let mut command = super::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/venv/bin/flask"));
            command.args(["--app", "inbound", "run", "--port", &port.to_string()]).env("PYTHONUTF8", "1");
            command
        });
    }
}

mod node {
    #[test]
    fn takes_a_message() {
        super::takes_a_message("js", "inbound.js", |file, _| {
            let mut command = super::Command::new(crate::peers::program("node"));
            command.arg(file);
            command
        });
    }
}

mod ruby {
    #[test]
    fn takes_a_message() {
        super::takes_a_message("ruby", "inbound.rb", |file, _| {
            let mut command = super::Command::new(crate::peers::program("ruby"));
            command.arg(file).env("LC_ALL", "C.UTF-8");
            command
        });
    }
}

mod php {
    #[test]
    fn takes_a_message() {
        super::takes_a_message("php", "inbound.php", |file, port| {
            let mut command = super::Command::new(crate::peers::program("php"));
            command.args(["-S", &format!("127.0.0.1:{port}"), file]);
            command
        });
    }
}
