//! Strangers who mean harm: answers as large as the DNS can carry, checks that nobody waits for.

use super::server::{Relay, Silence};
use super::{SPF, envelope, test_zone, verifying};
use crate::support::{Endpoint, eventually, messages};
use mailsluice::config::Dns;
use mailsluice::verify::Verifier;
use std::time::Duration;

/// Each message has ten names of its own looked up, and each answer is as long as TCP allows. The answers stay in the zone's time to
/// live, and not all of them in the daemon's memory.
#[test]
fn large_answers_do_not_pile_up() {
    let mut zone = String::from("flood TXT \"v=spf1");
    for n in 0..10 {
        zone.push_str(&format!(" a:%{{l}}.{n}.big.test"));
    }
    zone.push_str(" -all\"\n");
    for n in 0..3900 {
        zone.push_str(&format!("*.big A 10.0.{}.{}\n", n / 256, n % 256));
    }
    let server = test_zone(&zone);
    let endpoint = Endpoint::ok();
    let daemon = verifying(&endpoint, server.address);
    let send = |local: &str| envelope(&daemon, &endpoint, "192.0.2.1", &format!("{local}@flood.test"), &messages::simple("x", "text"));
    assert_eq!(send("first")["spf"]["result"], "fail");
    let before = daemon.rss();
    for n in 0..20 {
        assert_eq!(send(&format!("n{n}"))["spf"]["result"], "fail");
    }
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB more after 200 large answers", grown >> 20);
}

/// A sender who starts transactions and leaves them does not hold the checks of others for the time-out.
#[test]
fn a_check_ends_with_its_transaction() {
    let server = test_zone(SPF);
    let relay = Relay::start(server.address, vec![Silence { name: "silent.spf.test".into(), but_for: Vec::new() }]);
    // Longer than this test has patience.
    let verifier = Verifier::start(&Dns { servers: vec![relay.address], timeout: Duration::from_mins(10) }).unwrap();
    let check = |domain: &str| verifier.spf("192.0.2.1".parse().unwrap(), "helo.test", &format!("alice@{domain}"));
    let held: Vec<_> = (0..1024).map(|_| check("silent.spf.test")).collect();
    assert_eq!(check("pass.spf.test").blocking_recv().unwrap().result, "temperror", "all places are taken");
    drop(held);
    let mut pending = Vec::new();
    eventually("a place for another check", || {
        pending.push(check("pass.spf.test"));
        pending.iter_mut().find_map(|receiver| receiver.try_recv().ok().filter(|got| got.result == "pass"))
    });
}
