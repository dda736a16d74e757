//! SIGTERM drains; a second signal ends at once.

use crate::support::client::stuffed;
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, eventually, messages};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A client whose message is at the endpoint, which waits for the gate.
fn in_flight(daemon: &Daemon, endpoint: &Endpoint) -> Client {
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(stuffed(&messages::simple("flying", "text")));
    endpoint.wait_for(1);
    client
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let mut daemon = Daemon::start(Config::to(&endpoint));
    let mut flying = in_flight(&daemon, &endpoint);
    let mut idle = Client::connect(daemon.smtp());
    idle.ehlo();
    let mut begun = Client::connect(daemon.smtp());
    begun.envelope("a@sender.test", &["c@example.test"]);
    daemon.signal(Signal::SIGTERM);
    // Not ready any more, and alive.
    eventually("not ready", || match daemon.admin.try_get("/readyz") {
        Ok(response) => (response.status == 503).then_some(()),
        Err(_) => None,
    });
    assert_eq!(daemon.admin.get("/healthz").status, 200);
    // No new mail: an idle session is told to come back.
    let idle_end = idle.reply();
    assert_eq!(idle_end.code, 421, "{idle_end:?}");
    idle.closed();
    let answer = begun.try_send("DATA\r\n").and_then(|()| begun.try_reply());
    assert!(answer.as_ref().is_ok_and(|reply| matches!(reply.code, 421 | 451)), "{answer:?}");
    assert!(daemon.running());
    gate.open();
    flying.reply().starts("250 2.0.0 Ok: ");
    let stopped = daemon.ended();
    assert_eq!(stopped.code, Some(0), "{}", stopped.log);
    assert_eq!(endpoint.count(), 1);
}

#[test]
fn what_does_not_finish_in_time_is_told_later() {
    let endpoint = Endpoint::always(Answer::Hang);
    let mut daemon = Daemon::start(Config::to(&endpoint).set("shutdown.grace", "1s").of_route("timeout", "60s"));
    let mut flying = in_flight(&daemon, &endpoint);
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    // A 4xx or a dropped connection: the sender keeps the message.
    if let Ok(reply) = flying.try_reply() {
        assert!((400..500).contains(&reply.code), "{reply:?}");
    }
    let stopped = daemon.ended();
    assert_eq!(stopped.code, Some(0), "{}", stopped.log);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(750) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT), (Signal::SIGTERM, Signal::SIGINT)] {
        let endpoint = Endpoint::always(Answer::Hang);
        let mut daemon = Daemon::start(Config::to(&endpoint).set("shutdown.grace", "60s").of_route("timeout", "60s"));
        let _flying = in_flight(&daemon, &endpoint);
        daemon.signal(first);
        eventually("draining", || daemon.admin.try_get("/readyz").is_ok_and(|r| r.status == 503).then_some(()));
        assert!(daemon.running());
        let begun = Instant::now();
        daemon.signal(second);
        let stopped = daemon.ended();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_ne!(stopped.code, Some(101), "{}", stopped.log);
    }
}

#[test]
fn an_idle_daemon_stops_without_waiting_for_the_grace() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("shutdown.grace", "60s"));
    let _idle: Vec<Client> = (0..20).map(|_| Client::connect(daemon.smtp())).collect();
    let begun = Instant::now();
    assert_eq!(daemon.stop().code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
