//! HAProxy in front, speaking PROXY v1 and v2.

use crate::support::client::deliver;
use crate::support::port;
use crate::support::process::Process;
use crate::support::{Client, Config, Daemon, Endpoint, eventually, messages};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

#[test]
fn the_sender_behind_it_is_recorded() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.proxy_protocol_from", vec!["127.0.0.1/32"]));
    for send in ["send-proxy", "send-proxy-v2"] {
        let dir = tempfile::tempdir().unwrap();
        let front = SocketAddr::from(([127, 0, 0, 1], port::free()));
        let config = dir.path().join("haproxy.cfg");
        std::fs::write(
            &config,
            format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
                 frontend mail\n  bind {front}\n  default_backend mailsluice\nbackend mailsluice\n  server one {} {send}\n",
                daemon.smtp()
            ),
        )
        .unwrap();
        let _haproxy = Process::start(Command::new(super::program("haproxy")).arg("-db").arg("-f").arg(&config));
        eventually("HAProxy", || Client::try_connect(front).ok()?.try_reply().ok());
        // From an address that is not HAProxy's.
        let mut client = Client::connect_from(IpAddr::from([127, 0, 0, 99]), front);
        client.reply().starts("220 ");
        client.envelope("a@sender.test", &["b@example.test"]);
        client.data(&messages::simple(send, "text")).starts("250 ");
        let record = daemon.admin.records("").remove(0);
        assert_eq!((&record["subject"], &record["sender_ip"]), (&send.into(), &"127.0.0.99".into()));
        deliver(front, "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    }
}
