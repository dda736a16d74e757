//! HAProxy in front, with the very configuration of `packaging/docs/haproxy.md`; only addresses are put in.

use crate::support::client::deliver;
use crate::support::process::{Process, run};
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE, eventually, messages, port};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// The page's fenced block that starts with this line.
fn snippet(first: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docs/haproxy.md")).unwrap();
    let block = page.split("```").find(|block| block.lines().nth(1) == Some(first));
    block.unwrap_or_else(|| panic!("no block on the page starts with {first}")).split_once('\n').unwrap().1.to_owned()
}

/// HAProxy with the page's file, both boxes and the front on this machine, changed by `change` as well.
fn haproxy(front: SocketAddr, boxes: [SocketAddr; 2], change: impl FnOnce(String) -> String) -> (Process, tempfile::TempDir) {
    let mut text = snippet("# /etc/haproxy/haproxy.cfg");
    for (on_the_page, here) in
        [("bind :::25 v4v6", format!("bind {front}")), ("10.0.0.11:25", boxes[0].to_string()), ("10.0.0.12:25", boxes[1].to_string())]
    {
        assert!(text.contains(on_the_page), "{on_the_page} is not on the page");
        text = text.replace(on_the_page, &here);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, change(text)).unwrap();
    let program = super::program("haproxy");
    let checked = run(Command::new(&program).arg("-c").arg("-f").arg(&file), PATIENCE);
    assert!(checked.code == Some(0) && !format!("{}{}", checked.out, checked.err).contains("WARNING"), "{checked:?}");
    let running = Process::start(Command::new(program).arg("-db").arg("-f").arg(&file));
    eventually("HAProxy", || Client::try_connect(front).ok()?.try_reply().ok().filter(|reply| reply.code == 220));
    (running, dir)
}

fn behind(endpoint: &Endpoint) -> Daemon {
    Daemon::start(Config::to(endpoint).set("smtp.proxy_protocol_from", vec!["127.0.0.1/32"]))
}

fn front() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port::free()))
}

#[test]
fn the_sender_behind_it_is_recorded() {
    let endpoint = Endpoint::ok();
    // The page's version, and the older one of the protocol.
    for version in ["send-proxy-v2", "send-proxy"] {
        let boxes = [behind(&endpoint), behind(&endpoint)];
        let front = front();
        let _haproxy = haproxy(front, [boxes[0].smtp(), boxes[1].smtp()], |text| text.replace(" send-proxy-v2 ", &format!(" {version} ")));
        // From an address that is not HAProxy's.
        let mut client = Client::connect_from(IpAddr::from([127, 0, 0, 99]), front);
        client.reply().starts("220 ");
        client.envelope("a@sender.test", &["b@example.test"]);
        client.data(&messages::simple(version, "text")).starts("250 ");
        let record = boxes.iter().find_map(|daemon| daemon.admin.records("").pop()).unwrap();
        assert_eq!((&record["subject"], &record["sender_ip"]), (&version.into(), &"127.0.0.99".into()));
    }
}

#[test]
fn a_box_that_stops_is_taken_out() {
    let endpoint = Endpoint::ok();
    let [one, two] = [behind(&endpoint), behind(&endpoint)];
    let front = front();
    let (haproxy, _dir) = haproxy(front, [one.smtp(), two.smtp()], |text| text);
    assert_eq!(one.stop().code, Some(0));
    haproxy.lines.wait_for("box one to be taken out", |line| line.contains("mailsluice/one is DOWN").then_some(()));
    for n in 0..5 {
        deliver(front, "a@sender.test", &["b@example.test"], &messages::simple(&n.to_string(), "text")).starts("250 ");
    }
    assert_eq!(two.admin.records("").len(), 5);
    // The checks are no errors of anybody.
    // HAProxy's checks are no trouble that would be worth a line.
    assert!(two.events().iter().all(|event| event["level"] == "info"), "{}", two.log());
}
