//! SPF, DKIM and DMARC against a real name server (NSD) with zones of our own, and messages signed by `dkimpy`.

mod cost;
mod hostile;
mod server;
mod spf_suite;

use super::python::script;
use crate::support::{Client, Config, Daemon, Endpoint, messages};
use serde_json::{Value, json};
use server::{NameServer, Relay, free_for_udp_and_tcp};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// SPF, one domain below `test.` for each case.
const SPF: &str = r#"
pass.spf        TXT "v=spf1 ip4:192.0.2.1 ip6:2001:db8::/32 -all"
soft.spf        TXT "v=spf1 ip4:192.0.2.1 ~all"
neutral.spf     TXT "v=spf1 ip4:192.0.2.1 ?all"
silent.spf      TXT "something else"
broken.spf      TXT "v=spf1 ipv4:192.0.2.1 -all"
number.spf      TXT "v=spf1 ip4:192.0.2.999 -all"
twice.spf       TXT "v=spf1 -all"
twice.spf       TXT "v=spf1 +all"
a.spf           TXT "v=spf1 a -all"
a.spf           A   192.0.2.1
mx.spf          TXT "v=spf1 mx -all"
mx.spf          MX  10 host.spf
host.spf        A   192.0.2.1
include.spf     TXT "v=spf1 include:pass.spf.test -all"
redirect.spf    TXT "v=spf1 redirect=pass.spf.test"
macro.spf       TXT "v=spf1 exists:%{ir}.%{v}.%{l}._spf.%{d2} -all"
1.2.0.192.in-addr.alice._spf.spf A 127.0.0.2
many.spf        TXT "v=spf1 include:i1.spf.test include:i2.spf.test include:i3.spf.test include:i4.spf.test include:i5.spf.test include:i6.spf.test include:i7.spf.test include:i8.spf.test include:i9.spf.test include:i10.spf.test include:i11.spf.test ip4:192.0.2.1 -all"
loop.spf        TXT "v=spf1 include:loop.spf.test -all"
voids.spf       TXT "v=spf1 a:v1.spf.test a:v2.spf.test a:v3.spf.test ip4:192.0.2.1 -all"
; A void look-up that comes last counts too; two of them are still allowed.
last.spf        TXT "v=spf1 exists:v1.spf.test exists:v2.spf.test exists:v3.spf.test"
two.spf         TXT "v=spf1 exists:v1.spf.test a:v2.spf.test -all"
; Hosts of an mx that have no address of the client's family are no void look-ups: the mx itself has an answer.
hosts.spf       TXT "v=spf1 mx -all"
hosts.spf       MX  1 host.spf
hosts.spf       MX  2 a.spf
hosts.spf       MX  3 ns
"#;

/// A name server for `test.` with these records.
fn test_zone(records: &str) -> NameServer {
    let mut zone = format!("{records}\n");
    for n in 1..=11 {
        zone.push_str(&format!("i{n}.spf TXT \"v=spf1 ip4:198.51.100.{n} -all\"\n"));
    }
    NameServer::start("test.", &zone)
}

/// A daemon that verifies everything and believes what a PROXY header says.
fn verifying(endpoint: &Endpoint, server: SocketAddr) -> Daemon {
    let config = Config::to(endpoint)
        .of_route("format", "json")
        .of_route("verify", vec!["spf", "dkim", "dmarc"])
        .set("smtp.proxy_protocol_from", vec!["127.0.0.0/8"])
        .set("dns.servers", vec![server.to_string()])
        .set("dns.timeout", "2s");
    Daemon::start(config)
}

/// Sends one message as from this address; the envelope that the endpoint got.
#[track_caller]
fn envelope(daemon: &Daemon, endpoint: &Endpoint, ip: &str, from: &str, message: &[u8]) -> Value {
    endpoint.clear();
    let mut client = Client::connect_silently(daemon.smtp());
    let (family, to) = if ip.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    client.send(format!("PROXY {family} {ip} {to} 4000 25\r\n"));
    client.reply().starts("220 ");
    client.expect("EHLO helo.spf.test", "250 ");
    client.transaction(from, &["bob@example.test"]);
    client.bdat(message, true).starts("250 ");
    endpoint.only().json()["envelope"].clone()
}

#[test]
fn every_result_of_spf() {
    let server = test_zone(SPF);
    let endpoint = Endpoint::ok();
    let daemon = verifying(&endpoint, server.address);
    let (right, wrong) = ("192.0.2.1", "203.0.113.9");
    for (domain, ip, result) in [
        ("pass.spf.test", right, "pass"),
        ("pass.spf.test", wrong, "fail"),
        ("pass.spf.test", "2001:db8::1", "pass"),
        ("soft.spf.test", wrong, "softfail"),
        ("neutral.spf.test", wrong, "neutral"),
        ("silent.spf.test", right, "none"),
        ("nothing.spf.test", right, "none"),
        ("broken.spf.test", right, "permerror"),
        ("number.spf.test", right, "permerror"),
        ("twice.spf.test", right, "permerror"),
        ("a.spf.test", right, "pass"),
        ("a.spf.test", wrong, "fail"),
        ("mx.spf.test", right, "pass"),
        ("include.spf.test", right, "pass"),
        ("redirect.spf.test", right, "pass"),
        ("redirect.spf.test", wrong, "fail"),
        ("macro.spf.test", right, "pass"),
        ("macro.spf.test", wrong, "fail"),
        ("many.spf.test", right, "permerror"),
        ("loop.spf.test", right, "permerror"),
        ("voids.spf.test", right, "permerror"),
        ("last.spf.test", right, "permerror"),
        ("two.spf.test", right, "fail"),
        ("hosts.spf.test", "2001:db8::1", "fail"),
        ("hosts.spf.test", right, "pass"),
        // Another zone: this server refuses.
        ("elsewhere.example", right, "temperror"),
    ] {
        let got = envelope(&daemon, &endpoint, ip, &format!("alice@{domain}"), &messages::simple("x", "text"));
        assert_eq!(got["spf"], json!({"result": result, "domain": domain}), "{domain} from {ip}: {got}");
    }
    // The null reverse-path is judged by its HELO.
    let got = envelope(&daemon, &endpoint, right, "", &messages::simple("x", "text"));
    assert_eq!(got["spf"]["domain"], "helo.spf.test");
}

#[test]
fn dkim_and_dmarc_of_messages_signed_by_another_tool() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // Keys and their records first, then the signed messages with what is expected of them.
    let records = script("sign.py", &[dir.path().to_str().unwrap()]);
    let server = test_zone(&format!("{SPF}\n{records}"));
    let endpoint = Endpoint::ok();
    let daemon = verifying(&endpoint, server.address);
    let cases: Value = serde_json::from_slice(&std::fs::read(dir.path().join("cases.json")).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    let mut wrong = Vec::<String>::new();
    assert!(cases.len() >= 12);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let message = std::fs::read(dir.path().join(format!("{name}.eml"))).unwrap();
        let got = envelope(&daemon, &endpoint, case["ip"].as_str().unwrap(), case["from"].as_str().unwrap(), &message);
        let results: Vec<&Value> = got["dkim"]["result"].as_array().unwrap().iter().map(|result| &result["result"]).collect();
        if json!(results) != case["dkim"] || got["dmarc"]["result"] != case["dmarc"] {
            wrong.push(format!("{name}: {got}, and not {case}"));
        }
        // It is a field of the request in some formats: a stranger does not make it long.
        assert!(got.to_string().len() < 4000, "{name}: {got}");
        assert_eq!(got["dkim"]["success"], results.iter().any(|result| **result == "pass"), "{name}: {got}");
        assert_eq!(got["dmarc"]["success"], got["dmarc"]["result"] == "pass", "{name}: {got}");
        if let Some(policy) = case["policy"].as_str() {
            assert_eq!(got["dmarc"]["details"]["policy"], policy, "{name}: {got}");
        }
        for key in ["domain", "policy", "spf_result", "dmarc_spf_result", "dmarc_dkim_result", "dkim_results"] {
            assert!(!got["dmarc"]["details"][key].is_null(), "{name}: {key}: {got}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing of it goes into the store.
    assert!(!daemon.admin.records("").iter().any(|record| record.get("spf").is_some() || record.get("dkim").is_some()));
}

/// A name server that does what it should not; each message costs at most the time-out, none is refused for it.
#[test]
fn name_servers_that_fail() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let garbage = UdpSocket::bind("127.0.0.1:0").unwrap();
    let lying = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = free_for_udp_and_tcp();
    let answer = |socket: &UdpSocket, make: fn(&[u8]) -> Vec<u8>| {
        let socket = socket.try_clone().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut query) {
                let _ = socket.send_to(&make(&query[..n]), from);
            }
        });
    };
    answer(&garbage, |_| vec![0xff; 40]);
    // One answer is promised, with a length far beyond the packet.
    answer(&lying, |query| {
        let mut octets = query.to_vec();
        octets[2..4].copy_from_slice(&[0x81, 0x80]);
        octets[6..8].copy_from_slice(&[0, 1]);
        octets.extend_from_slice(b"\xc0\x0c\0\x10\0\x01\0\0\0\x3c\xff\xff\xfftoo short");
        octets
    });
    // Signed, so that there is a key to be asked for.
    let dir = tempfile::tempdir().unwrap();
    script("sign.py", &[dir.path().to_str().unwrap()]);
    let message = std::fs::read(dir.path().join("ed25519.eml")).unwrap();
    for (what, server) in [
        ("silent", silent.local_addr().unwrap()),
        ("garbage", garbage.local_addr().unwrap()),
        ("lying", lying.local_addr().unwrap()),
        ("closed", closed),
    ] {
        let endpoint = Endpoint::ok();
        let daemon = verifying(&endpoint, server);
        let begun = Instant::now();
        let got = envelope(&daemon, &endpoint, "192.0.2.1", "alice@pass.spf.test", &message);
        assert!(begun.elapsed() < Duration::from_secs(6), "{what}: {:?}", begun.elapsed());
        assert_eq!(got["spf"], json!({"result": "temperror", "domain": "pass.spf.test"}), "{what}: {got}");
        assert_eq!(got["dkim"]["success"], false, "{what}: {got}");
        assert_eq!(got["dkim"]["result"][0]["result"], "temperror", "{what}: {got}");
        assert_eq!(got["dmarc"]["result"], "temperror", "{what}: {got}");
    }
}

#[test]
fn a_check_that_was_not_asked_for_is_absent() {
    let server = test_zone(SPF);
    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint)
        .of_route("format", "json")
        .of_route("verify", vec!["spf"])
        .set("smtp.proxy_protocol_from", vec!["127.0.0.0/8"])
        .set("dns.servers", vec![server.address.to_string()]);
    let daemon = Daemon::start(config);
    let got = envelope(&daemon, &endpoint, "192.0.2.1", "alice@pass.spf.test", &messages::simple("x", "text"));
    assert_eq!(got["spf"]["result"], "pass");
    assert!(got.get("dkim").is_none() && got.get("dmarc").is_none(), "{got}");
}

#[test]
fn the_callback_is_told_the_spf_result() {
    let server = test_zone(SPF);
    let (endpoint, authorizer) = (Endpoint::ok(), Endpoint::ok());
    let config = Config::to(&endpoint)
        .of_route("verify", vec!["spf"])
        .of_route("authorize_url", authorizer.url("/authorize"))
        .set("smtp.proxy_protocol_from", vec!["127.0.0.0/8"])
        .set("dns.servers", vec![server.address.to_string()]);
    let daemon = Daemon::start(config);
    let mut client = Client::connect_silently(daemon.smtp());
    client.send("PROXY TCP4 203.0.113.9 127.0.0.1 4000 25\r\n");
    client.reply().starts("220 ");
    client.envelope("alice@soft.spf.test", &["bob@example.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&authorizer.only().body).into_owned().collect();
    assert!(form.contains(&("spf[result]".to_owned(), "softfail".to_owned())), "{form:?}");
    // In `rfc822`, as fields of the request.
    let fields = &endpoint.only().fields;
    assert!(
        fields.0.iter().any(|(name, value)| name.to_ascii_lowercase().starts_with("mailsluice-") && value.contains("softfail")),
        "{fields:?}"
    );
}

/// A look-up is made once for its time to live: the second message costs no question.
#[test]
fn answers_are_kept_for_their_time_to_live() {
    let dir = tempfile::tempdir().unwrap();
    let records = script("sign.py", &[dir.path().to_str().unwrap()]);
    let message = std::fs::read(dir.path().join("aligned-relaxed.eml")).unwrap();
    let server = test_zone(&format!("{SPF}\n{records}"));
    let endpoint = Endpoint::ok();
    let relay = Relay::start(server.address, Vec::new());
    let daemon = verifying(&endpoint, relay.address);
    let send = || envelope(&daemon, &endpoint, "192.0.2.1", "alice@include.spf.test", &message);
    let got = send();
    assert_eq!((&got["spf"]["result"], &got["dmarc"]["result"]), (&json!("pass"), &json!("pass")), "{got}");
    let cold = relay.questions();
    assert!(cold > 0);
    for _ in 0..5 {
        assert_eq!(send()["spf"]["result"], "pass");
    }
    assert_eq!(relay.questions(), cold, "questions for six messages");
}
