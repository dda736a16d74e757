//! What is undelivered over all boxes: quick questions answer as the slow one does, whatever was marked already.

use super::server::Server;
use super::{CATCH_UP, all_arrived, one_box, undelivered_of_all};
use crate::support::client::deliver;
use crate::support::{Daemon, Endpoint, eventually_within};
use std::collections::BTreeMap;

/// All pages: message, attempts; in order.
fn pages(daemon: &Daemon, limit: usize) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = daemon.admin.get(&format!("/undelivered?fleet=1&limit={limit}{cursor}")).json();
        found.extend(page["undelivered"].as_array().unwrap().iter().map(|one| {
            let text = one["record"]["webhook_id"].as_str().unwrap().to_owned();
            (text, one["attempts"].as_u64().unwrap())
        }));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// A box that has brought one record, of which others are made.
fn one_record(name: &str) -> (Server, String, Endpoint, Daemon) {
    let made = one_box(name);
    let (.., daemon) = &made;
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"Subject: one\r\n\r\nx\r\n").starts("250 ");
    all_arrived(&[("mx1", daemon)]);
    made
}

/// Pages of undelivered messages, each once and in order, however many attempts at others lie between them.
#[test]
fn pages_of_what_is_undelivered() {
    let (server, database, _endpoint, daemon) = one_record("pages");
    // 3000 messages, three attempts each; every hundredth is still open.
    let copies = "INSERT INTO mailsluice.records SELECT (r).* FROM (SELECT jsonb_populate_record(r, jsonb_build_object(\
        'id', left(replace(r.id::text, '-', ''), 12) || lpad(to_hex(attempt * 4096 + n), 20, '0'), 'webhook_id', 'msg_' || n, \
        'outcome', CASE WHEN attempt = 2 AND n % 100 > 0 THEN 'delivered' ELSE 'deferred' END)) AS r \
        FROM mailsluice.records r, generate_series(0, 2) attempt, generate_series(1, 3000) n) x";
    server.sql(&database, copies);
    assert_eq!(pages(&daemon, 7), (1..=30).rev().map(|n| (format!("msg_{}", n * 100), 3)).collect::<Vec<_>>());
    assert_eq!(undelivered_of_all(&daemon).len(), 30);
}

/// Attempts of one day or another, of all outcomes, in any order; those of `first` to `last` messages.
fn attempts(first: u32, last: u32, seed: u32) -> String {
    let chance = |what: &str| format!("(hashtext('{what}' || n || '-' || attempt || '-{seed}') & 1073741823)");
    let (days, at, ends) = (chance("day"), chance("at"), chance("ends"));
    format!(
        "INSERT INTO mailsluice.records SELECT (r).* FROM (SELECT jsonb_populate_record(r, jsonb_build_object(\
         'id', lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - {days} % 5 * 86400000 - {at} % 3600000), 12, '0') \
            || lpad(to_hex({seed} * 65536::bigint * 65536 + attempt * 65536 + n), 20, '0'), 'webhook_id', 'msg_' || n, 'settled', false, \
         'subject', 'a copy', 'outcome', CASE {ends} % 5 WHEN 0 THEN 'delivered' WHEN 1 THEN 'rejected' ELSE 'deferred' END)) AS r \
         FROM mailsluice.records r, generate_series(0, 2) attempt, generate_series({first}, {last}) n WHERE r.subject = 'one') x"
    )
}

/// Days that are over have their partitions, as when their records were brought on that day.
const PAST: &str = "DO $$ DECLARE day date; BEGIN \
    FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date - n FROM generate_series(1, 3) n LOOP EXECUTE format( \
    'CREATE TABLE mailsluice.%I PARTITION OF mailsluice.records FOR VALUES FROM (%L) TO (%L)', 'records_' || to_char(day, 'YYYYMMDD'), \
    lpad(to_hex((day - date '1970-01-01') * 86400000::bigint), 12, '0') || repeat('0', 20), \
    lpad(to_hex((day + 1 - date '1970-01-01') * 86400000::bigint), 12, '0') || repeat('0', 20)); END LOOP; END $$";

/// One window over all there is, as nobody would ask it of a fleet.
fn slow(server: &Server, database: &str) -> Vec<(String, u64)> {
    let sql = "SELECT webhook_id || ' ' || attempts FROM (SELECT webhook_id, id, outcome, row_number() OVER newest AS place, \
        count(*) OVER message AS attempts, bool_and(outcome = 'deferred') OVER message AS is_open FROM mailsluice.records \
        WINDOW message AS (PARTITION BY webhook_id), newest AS (PARTITION BY webhook_id ORDER BY id DESC)) r \
        WHERE is_open AND place = 1 ORDER BY id DESC";
    let lines = server.sql(database, sql);
    lines.lines().map(|line| line.split_once(' ').unwrap()).map(|(id, attempts)| (id.to_owned(), attempts.parse().unwrap())).collect()
}

#[track_caller]
fn as_the_slow_question(server: &Server, database: &str, daemon: &Daemon) {
    let expected = slow(server, database);
    assert!(expected.len() > 20, "{}", expected.len());
    for limit in [13, 1000] {
        assert_eq!(pages(daemon, limit), expected);
    }
    let records = daemon.admin.get("/records?fleet=1&undelivered=1&limit=1000").json();
    let found = records["records"].as_array().unwrap().iter().map(|one| one["webhook_id"].as_str().unwrap().to_owned());
    assert_eq!(found.collect::<Vec<_>>(), expected.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>());
    let view = server.sql(database, "SELECT webhook_id FROM mailsluice.undelivered");
    let ids = |ids: &mut dyn Iterator<Item = String>| ids.map(|id| (id, ())).collect::<BTreeMap<_, _>>();
    assert_eq!(ids(&mut view.lines().map(str::to_owned)), ids(&mut expected.into_iter().map(|(id, _)| id)));
}

/// Marks of what has come to its end change no answer: before a sweep, behind it, with what came since; and without the column that they are in.
#[test]
fn marks_change_no_answer() {
    let (server, database, _endpoint, mut daemon) = one_record("marked");
    server.sql(&database, &format!("SET ROLE mailsluice_owner; {PAST}"));
    server.sql(&database, &attempts(1, 400, 1));
    assert!(server.number(&database, "SELECT count(DISTINCT tableoid) FROM mailsluice.records") >= 4);
    as_the_slow_question(&server, &database, &daemon);
    let due = "SELECT count(*) FROM mailsluice.records r WHERE outcome = 'deferred' AND NOT settled AND EXISTS \
        (SELECT FROM mailsluice.records s WHERE s.webhook_id = r.webhook_id AND s.outcome <> 'deferred')";
    // A daemon counts when it has connected.
    let sweep = |daemon: Daemon| {
        let daemon = daemon.kill();
        server.sql(&database, "UPDATE mailsluice.format SET swept = NULL");
        let daemon = daemon.restart();
        eventually_within(CATCH_UP, "a sweep", || (server.number(&database, due) == 0).then_some(()));
        daemon
    };
    assert!(server.number(&database, due) > 100);
    daemon = sweep(daemon);
    let marked = server.number(&database, "SELECT count(*) FROM mailsluice.records WHERE settled");
    assert!(
        marked > 100
            && marked == server.number(&database, "SELECT count(*) FROM mailsluice.records WHERE settled AND outcome = 'deferred'")
    );
    as_the_slow_question(&server, &database, &daemon);
    eventually_within(CATCH_UP, "the gauge", gauge_of(&daemon, slow(&server, &database).len()));
    // More attempts at the same messages and at others, nobody having swept since.
    server.sql(&database, &attempts(300, 600, 2));
    as_the_slow_question(&server, &database, &daemon);

    // Tables of an older program: without marks, until `init` has added them; its boxes go on meanwhile.
    server.sql(
        &database,
        "DROP VIEW mailsluice.log, mailsluice.undelivered; ALTER TABLE mailsluice.records DROP COLUMN settled; \
         ALTER TABLE mailsluice.format DROP COLUMN revision, DROP COLUMN swept",
    );
    server.sql(&database, &attempts(500, 700, 3).replace("'settled', false,", ""));
    daemon = daemon.kill().restart();
    let expected = slow(&server, &database);
    assert_eq!(pages(&daemon, 50), expected);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"Subject: another\r\n\r\nx\r\n").starts("250 ");
    eventually_within(CATCH_UP, "the gauge without marks", gauge_of(&daemon, expected.len()));
    let doctor = || crate::support::daemon::cli(&["doctor", "--config", daemon.config_file().to_str().unwrap()]).out;
    let seen = doctor();
    assert!(seen.contains("tables of format 1.0") && seen.contains("run mailsluice fleet init"), "{seen}");
    server.init(&database).ok();
    let seen = doctor();
    assert!(seen.contains("tables of format 1.1") && !seen.contains("run mailsluice fleet init"), "{seen}");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"Subject: a third\r\n\r\nx\r\n").starts("250 ");
    as_the_slow_question(&server, &database, &daemon);
    let daemon = sweep(daemon);
    as_the_slow_question(&server, &database, &daemon);
}

fn gauge_of(daemon: &Daemon, count: usize) -> impl Fn() -> Option<()> {
    let line = format!("mailsluice_fleet_messages_undelivered {count}");
    move || daemon.admin.get("/metrics").text().contains(&line).then_some(())
}
