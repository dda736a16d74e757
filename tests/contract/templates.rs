//! Placeholders in a route's URL and headers: where the message of which recipient goes.

use crate::support::daemon::command;
use crate::support::process::run;
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE, messages};

fn templated(endpoint: &Endpoint, path: &str) -> Config {
    let headers = toml::toml! {
        X-Tenant = "{domain}"
        X-Note = "for {{one}}, key=k3y"
    };
    Config::without_routes().route("all", &["*"], &endpoint.url(path)).of_route("headers", headers).of_route("format", "rfc822")
}

#[test]
fn each_recipient_has_its_place() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(templated(&endpoint, "/in/{domain}/{local}?tag={tag}&to={recipient}&k=v"));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", "250 ");
    client.expect("RCPT TO:<\"an n+t/1\"@B\u{fc}cher.TEST>", "250 ");
    // The others are for other transactions, each for its own reason.
    for other in ["\"an n+t/1\"@example.test", "ann+t/1@b\u{fc}cher.test", "\"an n\"@b\u{fc}cher.test", "\"AN N+t/1\"@sub.b\u{fc}cher.test"]
    {
        client.expect(&format!("RCPT TO:<{other}>"), "452 4.5.3 ");
    }
    client.data(&messages::simple("x", "text")).starts("250 ");
    let request = endpoint.only();
    assert_eq!(request.target, "/in/xn--bcher-kva.test/an%20n?tag=t%2F1&to=%22an%20n%2Bt%2F1%22%40B%C3%BCcher.TEST&k=v");
    assert_eq!((request.field("x-tenant"), request.field("x-note")), ("xn--bcher-kva.test", "for {one}, key=k3y"));
    assert_eq!(daemon.admin.stat("recipients.refused.other_route"), 4);
}

#[test]
fn recipients_of_one_place_are_one_message() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(templated(&endpoint, "/in/{domain}"));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["a@x.test", "b@X.TEST", "c+d@x.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    let request = endpoint.only();
    assert_eq!((request.target.as_str(), request.field("mailsluice-rcpt-to")), ("/in/x.test", "a@x.test,b@X.TEST,c+d@x.test"));
}

#[test]
fn a_recipient_without_a_place_is_none() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(templated(&endpoint, "/in/{local}/x"));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    for recipient in ["..@x.test", ".@x.test", "a/b@x.test", "\"a\\\\b\"@x.test", "+tag@x.test", "\"\"@x.test"] {
        client.expect(&format!("RCPT TO:<{recipient}>"), "550 5.1.1 ");
    }
    client.expect("RCPT TO:<%2e%2e@x.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(endpoint.only().target, "/in/%252e%252e/x");
}

#[test]
fn check_shows_an_example_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let text = r#"
[[route]]
name = "all"
recipients = ["support+*@example.test"]
url = "https://u:pa{ss@app.example.com/{domain}/{{x}}?tag={tag}&key=s3cret"
headers = { X-Tenant = "{domain}", X-Key = "k3y {local}" }
"#;
    std::fs::write(&file, text).unwrap();
    let shown = run(command().args(["check", "--config"]).arg(&file), PATIENCE).ok();
    for line in [
        r#"url = "https://(secret)@app.example.com/{domain}/%7Bx%7D?tag={tag}&key=(secret)""#,
        "#   for support+tag@example.test: https://(secret)@app.example.com/example.test/%7Bx%7D?tag=tag&key=(secret)",
        "#   for support+tag@example.test: X-Tenant: example.test, X-Key: (secret)support",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("s3cret") && !shown.contains("k3y") && !shown.contains("pa{ss"));
}
