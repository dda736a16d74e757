//! What went wrong, summed up: `/report` and `mailsluice report`.

use crate::support::client::deliver;
use crate::support::{Answer, Client, Config, Daemon, Endpoint, messages};
use serde_json::Value;

#[test]
fn many_rows_are_few_causes() {
    let endpoint = Endpoint::in_turn(vec![
        Answer::status(200),
        Answer::text(422, "no ticket 17"),
        Answer::text(422, "no ticket 4711"),
        Answer::status(503),
    ]);
    let config = Config::without_routes()
        .route("tickets", &["*@example.test"], &endpoint.url("/in"))
        .of_route("format", "rfc822")
        .route("gone", &["*@gone.test"], "http://127.0.0.1:9/")
        .of_route("format", "rfc822");
    let daemon = Daemon::start(config);
    let send = |to: &str, subject: &str| deliver(daemon.smtp(), "a@sender.test", &[to], &messages::simple(subject, "text"));
    for subject in ["taken", "1", "2", "3", "3", "4"] {
        send("b@example.test", subject);
    }
    for subject in ["5", "6", "7"] {
        send("b@gone.test", subject);
    }
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    for n in 0..2 {
        client.expect(&format!("RCPT TO:<{n}@elsewhere.test>"), "550 5.1.1 ");
    }
    client.quit();
    let report = daemon.admin.json("/report?since=1h");
    let causes = report["causes"].as_array().unwrap();
    let find = |route: Value, outcome: &str| {
        let found: Vec<_> = causes.iter().filter(|cause| cause["route"] == route && cause["outcome"] == outcome).collect();
        assert_eq!(found.len(), 1, "{route} {outcome}: {causes:?}");
        found[0].clone()
    };
    assert_eq!(causes.len(), 4, "{causes:?}");
    let rejected = find("tickets".into(), "rejected");
    assert_eq!((&rejected["count"], &rejected["cause"]), (&2.into(), &"the endpoint answered 422: no ticket …".into()));
    let deferred = find("tickets".into(), "deferred");
    assert_eq!(deferred["count"], 2, "a message that came twice is one");
    assert_eq!((&deferred["still_tried"], &deferred["given_up"]), (&2.into(), &0.into()));
    assert_eq!(deferred["sample"]["recipients"][0], "b@example.test");
    let gone = find("gone".into(), "deferred");
    assert_eq!(gone["count"], 3);
    assert!(gone["cause"].as_str().unwrap().contains("refused"), "{gone}");
    assert!(gone["first_seen"].as_str() <= gone["last_seen"].as_str());
    let refused = find(Value::Null, "refused");
    assert_eq!((&refused["count"], &refused["sample"]["address"]), (&2.into(), &"127.0.0.1".into()));
    assert_eq!(report["complete"], true);
    assert!(report["rule"].as_str().unwrap().contains("12 hours") && !report["slow"].as_array().unwrap().is_empty());
    let text = daemon.cli(&["report"]).ok();
    for part in ["no ticket …", "2 try", "550 5.1.1", "given up: no attempt for 12 hours", "slowest: tickets"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(serde_json::from_str::<Value>(&daemon.cli(&["report", "--json"]).ok()).unwrap()["causes"].as_array().unwrap().len(), 4);
    assert_eq!(daemon.admin.get("/report?colour=red").status, 400);
}

/// What a breaker refuses before there is a record is of the route that it stands for.
#[test]
fn an_open_breaker_refuses_for_its_route() {
    let config = Config::without_routes()
        .route("gone", &["*@gone.test"], "http://127.0.0.1:9/")
        .set("forward.breaker.failures", 1)
        .set("forward.breaker.cooldown", "60s");
    let daemon = Daemon::start(config);
    let replies =
        [1, 2, 3].map(|n| deliver(daemon.smtp(), "a@sender.test", &["b@gone.test"], &messages::simple(&n.to_string(), "text")).code);
    assert_eq!(replies, [450, 451, 451]);
    let report = daemon.admin.json("/report?since=1h");
    let causes = report["causes"].as_array().unwrap();
    let refused: Vec<_> = causes.iter().filter(|cause| cause["outcome"] == "refused").collect();
    assert_eq!(refused.len(), 1, "{causes:?}");
    assert_eq!((refused[0]["route"].as_str(), refused[0]["count"].as_u64()), (Some("gone"), Some(2)));
    assert_eq!(refused[0]["sample"]["recipient"], "b@gone.test");
}
