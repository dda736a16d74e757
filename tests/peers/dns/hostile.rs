//! Owners of domains who mean harm: answers as large as the DNS can carry.

use super::{envelope, test_zone, verifying};
use crate::support::{Endpoint, messages};

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
