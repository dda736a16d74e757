//! SIGHUP re-reads the configuration without dropping a connection; a bad file changes nothing.

use crate::support::client::deliver;
use crate::support::endpoint::Request;
use crate::support::load::{self, Load};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, certificates, eventually, messages, turn};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Waits until a new connection shows the effect.
#[track_caller]
fn takes_effect(daemon: &Daemon, to: &str, endpoint: &Endpoint) {
    eventually("the new route", || {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.expect("MAIL FROM:<a@sender.test>", "250 ");
        let known = client.command(&format!("RCPT TO:<{to}>")).code == 250;
        known.then(|| client.data(&messages::simple("x", "text")).starts("250 ").code)
    });
    assert!(endpoint.count() > 0);
}

#[test]
fn routes_change_and_sessions_go_on() {
    let (old, new) = (Endpoint::ok(), Endpoint::ok());
    let config =
        |endpoint: &Endpoint, to: &str| Config::without_routes().route("r", &[to], &endpoint.url("/in")).of_route("format", "rfc822");
    let mut daemon = Daemon::start(config(&old, "*@old.test"));
    let mut session = Client::connect(daemon.smtp());
    session.ehlo();
    daemon.reload(config(&new, "*@new.test"));
    takes_effect(&daemon, "x@new.test", &new);
    // The open session follows, or at least goes on.
    session.expect("MAIL FROM:<a@sender.test>", "250 ");
    session.expect("RCPT TO:<x@new.test>", "250 ");
    session.data(&messages::simple("x", "text")).starts("250 ");
    session.quit();
    assert_eq!((old.count(), daemon.stop().code), (0, Some(0)));
}

#[test]
fn a_message_under_way_keeps_its_route() {
    let gate = Gate::default();
    let old = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let new = Endpoint::ok();
    let config = |endpoint: &Endpoint, to: &str| Config::without_routes().route("r", &[to], &endpoint.url("/in"));
    let mut daemon = Daemon::start(config(&old, "*@old.test"));
    let mut session = Client::connect(daemon.smtp());
    session.envelope("a@sender.test", &["x@old.test"]);
    session.expect("DATA", "354 ");
    session.send(crate::support::client::stuffed(&messages::simple("x", "text")));
    old.wait_for(1);
    daemon.reload(config(&new, "*@new.test"));
    takes_effect(&daemon, "x@new.test", &new);
    gate.open();
    session.reply().starts("250 2.0.0 Ok: ");
}

#[test]
fn a_bad_file_changes_nothing() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    let bad = [
        "[smtp\nlisten = 3".to_owned(),
        Config::to(&endpoint).text().replace("hostname", "hostnam"),
        Config::to(&endpoint).of_route("format", "xml").text(),
        Config::to(&endpoint).of_route("ca_certificate", "/does/not/exist.pem").text(),
        String::new(),
    ];
    for (n, text) in bad.iter().enumerate() {
        std::fs::write(daemon.config_file(), text).unwrap();
        daemon.signal(Signal::SIGHUP);
        // Logged, with the file's name.
        eventually("the log to say so", || {
            let errors =
                daemon.events().iter().filter(|event| event["level"] == "error" && event.to_string().contains("mailsluice.toml")).count();
            (errors > n).then_some(())
        });
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    }
    assert!(daemon.running());
    assert_eq!(endpoint.count(), bad.len());
}

/// Files of routes: one is broken, the others change, and only the broken one stays as it was.
#[test]
fn included_files_change_one_by_one() {
    let (first, second) = (Endpoint::ok(), Endpoint::ok());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, domain: &str, endpoint: &Endpoint| {
        let text = Config::routes_only(&format!("r-{name}"), &[&format!("*@{domain}")], &endpoint.url("/in"));
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write("1.toml", "one.test", &first);
    write("2.toml", "two.test", &second);
    let config = Config::without_routes().set("include", vec![format!("{}/*.toml", folder.path().display())]);
    let daemon = Daemon::start(config);
    takes_effect(&daemon, "x@one.test", &first);
    std::fs::write(folder.path().join("1.toml"), "[[route]]\nrecipients = 3\n").unwrap();
    write("2.toml", "other.test", &second);
    write("3.toml", "three.test", &second);
    daemon.signal(Signal::SIGHUP);
    takes_effect(&daemon, "x@three.test", &second);
    takes_effect(&daemon, "x@other.test", &second);
    takes_effect(&daemon, "x@one.test", &first);
    eventually("the log to say which", || {
        let said =
            daemon.events().iter().any(|event| event["level"] == "error" && event.to_string().contains("1.toml:2: route.recipients"));
        said.then_some(())
    });
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &[]);
    client.expect("RCPT TO:<x@two.test>", "550 5.1.1");
}

/// A file that a route names is that route's matter.
#[test]
fn a_broken_certificate_of_an_included_route_is_nobody_elses() {
    let endpoint = Endpoint::ok();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, domain: &str, ca: &str| {
        let text = Config::routes_only(&format!("r-{name}"), &[&format!("*@{domain}")], &endpoint.url("/in"));
        let ca = if ca.is_empty() { String::new() } else { format!("ca_certificate = {:?}\n", path(ca)) };
        std::fs::write(path(name), format!("{text}{ca}")).unwrap();
    };
    let authority = certificates::Authority::new();
    std::fs::write(path("a.pem"), &authority.pem).unwrap();
    std::fs::write(path("b.pem"), &authority.pem).unwrap();
    write("1.toml", "one.test", "a.pem");
    write("2.toml", "two.test", "b.pem");
    write("3.toml", "three.test", "");
    let config = Config::without_routes().set("include", vec![format!("{}/*.toml", folder.path().display())]);
    let daemon = Daemon::start(config);
    takes_effect(&daemon, "x@one.test", &endpoint);
    // What one trusts is junk now, another names what is not there, and the third has changed.
    std::fs::write(path("a.pem"), "junk").unwrap();
    write("2.toml", "new-two.test", "nowhere.pem");
    write("3.toml", "new-three.test", "");
    daemon.signal(Signal::SIGHUP);
    takes_effect(&daemon, "x@new-three.test", &endpoint);
    takes_effect(&daemon, "x@one.test", &endpoint);
    takes_effect(&daemon, "x@two.test", &endpoint);
    for said in ["what was trusted before stays: route r-1.toml", "2.toml:5: route.ca_certificate"] {
        eventually("the log to say it", || daemon.log().contains(said).then_some(()));
    }
}

/// Puts a file in the place of another, in one step.
fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// The next message's request.
fn next(daemon: &Daemon, endpoint: &Endpoint) -> Arc<Request> {
    let before = endpoint.count();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    endpoint.wait_for(before + 1).pop().unwrap()
}

#[test]
fn a_token_that_rotates_is_read_again() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (token, other, url) = (dir.path().join("token"), dir.path().join("other"), dir.path().join("url"));
    replace(&token, "Bearer t0\n");
    replace(&other, "o0\n");
    replace(&url, &endpoint.url("/0"));
    let mut headers = toml::Table::new();
    for (name, file) in [("Authorization_file", &token), ("X-Other_file", &other)] {
        headers.insert(name.to_owned(), file.to_str().unwrap().into());
    }
    let config = Config::without_routes().route("r", &["*"], "").of_route_file("url", &url);
    let daemon = Daemon::start_in(Arc::clone(&dir), config.of_route("headers", headers));
    assert_eq!(next(&daemon, &endpoint).field("authorization"), "Bearer t0");
    // What else is written meanwhile waits for its SIGHUP.
    let mut written = std::fs::OpenOptions::new().append(true).open(daemon.config_file()).unwrap();
    std::io::Write::write_all(&mut written, b"nonsense = true\n").unwrap();
    // As often as it can be seen.
    for n in 1..4 {
        replace(&token, &format!("Bearer t{n}\n"));
        eventually("the new token", || (next(&daemon, &endpoint).field("authorization") == format!("Bearer t{n}")).then_some(()));
    }
    // Empty or gone, it stays what it was; so does a value that cannot be used.
    replace(&token, "\n");
    replace(&other, "o1");
    eventually("the other value", || (next(&daemon, &endpoint).field("x-other") == "o1").then_some(()));
    assert_eq!(next(&daemon, &endpoint).field("authorization"), "Bearer t3");
    std::fs::remove_file(&token).unwrap();
    replace(&url, "no URL");
    eventually("the refusal", || daemon.log().contains("a changed value is refused, the old one stays").then_some(()));
    replace(&url, &endpoint.url("/1"));
    eventually("the new URL", || (next(&daemon, &endpoint).target == "/1").then_some(()));
    assert_eq!(next(&daemon, &endpoint).field("authorization"), "Bearer t3");
    replace(&token, "Bearer t4");
    eventually("the token that is there again", || (next(&daemon, &endpoint).field("authorization") == "Bearer t4").then_some(()));
    assert!(!daemon.log().contains("Bearer"), "a secret is logged");
}

#[test]
fn limits_change() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    daemon.reload(Config::to(&endpoint).set("smtp.max_message_size", "1MiB").set("smtp.hostname", "renamed.test"));
    eventually("the new size", || {
        let mut client = Client::connect_silently(daemon.smtp());
        let banner = client.reply();
        let ehlo = client.ehlo();
        let new = ehlo.lines.iter().any(|line| line.ends_with("SIZE 1048576"));
        (new && banner.text().starts_with("220 renamed.test ")).then_some(())
    });
}

#[test]
fn reload_under_load_loses_nothing() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    let load = Load { per_connection: 10, ..Load::new(daemon.smtp(), 1500) };
    let outcome = std::thread::scope(|scope| {
        let stop = AtomicBool::new(false);
        let running = scope.spawn(move || load::run(&load, &stop));
        let mut count = 0;
        while !running.is_finished() {
            daemon.reload(Config::to(&endpoint).set("smtp.max_errors", 10 + count % 5));
            count += 1;
            let seen = endpoint.count();
            eventually("more messages, or the end", || (endpoint.count() > seen + 40 || running.is_finished()).then_some(()));
        }
        assert!(count > 5, "{count} reloads");
        running.join().unwrap()
    });
    assert_eq!(outcome.count(Some(250)), 1500, "{:?}", outcome.replies.values().collect::<std::collections::BTreeSet<_>>());
    assert_eq!((outcome.refused_connections, outcome.broken_connections), (0, 0));
    assert_eq!(endpoint.count(), 1500);
}

/// What only a restart takes over is named, at each reload, as long as the file differs from what runs.
#[test]
fn keys_that_wait_for_a_restart_are_named_until_it_comes() {
    let endpoint = Endpoint::ok();
    let config = || Config::to(&endpoint).set("smtp.listen", vec!["127.0.0.1:0"]).set("dns.timeout", "4s").set("log.format", "json");
    let mut daemon = Daemon::start(config());
    let waiting = |daemon: &Daemon| {
        let notices = daemon.admin.json("/notices")["notices"].clone();
        let texts = notices.as_array().unwrap().iter().filter_map(|notice| notice["what"].as_str().map(str::to_owned));
        texts.filter(|text| text.contains("next restart")).collect::<Vec<_>>()
    };
    assert_eq!(waiting(&daemon), Vec::<String>::new());
    let other = || {
        config()
            .set("smtp.listen", vec!["127.0.0.1:0", "127.0.0.1:0"])
            .set("smtp.threads", 3)
            .set("admin.listen", "127.0.0.1:1")
            .set("forward.id_secret", "another")
            .set("dns.servers", vec!["192.0.2.1"])
            .set("dns.timeout", "3s")
            .set("log.format", "text")
    };
    let keys = ["smtp.listen", "smtp.threads", "admin.listen", "forward.id_secret", "dns.servers", "dns.timeout", "log.format"];
    let named = |daemon: &Daemon| waiting(daemon).iter().any(|text| keys.iter().all(|key| text.contains(key)));
    daemon.reload(other());
    eventually("all keys", || named(&daemon).then_some(()));
    // The same file again is no less different from what runs.
    let reloads = |daemon: &Daemon| daemon.log().matches("configuration reloaded").count();
    let before = reloads(&daemon);
    daemon.reload(other());
    eventually("another reload", || (reloads(&daemon) > before).then_some(()));
    assert!(named(&daemon), "{:?}", waiting(&daemon));
    // As it runs: nothing waits.
    daemon.reload(config());
    eventually("nothing that waits", || waiting(&daemon).is_empty().then_some(()));
}
