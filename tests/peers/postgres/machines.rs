//! The server's machine fails: its cable, its disk. Skipped by name where the tests do not run as root.

use super::failures::{said, show, under_load};
use super::server::{Cable, ID_SECRET, Server};
use super::{CATCH_UP, all_arrived, is_full, records_of, send};
use crate::support::certificates::Authority;
use crate::support::small_disk::SmallDisk;
use crate::support::{Config, Daemon, Endpoint, eventually, eventually_within};
use std::time::{Duration, Instant};

fn has(daemon: &Daemon, line: &str) -> Option<()> {
    daemon.admin.get("/metrics").text().contains(line).then_some(())
}

/// Nothing says that nobody is there any more: only a clock does. Mail goes on meanwhile, and every record arrives once.
#[test]
fn a_cable_that_is_pulled_out() {
    let server = Server::start_behind_a_cable();
    let database = server.fleet("cut");
    let (endpoint, authority, dir) = (Endpoint::ok(), Authority::new(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    show(&server, &authority, Cable::SERVER);
    std::fs::write(server.data().join("pg_hba.conf"), "local all all trust\nhostssl all all 198.18.77.1/32 trust\n").unwrap();
    server.set(&[("ssl", "on")]);
    server.stop_at_once();
    server.begin();
    let connection = format!("host={} port={} user=mailsluice dbname={database}", Cable::SERVER, server.port);
    let config = Config::to(&endpoint)
        .set("fleet.postgres", connection)
        .set("fleet.box", "mx1")
        .set("fleet.ca_certificate", dir.path().join("ca.pem").to_str().unwrap())
        .set("forward.id_secret", ID_SECRET);
    let daemon = Daemon::start(config);
    let accepted = under_load(&daemon, || {
        eventually_within(CATCH_UP, "the first records", || {
            (server.number(&database, "SELECT count(*) FROM mailsluice.records") > 50).then_some(())
        });
        server.cable().plug(false);
        let (pulled, before) = (Instant::now(), endpoint.count());
        let away = Duration::from_secs(if is_full() { 20 } else { 2 });
        eventually_within(away * 3, "mail that goes on without the fleet", || {
            (pulled.elapsed() >= away && endpoint.count() > before + 50).then_some(())
        });
        server.cable().plug(true);
        eventually_within(CATCH_UP, "more records", || {
            let all = server.number(&database, "SELECT count(*) FROM mailsluice.records");
            (all > u64::try_from(before).unwrap() + 50).then_some(())
        });
    });
    assert!(accepted > 100 && records_of(&daemon).len() >= accepted);
    all_arrived(&[("mx1", &daemon)]);
}

#[test]
fn a_disk_of_the_server_that_is_full() {
    let server = Server::start();
    let database = server.fleet("full_disk");
    let disk = SmallDisk::new(32);
    let tables = disk.path("tables");
    std::fs::create_dir(&tables).unwrap();
    let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
    nix::unistd::chown(&tables, Some(user.uid), Some(user.gid)).unwrap();
    std::fs::set_permissions(disk.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", tables.display()));
    server.sql("postgres", &format!("ALTER DATABASE {database} SET TABLESPACE small"));
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    send(&daemon, 5);
    all_arrived(&[("mx1", &daemon)]);
    let accepted = under_load(&daemon, || {
        let filler = disk.fill();
        eventually_within(CATCH_UP, "the daemon to see it", || has(&daemon, "mailsluice_fleet_up{sink=\"postgres\"} 0"));
        let notices = daemon.admin.get("/notices").text();
        assert!(notices.contains("No space left on device"), "{notices}");
        let before = endpoint.count();
        eventually("mail that goes on", || (endpoint.count() > before + 50).then_some(()));
        std::fs::remove_file(filler).unwrap();
        eventually_within(CATCH_UP, "the daemon to go on", || has(&daemon, "mailsluice_fleet_up{sink=\"postgres\"} 1"));
    });
    said(&daemon, "the fleet's database is back");
    all_arrived(&[("mx1", &daemon)]);
    assert!(records_of(&daemon).len() >= accepted + 5);
    // The server gives up its files before their file system goes.
    server.stop_at_once();
}

/// A box that cannot erase says so where all can read it, and goes on when it can.
#[test]
fn a_disk_of_a_box_that_is_full_when_it_has_to_erase() {
    let server = Server::start();
    let database = server.fleet("full_box");
    let (endpoint, disk) = (Endpoint::ok(), SmallDisk::new(24));
    let first = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    let config = Config::to(&endpoint).set("store.path", disk.path("records.redb").to_str().unwrap());
    let second = Daemon::start(server.boxed(config, &database, "mx2"));
    for daemon in [&first, &second] {
        send(daemon, 50);
    }
    all_arrived(&[("mx1", &first), ("mx2", &second)]);
    let filler = disk.fill();
    let failed = first.cli(&["forget", "--fleet", "--address", "bob@example.test"]);
    assert_eq!(failed.code, Some(69), "{}{}", failed.out, failed.err);
    assert!(failed.err.contains("is not done: mx2 cannot erase it from its store"), "{}", failed.err);
    std::fs::remove_file(filler).unwrap();
    let done = "SELECT count(*) FROM mailsluice.erasures WHERE done IS NOT NULL AND trouble IS NULL AND address IS NULL";
    eventually_within(CATCH_UP, "the erasure to go on by itself", || (server.number(&database, done) == 1).then_some(()));
    let said = second.log().matches("is still in the store").count();
    assert!(said >= 1, "{}", second.log());
    for daemon in [&first, &second] {
        assert_eq!(daemon.cli(&["export", "--fleet", "--address", "bob@example.test"]).ok(), "");
    }
}
