//! The open SPF test suite's cases, from where Debian's package puts them, each scenario served by a name server of its own.
//! Only results are compared: the explanations that it also has are for those who refuse mail, and nobody looks them up here.

use super::server::{NameServer, Relay, Silence};
use crate::peers::python::script;
use mailsluice::config::Dns;
use mailsluice::verify::{SpfResult, Verifier};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::Duration;

const SUITE: &str = "/usr/share/doc/python3-spf/rfc7208-tests.yml.gz";

#[derive(Deserialize)]
struct Scenario {
    name: String,
    zone: String,
    silent: Vec<Silent>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Silent {
    name: String,
    but_for: Vec<u16>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    ip: IpAddr,
    helo: String,
    from: String,
    results: Vec<String>,
}

/// The daemon's own path, as `MAIL FROM` starts it: one verifier, so one cache, for the whole scenario.
fn results(scenario: &Scenario) -> Vec<SpfResult> {
    let server = NameServer::start(".", &scenario.zone);
    let silent = scenario.silent.iter().map(|silent| Silence { name: silent.name.clone(), but_for: silent.but_for.clone() });
    let relay = Relay::start(server.address, silent.collect());
    let address = if scenario.silent.is_empty() { server.address } else { relay.address };
    let dns = Dns { servers: vec![address], timeout: Duration::from_secs(2) };
    let verifier = Verifier::start(&dns).unwrap();
    let pending: Vec<_> = scenario.cases.iter().map(|case| verifier.spf(case.ip, &case.helo, &case.from)).collect();
    pending.into_iter().map(|result| result.blocking_recv().unwrap()).collect()
}

#[test]
fn the_open_spf_test_suite() {
    let scenarios: Vec<Scenario> = serde_json::from_str(&script("spf_suite.py", &[SUITE])).unwrap();
    let (mut cases, mut different) = (0, Vec::new());
    for scenario in &scenarios {
        for (case, got) in scenario.cases.iter().zip(results(scenario)) {
            cases += 1;
            if !case.results.iter().any(|result| result == got.result) {
                different.push(format!("{}: {}: {} and not {}", scenario.name, case.name, got.result, case.results.join(" or ")));
            }
        }
    }
    eprintln!("open SPF test suite: {} of {cases} cases", cases - different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(cases, 203, "cases of the suite, release 2014.04");
}
