//! `forget --fleet`: an address is in no file of any box and of none of the server's, also where a box was down, and never said to be where it is
//! not so.

use super::failures::said;
use super::server::Server;
use super::{CATCH_UP, all_arrived, one_box, records_of_all};
use crate::support::client::deliver;
use crate::support::{Answer, Config, Daemon, Endpoint, eventually_within};
use serde_json::Value;
use std::path::{Path, PathBuf};

const LOCAL: &str = "marker-5d1f";
const ADDRESS: &str = "marker-5d1f@example.test";

/// Files below a folder in which the marker stands, in any letter case.
fn naming(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(naming(&path));
        } else if let Ok(octets) = std::fs::read(&path)
            && octets.to_ascii_lowercase().windows(LOCAL.len()).any(|window| window == LOCAL.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn forget(daemon: &Daemon) -> u64 {
    let body = format!("{{\"address\": \"{ADDRESS}\", \"fleet\": true}}");
    let head = format!(
        "POST /forget HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        daemon.admin.host(),
        body.len()
    );
    daemon.admin.request(&head, body.as_bytes()).unwrap().json()["erasure"].as_u64().unwrap()
}

fn state(daemon: &Daemon, id: u64) -> Value {
    daemon.admin.get(&format!("/fleet/erasures/{id}")).json()
}

fn is_done(daemon: &Daemon, id: u64) -> Option<()> {
    (state(daemon, id)["done"] == true).then_some(())
}

/// Mail that names the address in every way, to each of these.
fn send_to(daemon: &Daemon) {
    let message = format!("From: x@y.test\r\nMessage-ID: <{LOCAL}@example.test>\r\nSubject: for {ADDRESS}\r\n\r\ntext\r\n");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test", ADDRESS], message.as_bytes());
    deliver(daemon.smtp(), &ADDRESS.to_uppercase(), &["b@example.test"], message.as_bytes());
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"Subject: another\r\n\r\ntext\r\n");
}

/// A role may have settings for all who come by it: none of them keeps records away, nor an erasure.
#[test]
fn with_settings_of_the_role() {
    let (server, _database, _endpoint, daemon) = one_box("settings");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    for (name, value) in [
        ("statement_timeout", "'2s'"),
        ("lock_timeout", "'1ms'"),
        ("idle_in_transaction_session_timeout", "'1ms'"),
        ("idle_session_timeout", "'200ms'"),
        ("default_transaction_isolation", "'serializable'"),
        ("standard_conforming_strings", "off"),
        ("quote_all_identifiers", "on"),
        ("datestyle", "'SQL, DMY'"),
        ("intervalstyle", "'sql_standard'"),
        ("extra_float_digits", "-15"),
    ] {
        server.sql("postgres", &format!("ALTER ROLE mailsluice SET {name} = {value}"));
    }
    server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mailsluice'");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    let told = daemon.cli(&["forget", "--fleet", "--address", ADDRESS]);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(records_of_all(&daemon).values().all(|record| !record.to_string().to_lowercase().contains(LOCAL)));
}

#[test]
fn with_a_box_that_is_down_and_comes_back() {
    let server = Server::start();
    server.set(&[("wal_recycle", "off")]);
    server.stop_at_once();
    server.begin();
    let database = server.fleet("erasing");
    let endpoint = Endpoint::always(Answer::text(422, "no mailbox marker-5d1f%40example.test, nor \"Marker-5d1f\\u0040example.test\""));
    let config = |name| server.boxed(Config::to(&endpoint), &database, name);
    let (first, second) = (Daemon::start(config("mx1")), Daemon::start(config("mx2")));
    send_to(&first);
    send_to(&second);
    all_arrived(&[("mx1", &first), ("mx2", &second)]);
    // Statistics must not keep a copy, nor a transaction that was cut off.
    server.sql(&database, "ANALYZE");
    let second = second.kill();
    send_to(&first);

    let id = forget(&first);
    let waiting = eventually_within(CATCH_UP, "the first box to sign", || {
        let state = state(&first, id);
        let waiting: Vec<_> = state["waiting"].as_array().unwrap().iter().map(|one| one["box"].as_str().unwrap().to_owned()).collect();
        (waiting.len() == 1).then_some((waiting, state["done"].clone()))
    });
    assert_eq!(waiting, (vec!["mx2".to_owned()], Value::Bool(false)));
    let second = second.restart();
    eventually_within(CATCH_UP, "the erasure to be done", || is_done(&first, id));
    server.sql("postgres", "CHECKPOINT");
    server.sql("postgres", "SELECT pg_switch_wal()");
    server.sql("postgres", "CHECKPOINT");

    let nowhere: Vec<PathBuf> = Vec::new();
    for place in ["base", "pg_wal", "pg_stat", "global"] {
        assert_eq!(naming(&server.data().join(place)), nowhere);
    }
    for daemon in [&first, &second] {
        assert_eq!(
            naming(daemon.dir()).into_iter().filter(|path| path.file_name().unwrap() != "mailsluice.toml").collect::<Vec<_>>(),
            nowhere
        );
    }
    let records = records_of_all(&first);
    assert_eq!(records.len(), 9);
    let erased = records.values().filter(|record| record.to_string().contains("[erased]")).count();
    assert_eq!(erased, 9, "each answer named it");
    assert_eq!(first.cli(&["export", "--fleet", "--address", ADDRESS]).ok(), "");
    // By the command line, in the end: nobody is missing.
    send_to(&second);
    all_arrived(&[("mx1", &first), ("mx2", &second)]);
    assert!(first.cli(&["forget", "--fleet", "--address", ADDRESS]).ok().starts_with("erased on every box"));
    assert_eq!(first.cli(&["export", "--fleet", "--address", ADDRESS]).ok(), "");
}

#[test]
fn without_the_owners_rights_nothing_is_said_to_be_done() {
    let (server, database, _endpoint, daemon) = one_box("no_owner");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    server.sql(&database, "REVOKE mailsluice_owner FROM mailsluice_writer");
    let failed = daemon.cli(&["forget", "--fleet", "--address", ADDRESS]);
    assert_eq!(failed.code, Some(69), "{}{}", failed.out, failed.err);
    assert!(failed.err.contains("is not done") && failed.err.contains("mailsluice_owner"), "{}", failed.err);
    server.sql(&database, "GRANT mailsluice_owner TO mailsluice_writer");
    let done = || {
        (server
            .number(&database, "SELECT count(*) FROM mailsluice.erasures WHERE done IS NOT NULL AND address IS NULL AND trouble IS NULL")
            == 1)
            .then_some(())
    };
    eventually_within(CATCH_UP, "the erasure to go on by itself", done);
    assert_eq!(daemon.cli(&["export", "--fleet", "--address", ADDRESS]).ok(), "");
}

/// Somebody's open transaction still sees the old rows, and the server would keep them: it is waited for.
#[test]
fn an_old_transaction_is_waited_for() {
    let (server, database, _endpoint, daemon) = one_box("patient");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    std::thread::scope(|scope| {
        let count = "SELECT count(*) FROM mailsluice.records";
        let old = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {count}; SELECT pg_sleep(6); {count}");
        let (server, database) = (&server, database.as_str());
        let reading = scope.spawn(move || server.sql(database, &old));
        let begun = || {
            (server.number(database, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'BEGIN ISO%' AND wait_event = 'PgSleep'") == 1)
                .then_some(())
        };
        eventually_within(CATCH_UP, "an old transaction", begun);
        let id = forget(&daemon);
        eventually_within(CATCH_UP, "the erasure to be done", || is_done(&daemon, id));
        assert!(reading.is_finished(), "done before nobody saw the old rows any more");
        reading.join().unwrap();
    });
    server.sql("postgres", "CHECKPOINT");
    assert_eq!(naming(&server.data().join("base")), Vec::<PathBuf>::new());
}

/// `forget` of one box reaches what it brought before, also what it is told while the database is away.
#[test]
fn what_one_box_forgets_is_brought() {
    let (server, database, _endpoint, daemon) = one_box("alone");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    server.stop_at_once();
    daemon.cli(&["forget", "--address", ADDRESS]).ok();
    // The list of what is to be brought outlives the daemon.
    let daemon = daemon.kill().restart();
    server.begin();
    let gone = || server.number(&database, &format!("SELECT count(*) FROM mailsluice.records r WHERE r::text ILIKE '%{LOCAL}%'"));
    eventually_within(CATCH_UP, "what was forgotten", || (gone() == 0).then_some(()));
    all_arrived(&[("mx1", &daemon)]);
}

/// Heard of all the time, and yet it never signs: who asked is told for whom he waits, at the end of his patience and not of the day.
#[test]
fn a_box_that_is_there_and_never_signs() {
    let (server, database, _endpoint, daemon) = one_box("unsigned");
    send_to(&daemon);
    all_arrived(&[("mx1", &daemon)]);
    let there = "INSERT INTO mailsluice.boxes (id, name, version, started, last_seen, retention_seconds) \
        VALUES (gen_random_uuid(), 'mx9', '0', now(), now() + interval '1 hour', 86400)";
    server.sql(&database, there);
    let forget = |more: &[&str]| daemon.cli(&[&["forget", "--fleet", "--address", ADDRESS], more].concat());
    let failed = forget(&["--wait", "4s"]);
    assert_eq!(failed.code, Some(69), "{}{}", failed.out, failed.err);
    for words in ["is not done after 4s", "not signed by mx9, though heard of", "mailsluice fleet remove"] {
        assert!(failed.err.contains(words), "{words}: {}", failed.err);
    }
    assert!(!failed.err.contains("mx1"), "{}", failed.err);
    assert_eq!(forget(&["--wait", "soon"]).code, Some(64));
    daemon.cli(&["fleet", "remove", "mx9"]).ok();
    assert!(forget(&[]).ok().starts_with("erased on every box"));
    // The one that was given up went on.
    let open = "SELECT count(*) FROM mailsluice.erasures WHERE done IS NULL";
    eventually_within(CATCH_UP, "the first to be done as well", || (server.number(&database, open) == 0).then_some(()));
}

/// The database is made anew before a box has signed: what it erased is not taken for what somebody asks there under the same number.
#[test]
fn an_erasure_of_a_database_that_is_no_more() {
    let (server, database, _endpoint, daemon) = one_box("anew");
    send_to(&daemon);
    deliver(daemon.smtp(), "somebody@sender.test", &["b@example.test"], b"Subject: else\r\n\r\ntext\r\n");
    all_arrived(&[("mx1", &daemon)]);
    server.sql(&database, "REVOKE UPDATE ON mailsluice.records FROM mailsluice_writer");
    let id = forget(&daemon);
    said(&daemon, "an address was erased from the store");
    server.sql(&database, "DROP SCHEMA mailsluice CASCADE");
    server.init(&database).ok();
    let asked = "INSERT INTO mailsluice.erasures (address) VALUES ('somebody@sender.test') RETURNING id";
    assert_eq!(server.number(&database, asked), id);
    eventually_within(CATCH_UP, "another erasure", || is_done(&daemon, id));
    all_arrived(&[("mx1", &daemon)]);
    for text in [LOCAL, "somebody@"] {
        assert!(!format!("{:?}", super::records_of(&daemon)).contains(text), "{text}");
    }
}
