//! Boxes and tables of two versions.

use super::failures::said;
use super::server::Server;
use super::{CATCH_UP, all_arrived, send};
use crate::support::{Config, Daemon, Endpoint, eventually_within};

/// What an earlier version has made is told, loses nothing, and is brought up to date by `fleet init`, however often.
#[test]
fn tables_of_an_earlier_version() {
    let server = Server::start();
    let database = "earlier";
    server.sql("postgres", &format!("CREATE DATABASE {database}"));
    server.sql(database, include_str!("earlier.sql"));
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), database, "mx1"));
    send(&daemon, 20);
    said(&daemon, "an earlier version's: run mailsluice fleet init");
    assert_eq!(server.number(database, "SELECT count(*) FROM mailsluice.records"), 0);
    for _ in 0..2 {
        server.init(database).ok();
        send(&daemon, 20);
        all_arrived(&[("mx1", &daemon)]);
    }
}

/// Somebody who reads for long is in the way of new tables: it is said within the clock, nothing is made, and boxes go on.
#[test]
fn tables_that_cannot_be_made_now() {
    let server = Server::start();
    let database = server.fleet("busy");
    server.sql(&database, "ALTER TABLE mailsluice.format DROP COLUMN revision, DROP COLUMN swept");
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    send(&daemon, 20);
    all_arrived(&[("mx1", &daemon)]);
    let revision = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'mailsluice.format'::regclass AND attname = 'revision'";
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| server.try_sql(&database, "BEGIN; SELECT * FROM mailsluice.format; SELECT pg_sleep(600); COMMIT"));
        let reads = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        eventually_within(CATCH_UP, "somebody who reads", || (server.number("postgres", reads) == 1).then_some(()));
        let refused = server.init(&database);
        assert!(refused.code == Some(69) && refused.err.contains("lock timeout"), "{}", refused.err);
        server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
        reader.join().unwrap();
    });
    assert_eq!(server.number(&database, revision), 0);
    server.init(&database).ok();
    assert_eq!(server.number(&database, revision), 1);
    send(&daemon, 20);
    all_arrived(&[("mx1", &daemon)]);
}
