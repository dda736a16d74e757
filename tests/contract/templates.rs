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

#[test]
fn a_postmaster_without_a_domain_is_this_hosts() {
    let endpoint = Endpoint::ok();
    let config = Config::without_routes().route("all", &["postmaster"], &endpoint.url("/in/{domain}/{local}?to={recipient}"));
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["PostMaster"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(endpoint.only().target.to_lowercase(), "/in/mx.test/postmaster?to=postmaster");
}

#[test]
fn check_warns_of_recipients_that_a_template_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let check = |recipients: &str, url: &str| {
        let text = format!(
            "[smtp]\nhostname = \"mx.host.test\"\n[[route]]\nname = \"r\"\nrecipients = {recipients}\nurl = \"https://h.test{url}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = command().args(["check", "--config"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    for (recipients, url, example, warning) in [
        (r#"["a@b.test"]"#, "/in/{local}/{tag}/{domain}", None, Some("mail to \"a@b.test\" is always refused")),
        (r#"["postmaster"]"#, "/in/{local}/{tag}", None, Some("mail to \"postmaster\" is always refused")),
        (r#"["postmaster"]"#, "/in/{local}/{domain}?{tag}", Some("for postmaster: https://h.test/in/postmaster/mx.host.test?"), None),
        (
            r#"["a@b.test", "*@c.test", "d@c.test"]"#,
            "/{tag}",
            Some("for user+tag@c.test: https://h.test/tag"),
            Some("\"a@b.test\" and 1 more"),
        ),
        (r#"["a+*@b.test"]"#, "/{tag}", Some("for a+tag@b.test: https://h.test/tag"), None),
        (r#"['"a/b"@b.test']"#, "/{local}", None, Some("is always refused")),
        (r#"["*.b.test"]"#, "/{domain}/{tag}", Some("for user+tag@some.b.test: https://h.test/some.b.test/tag"), None),
    ] {
        let (code, shown) = check(recipients, url);
        assert_eq!(code, Some(0), "{shown}");
        assert_eq!(shown.contains("#   for "), example.is_some(), "{shown}");
        assert!(shown.contains(example.unwrap_or_default()), "{example:?} is not in\n{shown}");
        assert_eq!(shown.contains("is always refused"), warning.is_some(), "{shown}");
        assert!(shown.contains(warning.unwrap_or_default()), "{warning:?} is not in\n{shown}");
    }
    for url in ["/t/%{local}/x", "/%2{local}", "/x?a=%{tag}", "/x?%F{recipient}"] {
        let (code, shown) = check(r#"["*"]"#, url);
        assert!(code == Some(78) && shown.contains("c.toml:6: route.url: a percent sign before a placeholder"), "{shown}");
    }
}
