//! The command line: exit codes, and what the client commands say.

use crate::support::client::deliver;
use crate::support::daemon::{cli, command};
use crate::support::process::{Process, run};
use crate::support::{Answer, Config, Daemon, Endpoint, Gate, PATIENCE, eventually, messages, port};
use nix::sys::signal::Signal;

#[test]
fn usage_errors_are_64() {
    for arguments in
        [&["--nonsense"][..], &["records", "--since"], &["nonsense"], &["export"], &["forget"], &["records", "--outcome", "lost"]]
    {
        let finished = cli(arguments);
        assert_eq!(finished.code, Some(64), "{arguments:?}: {finished:?}");
        assert!(!finished.err.is_empty());
    }
    for arguments in [&["--help"][..], &["--version"], &["records", "--help"]] {
        let out = cli(arguments).ok();
        assert!(out.contains("mailsluice"), "{out}");
    }
}

#[test]
fn a_missing_configuration_file_is_named() {
    for command in ["check", "serve", "doctor"] {
        let finished = cli(&[command, "--config", "/does/not/exist.toml"]);
        assert!(matches!(finished.code, Some(78 | 66 | 74 | 77)), "{command}: {finished:?}");
        assert!(format!("{}{}", finished.err, finished.out).contains("/does/not/exist.toml"), "{command}: {finished:?}");
    }
}

#[test]
fn nothing_at_the_admin_address_is_69() {
    for arguments in [&["stats"][..], &["records"], &["export", "--address", "a@b.test"], &["forget", "--address", "a@b.test"]] {
        let finished = run(command().args(arguments).args(["--admin", "http://127.0.0.1:9"]), PATIENCE);
        assert_eq!(finished.code, Some(69), "{arguments:?}: {finished:?}");
        assert_eq!(finished.err.trim_end().lines().count(), 1, "{finished:?}");
    }
}

#[test]
fn a_port_in_use_is_69() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let config = Config::to(&endpoint)
        .set("smtp.listen", vec![daemon.smtp().to_string()])
        .set("store.path", dir.path().join("s.redb").to_str().unwrap());
    std::fs::write(&file, config.text()).unwrap();
    let finished = cli(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(finished.code, Some(69), "{finished:?}");
    // Which, by whom, and what to do.
    let said = format!("{}{}", finished.out, finished.err);
    for part in [&daemon.smtp().to_string(), &format!("(process {})", daemon.pid()), "another port"] {
        assert!(said.contains(part), "{part}: {finished:?}");
    }
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let file = daemon.dir().join("second.toml");
    let config = Config::to(&endpoint).set("store.path", daemon.dir().join("records.redb").to_str().unwrap());
    std::fs::write(&file, config.text()).unwrap();
    let finished = cli(&["serve", "--config", file.to_str().unwrap()]);
    assert!(matches!(finished.code, Some(69 | 73 | 74)), "{finished:?}");
    assert!(format!("{}{}", finished.out, finished.err).contains("records.redb"), "{finished:?}");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}

#[test]
fn stats_and_records() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::status(500)]);
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..4 {
        deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &messages::simple(&format!("subject{n}"), "text"));
    }
    let stats: serde_json::Value = serde_json::from_str(&daemon.cli(&["stats", "--json"]).ok()).unwrap();
    assert_eq!((&stats["messages"]["delivered"], &stats["messages"]["deferred"]), (&1.into(), &3.into()));
    let text = daemon.cli(&["stats"]).ok();
    assert!(text.contains("delivered") && !text.contains('\x1b'), "{text}");
    let table = daemon.cli(&["records"]).ok();
    for part in ["subject0", "subject3", "alice@sender.test", "bob@example.test", "delivered", "deferred"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let lines = daemon.cli(&["records", "--json", "--outcome", "deferred", "--since", "1h", "--limit", "2"]).ok();
    let records: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["outcome"] == "deferred"));
    assert_eq!(daemon.cli(&["records", "--undelivered", "--json"]).ok().lines().count(), 3);
    assert_eq!(daemon.cli(&["records", "--sender", "nobody@x.test", "--json"]).ok(), "");
}

#[test]
fn a_hostile_subject_does_not_reach_the_terminal() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = "Subject: =?utf-8?Q?=1B[31mred=07=0Dover=E2=80=AE?=\r\n\r\n".as_bytes();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message).starts("250 ");
    let table = daemon.cli(&["records"]).ok();
    assert!(!table.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{table:?}");
}

#[test]
fn follow_prints_each_record_as_it_comes() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let follow = follow(&daemon, &[]);
    let mut n = 0;
    // Until it listens; then every one.
    eventually("the first line", || {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("probe{n}"), "text"));
        n += 1;
        (!follow.lines.all().is_empty()).then_some(())
    });
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("followed", "text"));
    follow.lines.wait_for("followed", |line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        (record["subject"] == "followed").then_some(())
    });
}

/// Starts `records --follow` for this daemon.
fn follow(daemon: &Daemon, options: &[&str]) -> Process {
    let mut follow = command();
    follow.args(["records", "--follow", "--json"]).args(options).arg("--admin").arg(daemon.admin_url());
    Process::start(&mut follow)
}

/// The subjects that were printed, once this one was.
fn subjects_until(follow: &Process, last: &str) -> Vec<String> {
    let subject = |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["subject"].as_str()?.to_owned());
    follow.lines.wait_for(last, |line| (subject(line)? == last).then_some(()));
    follow.lines.all().iter().filter_map(|line| subject(line)).collect()
}

#[test]
fn follow_goes_on_over_a_restart() {
    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint)
        .set("smtp.listen", vec![format!("127.0.0.1:{}", port::free())])
        .set("admin.listen", format!("127.0.0.1:{}", port::free()));
    let daemon = Daemon::start(config.clone());
    let send = |daemon: &Daemon, subject: &str| {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(subject, "text")).starts("250 ");
    };
    let dir = daemon.shared_dir();
    for subject in ["not asked for", "past"] {
        send(&daemon, subject);
    }
    let mut following = [follow(&daemon, &["--limit", "1"]), follow(&daemon, &["--since", "1ms"])];
    subjects_until(&following[0], "past");
    // The second has nothing to show at first: until it listens.
    let mut expected = vec!["past".to_owned()];
    eventually("a line of the second", || {
        expected.push(format!("probe{}", expected.len()));
        send(&daemon, expected.last().unwrap());
        (!following[1].lines.all().is_empty()).then_some(())
    });
    send(&daemon, "live");
    for follow in &following {
        subjects_until(follow, "live");
    }
    assert_eq!(daemon.stop().code, Some(0));
    for follow in &following {
        follow.lines.wait_for("that it is gone", |line| line.contains("waiting until it is back").then_some(()));
    }
    let daemon = Daemon::start_in(dir, config);
    // Whether they come before it is found again or after.
    for n in 0..5 {
        send(&daemon, &format!("meanwhile{n}"));
    }
    for follow in &following {
        follow.lines.wait_for("that it is back", |line| line.ends_with("the daemon is back").then_some(()));
    }
    send(&daemon, "last");
    expected.extend(["live", "meanwhile0", "meanwhile1", "meanwhile2", "meanwhile3", "meanwhile4", "last"].map(str::to_owned));
    assert_eq!(subjects_until(&following[0], "last"), expected);
    let second = subjects_until(&following[1], "last");
    assert!(second.len() > 7 && expected.ends_with(&second), "{second:?}");
    assert!(following.iter_mut().all(Process::running));
}

/// A record's id is of the end of data; a message whose endpoint is slow is recorded after younger ones, and must not be missed.
#[test]
fn follow_misses_no_slow_message() {
    let gate = Gate::default();
    let behind = Answer::Behind(gate.clone(), Box::new(Answer::status(200)));
    let endpoint =
        Endpoint::with(
            move |request| {
                if request.body.windows(9).any(|part| part == b"slow-mail") { behind.clone() } else { Answer::status(200) }
            },
        )
        .start();
    let daemon = Daemon::start(Config::to(&endpoint));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("slow-mail", "text")));
        endpoint.wait_for(1);
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("quick", "text")).starts("250 ");
        let follow = follow(&daemon, &[]);
        let subject = |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["subject"].as_str()?.to_owned());
        follow.lines.wait_for("the one that is there", |line| (subject(line)? == "quick").then_some(()));
        gate.open();
        slow.join().unwrap().starts("250 ");
        follow.lines.wait_for("the slow one", |line| (subject(line)? == "slow-mail").then_some(()));
        assert_eq!(follow.lines.all().len(), 2);
    });
}

#[test]
fn send_submits_files_and_a_sample() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let server = daemon.smtp().to_string();
    cli(&["send", "--server", &server]).ok();
    assert!(!endpoint.only().body.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.eml");
    std::fs::write(&file, "Subject: from a file\n\n.dot\nlast\n").unwrap();
    cli(&[
        "send",
        "--server",
        &server,
        "--to",
        "x@example.test",
        "--from",
        "y@sender.test",
        file.to_str().unwrap(),
        file.to_str().unwrap(),
    ])
    .ok();
    let requests = endpoint.wait_for(3);
    assert_eq!(requests[1].body, b"Subject: from a file\r\n\r\n.dot\r\nlast\r\n");
    assert_eq!(requests[1].field("mailsluice-mail-from"), "y@sender.test");
    assert_eq!(requests[1].field("mailsluice-rcpt-to"), "x@example.test");
}

#[test]
fn send_tells_what_the_server_said() {
    let endpoint = Endpoint::always(Answer::text(422, "not this one"));
    let daemon = Daemon::start(Config::to(&endpoint));
    let finished = cli(&["send", "--server", &daemon.smtp().to_string()]);
    assert!(finished.code.is_some_and(|code| code != 0), "{finished:?}");
    assert!(format!("{}{}", finished.out, finished.err).contains("not this one"), "{finished:?}");
}

/// What `cargo run --release` starts. Its ports are fixed, so it runs in a network of its own where that may be made.
#[test]
fn the_development_configuration_works_by_itself() {
    let _turn = crate::support::turn::shared();
    std::thread::spawn(|| {
        crate::support::process::enter_a_network_of_its_own();
        development();
    })
    .join()
    .unwrap();
}

fn development() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command();
    command.current_dir(dir.path());
    let mut process = Process::start(&mut command);
    process.lines.wait_for("the addresses", |line| line.contains("http://127.0.0.1:8025").then_some(()));
    let admin = crate::support::admin::Admin::new("127.0.0.1:8025");
    eventually("readiness", || admin.try_get("/readyz").is_ok_and(|r| r.status == 200).then_some(()));
    let said = process.lines.text();
    assert!(said.contains("127.0.0.1:2525") && said.contains("http://127.0.0.1:8025"), "{said}");
    deliver("127.0.0.1:2525".parse().unwrap(), "a@sender.test", &["anyone@anywhere.test"], &messages::simple("hello", "text"))
        .starts("250 ");
    assert_eq!(admin.stat("messages.delivered"), 1);
    assert_eq!(admin.records("")[0]["subject"], "hello");
    assert!(dir.path().join("mailsluice-data").is_dir());
    // It ends with its terminal.
    process.signal(Signal::SIGHUP);
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
}

/// A machine with the package's configuration, as commands without `--config` find it: an /etc of their own.
fn with_etc(file: &str, mode: &str, as_user: &str, words: &str) -> crate::support::process::Finished {
    let script = format!(
        "set -e; mount -t tmpfs none /etc; mkdir /etc/mailsluice; printf 'root:x:0:0::/:/bin/sh\\nmailsluice:x:4711:4711::/:/bin/sh\\nother:x:4712:4712::/:/bin/sh\\n' >/etc/passwd; \
         printf %s '{file}' >/etc/mailsluice/mailsluice.toml; chmod {mode} /etc/mailsluice/mailsluice.toml; \
         exec setpriv --reuid={as_user} --clear-groups \"$0\" {words}"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, crate::support::daemon::BINARY]).env_remove("MAILSLUICE_CONFIG").env("NO_COLOR", "1");
    run(&mut command, PATIENCE)
}

#[test]
fn which_configuration_is_said_and_an_unreadable_one_is_no_reason_for_another() {
    let file = "[[route]]\nname = \"packaged\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:9/\"\n";
    let root = with_etc(file, "644", "0", "check");
    assert_eq!(root.code, Some(0), "{root:?}");
    assert!(root.out.starts_with("# /etc/mailsluice/mailsluice.toml\n") && root.out.contains("\"packaged\""), "{root:?}");
    let dev = with_etc(file, "644", "0", "check --dev").ok();
    assert!(dev.starts_with("# (development configuration)") && !dev.contains("packaged"), "{dev}");
    let doctor = with_etc(file, "644", "0", "doctor");
    assert!(doctor.out.lines().next().unwrap().ends_with("configuration: /etc/mailsluice/mailsluice.toml"), "{doctor:?}");
    let send = with_etc(file, "644", "0", "send");
    assert!(send.out.starts_with("configuration: /etc/mailsluice/mailsluice.toml\n"), "{send:?}");
    for words in ["check", "doctor", "send", "records", "stats", "serve --config /etc/mailsluice/mailsluice.toml"] {
        let unreadable = with_etc(file, "600", "4712", words);
        assert_eq!(unreadable.code, Some(77), "{words}: {unreadable:?}");
        assert!(unreadable.err.contains("/etc/mailsluice/mailsluice.toml"), "{words}: {unreadable:?}");
    }
    for user in ["0", "4712"] {
        let serve = with_etc(file, "644", user, "serve");
        assert_eq!(serve.code, Some(64), "{serve:?}");
        assert!(serve.err.contains("systemctl start mailsluice") && serve.err.contains("--dev"), "{serve:?}");
    }
    // The unit's user gets further: the configuration is read, and its port is not for it to have.
    let unit = with_etc("x = 1", "644", "4711", "serve");
    assert_eq!(unit.code, Some(78), "{unit:?}");
    let both = cli(&["check", "--dev", "--config", "x"]);
    assert_eq!(both.code, Some(64), "{both:?}");
}

#[test]
fn records_are_found_by_whatever_people_have() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::text(422, "no such ticket"), Answer::text(503, "down for repair")]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let replies: Vec<String> = (0..4)
        .map(|n| {
            let from = format!("s{n}@sender{n}.test");
            deliver(daemon.smtp(), &from, &["bob@example.test"], &messages::simple(&format!("subject{n}"), "text")).text().to_owned()
        })
        .collect();
    let newest_first = daemon.admin.records("");
    let subjects = |arguments: &[&str]| {
        let lines = daemon.cli(&[&["records", "--json"], arguments].concat()).ok();
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["subject"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let delivered = &newest_first[3];
    let webhook_id = newest_first[1]["webhook_id"].as_str().unwrap();
    let all = ["subject3", "subject2", "subject1", "subject0"];
    let table: [(&[&str], &[&str]); 16] = [
        (&["--text", &replies[0]], &all[3..]),
        (&["--text", delivered["id"].as_str().unwrap()], &all[3..]),
        (&["--text", webhook_id], &all[1..2]),
        (&["--webhook-id", webhook_id], &all[1..2]),
        (&["--webhook-id", webhook_id, "--outcome", "delivered"], &[]),
        (&["--text", "127.0.0.1"], &all),
        (&["--ip", "127.0.0.1", "--status", "422"], &all[2..3]),
        (&["--ip", "192.0.2.1"], &[]),
        (&["--text", "sender2.test"], &all[1..2]),
        (&["--text", "s3@SENDER3.test"], &all[..1]),
        (&["--text", "554 5.7.1 no such"], &all[2..3]),
        (&["--text", "down for repair", "--status", "503"], &all[..2]),
        (&["--route", "all", "--outcome", "rejected"], &all[2..3]),
        (&["--route", "other"], &[]),
        (&["--undelivered"], &all[..2]),
        (&["--undelivered", "--text", "subject3", "--limit", "0"], &all[..1]),
    ];
    for (arguments, expected) in table {
        assert_eq!(subjects(arguments), *expected, "{arguments:?}");
    }
    let one = daemon.cli(&["records", &replies[0]]).ok();
    for part in ["subject0", "s0@sender0.test", "webhook_id", "response status", &replies[0]] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert_eq!(daemon.cli(&["records", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]).code, Some(65));
    assert_eq!(daemon.cli(&["records", "nonsense"]).code, Some(65));
    let undelivered = daemon.cli(&["records", "--undelivered"]).ok();
    assert!(undelivered.contains("(1 attempt) the endpoint answered 503: down for repair"), "{undelivered}");
    let few = daemon.cli(&["records", "--limit", "1"]);
    assert!(few.err.contains("--limit 0 shows all") && few.out.contains("subject3") && !few.out.contains("subject2"), "{few:?}");
    let whole = daemon.cli(&["records", "--limit", "0"]);
    assert!(whole.err.is_empty() && whole.out.contains("subject0"), "{whole:?}");
}

/// A time without a zone is the machine's; a moment keeps its time of day.
#[test]
fn a_time_without_a_zone_is_local() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("now", "text")).starts("250 ");
    let date: jiff::Timestamp = daemon.admin.records("")[0]["date"].as_str().unwrap().parse().unwrap();
    let in_zone = |zone: &str, arguments: &[&str]| {
        let mut command = command();
        command.env("TZ", zone).arg("records").args(arguments).arg("--admin").arg(daemon.admin_url());
        run(&mut command, PATIENCE).ok()
    };
    // Five hours and a half east of Greenwich the clock shows so much more.
    let shift = jiff::SignedDuration::from_mins(330);
    let clock = |moment: jiff::Timestamp| {
        jiff::tz::TimeZone::UTC.to_datetime(moment.checked_add(shift).unwrap()).strftime("%Y-%m-%dT%H:%M:%S").to_string()
    };
    let minute = jiff::SignedDuration::from_mins(1);
    let (before, after) = (clock(date.checked_sub(minute).unwrap()), clock(date.checked_add(minute).unwrap()));
    assert_eq!(in_zone("Asia/Kolkata", &["--json", "--since", &before]).lines().count(), 1);
    assert_eq!(in_zone("Asia/Kolkata", &["--json", "--since", &after]).lines().count(), 0);
    assert_eq!(in_zone("Asia/Kolkata", &["--json", "--until", &before]).lines().count(), 0);
    let table = in_zone("Asia/Kolkata", &[]);
    assert!(table.starts_with("DATE (IST +05:30)") && table.contains(&clock(date).replace('T', " ")), "{table}");
}
