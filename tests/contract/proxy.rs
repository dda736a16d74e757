//! PROXY v1 and v2: from trusted networks only.

use crate::support::client::stuffed;
use crate::support::{Client, Config, Daemon, Endpoint, messages};
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn trusting(endpoint: &Endpoint) -> Daemon {
    Daemon::start(Config::to(endpoint).set("smtp.proxy_protocol_from", vec!["127.0.0.7/32"]).set("smtp.command_timeout", "3s"))
}

fn from_proxy(daemon: &Daemon) -> Client {
    Client::connect_from(IpAddr::from([127, 0, 0, 7]), daemon.smtp())
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut octets = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    octets.extend_from_slice(&[0x20 | command, family]);
    octets.extend_from_slice(&u16::try_from(addresses.len()).unwrap().to_be_bytes());
    octets.extend_from_slice(addresses);
    octets
}

fn v4_addresses() -> Vec<u8> {
    [&[192, 0, 2, 44][..], &[127, 0, 0, 1], &4444_u16.to_be_bytes(), &25_u16.to_be_bytes()].concat()
}

#[test]
fn the_source_of_the_header_is_the_sender() {
    let endpoint = Endpoint::ok();
    let daemon = trusting(&endpoint);
    let mut v6 = [0_u8; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 9;
    let table: Vec<(Vec<u8>, &str)> = vec![
        (b"PROXY TCP4 192.0.2.33 127.0.0.1 4444 25\r\n".to_vec(), "192.0.2.33"),
        (b"PROXY TCP6 2001:db8::7 ::1 4444 25\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.35 ::1 4444 25\r\n".to_vec(), "192.0.2.35"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.7"),
        (v2(1, 0x11, &v4_addresses()), "192.0.2.44"),
        (v2(1, 0x21, &v6), "2001:db8::9"),
        // A TLV behind the addresses; a health check of the proxy's own.
        (v2(1, 0x11, &[v4_addresses(), vec![0x04, 0, 1, 0]].concat()), "192.0.2.44"),
        (v2(0, 0x00, b""), "127.0.0.7"),
    ];
    for (header, expected) in table {
        let mut client = from_proxy(&daemon);
        client.send(&header);
        client.reply().starts("220 ");
        client.envelope("a@sender.test", &["b@example.test"]);
        client.data(&messages::simple("x", "text")).starts("250 ");
        client.quit();
        assert_eq!(daemon.admin.records("").remove(0)["sender_ip"], expected, "{:?}", String::from_utf8_lossy(&header));
    }
}

#[test]
fn commands_may_follow_the_header_in_the_same_packet() {
    let endpoint = Endpoint::ok();
    let daemon = trusting(&endpoint);
    for header in [b"PROXY TCP4 192.0.2.33 127.0.0.1 4444 25\r\n".to_vec(), v2(1, 0x11, &v4_addresses())] {
        let mut client = from_proxy(&daemon);
        client.send([&header, &b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"[..]].concat());
        client.reply().starts("220 ");
        for code in [250, 250, 250, 354] {
            assert_eq!(client.reply().code, code);
        }
        client.send(stuffed(&messages::simple("x", "text")));
        client.reply().starts("250 ");
        // And octet by octet.
        let mut client = from_proxy(&daemon);
        for octet in &header {
            client.send([*octet]);
        }
        client.reply().starts("220 ");
    }
}

#[test]
fn a_header_that_is_none_closes_the_connection() {
    let endpoint = Endpoint::ok();
    let daemon = trusting(&endpoint);
    let mut long = b"PROXY TCP4 ".to_vec();
    long.extend(vec![b'1'; 5000]);
    let mut wrong_length = v2(1, 0x11, &v4_addresses());
    wrong_length[14..16].copy_from_slice(&3_u16.to_be_bytes());
    for header in [
        &b"EHLO client.test\r\n"[..],
        b"PROXY TCP4 not-an-address 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 127.0.0.1 99999 25\r\n",
        b"PROXY\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        &wrong_length,
        &long,
    ] {
        let mut client = from_proxy(&daemon);
        let _ = client.try_send(header);
        let rest = client.rest();
        assert!(rest.is_empty(), "{:?}: {:?}", String::from_utf8_lossy(header), String::from_utf8_lossy(&rest));
    }
    // Slow or missing: closed at the deadline, without a banner.
    let begun = Instant::now();
    let mut client = from_proxy(&daemon);
    client.send(b"PROXY TCP4 ");
    assert!(client.rest().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    daemon.admin.wait_for_stat("connections.open", 0);
}

#[test]
fn from_anybody_else_it_is_a_syntax_error() {
    let endpoint = Endpoint::ok();
    let daemon = trusting(&endpoint);
    let mut client = Client::connect(daemon.smtp());
    let reply = client.command("PROXY TCP4 192.0.2.33 127.0.0.1 4444 25");
    assert_eq!(reply.code, 500, "{reply:?}");
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(daemon.admin.records("").remove(0)["sender_ip"], "127.0.0.1");
}

#[test]
fn limits_count_by_the_source_of_the_header() {
    let endpoint = Endpoint::ok();
    let daemon =
        Daemon::start(Config::to(&endpoint).set("smtp.proxy_protocol_from", vec!["127.0.0.0/8"]).set("smtp.max_connections_per_ip", 2));
    let proxied = |source: &str| {
        let mut client = Client::connect_silently(daemon.smtp());
        client.send(format!("PROXY TCP6 {source} ::1 4444 25\r\n"));
        client
    };
    // One /64 counts as one client.
    let mut held = [proxied("2001:db8:1:2::1"), proxied("2001:db8:1:2:ffff::2"), proxied("2001:db8:1:3::1")];
    for client in &mut held {
        client.reply().starts("220 ");
    }
    let mut refused = proxied("2001:db8:1:2::3");
    refused.reply().starts("421 4.7.0 ");
    refused.closed();
}
