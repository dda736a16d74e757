//! What fails between a box and its fleet: mail goes on as ever, and afterwards every record is there once.

use super::server::Server;
use super::{CATCH_UP, all_arrived, is_full, one_box, records_of, send};
use crate::peers::large::{Mixture, write_store};
use crate::support::certificates::Authority;
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Config, Daemon, Endpoint, eventually, eventually_within, port};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Runs `work` while mail flows to the daemon; gives how many were acknowledged.
pub(super) fn under_load(daemon: &Daemon, work: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mail = scope.spawn(|| load::run(&Load { senders: 2, persistent: true, ..Load::new(daemon.smtp(), u64::MAX) }, &stop));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let outcome = mail.join().unwrap();
        done.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
        outcome.count(Some(250))
    })
}

pub(super) fn said(daemon: &Daemon, words: &str) {
    eventually_within(CATCH_UP, words, || daemon.log().contains(words).then_some(()));
}

#[test]
fn a_server_that_is_stopped_at_once_under_load() {
    let (server, database, _endpoint, daemon) = one_box("stopped");
    let mut brought = 0;
    let accepted = under_load(&daemon, || {
        for _ in 0..if is_full() { 20 } else { 2 } {
            let more = || Some(server.number(&database, "SELECT count(*) FROM mailsluice.records")).filter(|now| *now > brought);
            brought = eventually_within(CATCH_UP, "some more to arrive", more);
            server.stop_at_once();
            eventually("the daemon to see it", || {
                daemon.admin.get("/metrics").text().contains("mailsluice_fleet_up{sink=\"postgres\"} 0").then_some(())
            });
            server.begin();
        }
    });
    assert!(accepted > 50 && records_of(&daemon).len() >= accepted);
    all_arrived(&[("mx1", &daemon)]);
    said(&daemon, "the fleet's database cannot be used");
    said(&daemon, "the fleet's database is back");
}

/// A stranger in between: forwards all, and now and then lets the server answer to nobody.
struct Swallowing {
    port: u16,
    /// To the server the connection goes on, as behind a gateway that has forgotten it.
    lingers: Arc<AtomicBool>,
    wanted: Arc<AtomicU64>,
    swallowed: Arc<AtomicU64>,
}

impl Swallowing {
    fn before(server: u16) -> Self {
        let port = port::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (wanted, swallowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let lingers = Arc::new(AtomicBool::new(false));
        let this = Self { port, lingers: Arc::clone(&lingers), wanted: Arc::clone(&wanted), swallowed: Arc::clone(&swallowed) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (wanted, swallowed, lingers) = (Arc::clone(&wanted), Arc::clone(&swallowed), Arc::clone(&lingers));
                std::thread::spawn(move || {
                    let upstream = forward(client, upstream, &wanted, &swallowed);
                    if lingers.load(Ordering::Acquire) {
                        std::mem::forget(upstream);
                    } else {
                        drop(upstream.shutdown(std::net::Shutdown::Both));
                    }
                });
            }
        });
        this
    }
}

/// Gives back the way to the server when the client's is at its end.
fn forward(client: TcpStream, upstream: TcpStream, wanted: &AtomicU64, swallowed: &AtomicU64) -> TcpStream {
    let holds = Arc::new(AtomicBool::new(false));
    let answers = {
        let (mut from, mut to, holds) = (upstream.try_clone().unwrap(), client.try_clone().unwrap(), Arc::clone(&holds));
        std::thread::spawn(move || {
            let mut octets = [0; 16_384];
            while let Ok(n @ 1..) = from.read(&mut octets) {
                if holds.load(Ordering::Acquire) {
                    // It has answered, so it has committed; the other side hears a broken connection.
                    break;
                }
                if to.write_all(&octets[..n]).is_err() {
                    break;
                }
            }
            drop(to.shutdown(std::net::Shutdown::Both));
        })
    };
    let (mut from, mut to) = (client, upstream);
    let mut octets = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut octets) {
        let is_batch = octets[..n].windows(12).any(|window| window == b"\"webhook_id\"");
        if is_batch && wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            holds.store(true, Ordering::Release);
            swallowed.fetch_add(1, Ordering::AcqRel);
        }
        if to.write_all(&octets[..n]).is_err() {
            break;
        }
    }
    // A reader of answers that never come ends with the connection.
    drop(from.shutdown(std::net::Shutdown::Both));
    drop(answers);
    to
}

#[test]
fn the_answer_to_a_commit_is_swallowed() {
    let server = Server::start();
    let database = server.fleet("swallowed");
    let endpoint = Endpoint::ok();
    let proxy = Swallowing::before(server.port);
    let connection = format!("host=127.0.0.1 port={} user=mailsluice dbname={database} sslmode=disable", proxy.port);
    let daemon = Daemon::start(server.boxed_by(Config::to(&endpoint), &connection, "mx1"));
    let times = if is_full() { 100 } else { 4 };
    under_load(&daemon, || {
        for round in 1..=times {
            proxy.wanted.store(1, Ordering::Release);
            eventually_within(CATCH_UP, "an answer to be swallowed", || (proxy.swallowed.load(Ordering::Acquire) >= round).then_some(()));
        }
    });
    // A connection that the server takes for alive is the daemon's own, and no copy of its store.
    proxy.lingers.store(true, Ordering::Release);
    under_load(&daemon, || {
        let before = server.number(&database, "SELECT count(*) FROM mailsluice.records");
        proxy.wanted.store(1, Ordering::Release);
        eventually_within(CATCH_UP, "one more", || (proxy.swallowed.load(Ordering::Acquire) > times).then_some(()));
        eventually_within(CATCH_UP, "records behind it", || {
            (server.number(&database, "SELECT count(*) FROM mailsluice.records") > before + 50).then_some(())
        });
    });
    all_arrived(&[("mx1", &daemon)]);
    assert!(!daemon.log().contains("store was copied") && !daemon.log().contains("brought again"), "{}", daemon.log());
    println!("{} answers to COMMIT were swallowed", proxy.swallowed.load(Ordering::Acquire));
}

#[test]
fn a_box_that_is_killed_while_it_brings_its_records() {
    let (server, database, _endpoint, mut daemon) = one_box("killed");
    let mut brought = 0;
    for _ in 0..if is_full() { 200 } else { 3 } {
        under_load(&daemon, || {
            let more = || Some(server.number(&database, "SELECT count(*) FROM mailsluice.records")).filter(|now| *now > brought);
            brought = eventually_within(CATCH_UP, "some more to arrive", more);
        });
        daemon = daemon.kill().restart();
    }
    all_arrived(&[("mx1", &daemon)]);
    assert!(records_of(&daemon).len() as u64 >= brought);
}

/// Something that keeps records away, and its end.
struct Fault<'a> {
    name: &'static str,
    begin: Box<dyn Fn() + 'a>,
    end: Box<dyn Fn() + 'a>,
}

impl<'a> Fault<'a> {
    fn new(name: &'static str, begin: impl Fn() + 'a, end: impl Fn() + 'a) -> Self {
        Self { name, begin: Box::new(begin), end: Box::new(end) }
    }
}

/// The certificate that the server shows to whoever comes from now on, or from its next start on.
pub(super) fn show(server: &Server, authority: &Authority, name: &str) {
    let (chain, key) = authority.issue(&[name]);
    for (file, text) in [("server.crt", chain), ("server.key", key)] {
        let path = server.data().join(file);
        std::fs::write(&path, text).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.data()).unwrap());
        nix::unistd::chown(&path, Some(owner.into()), None).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    // It is told, and takes it up when it comes to it.
    let loaded = || server.try_sql("postgres", "SELECT pg_conf_load_time()").out;
    let before = loaded();
    if server.try_sql("postgres", "SELECT pg_reload_conf()").code == Some(0) {
        eventually_within(CATCH_UP, "the new certificate", || (loaded() != before).then_some(()));
    }
}

/// Each fault: mail is taken as ever, and what came meanwhile arrives when it is mended.
#[test]
fn whatever_keeps_the_database_from_taking_records() {
    let server = Server::start();
    let database = server.fleet("kept_away");
    let endpoint = Endpoint::ok();
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new(), Authority::new());
    std::fs::write(dir.path().join("ca.pem"), &ours.pem).unwrap();
    show(&server, &ours, "localhost");
    server.set(&[("ssl", "on"), ("password_encryption", "'scram-sha-256'")]);
    server.sql("postgres", "ALTER ROLE mailsluice PASSWORD 'first'");
    std::fs::write(server.data().join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    server.stop_at_once();
    server.begin();
    let file = dir.path().join("connection");
    let connection = |host: &str, password: &str| {
        let text = format!("host={host} port={} user=mailsluice dbname={database} password={password}\n", server.port);
        std::fs::write(&file, text).unwrap();
    };
    connection("localhost", "first");
    let config = Config::to(&endpoint)
        .set("fleet.postgres_file", file.to_str().unwrap())
        .set("fleet.box", "mx1")
        .set("fleet.ca_certificate", dir.path().join("ca.pem").to_str().unwrap())
        .set("forward.id_secret", super::server::ID_SECRET);
    let daemon = Daemon::start(config);
    send(&daemon, 5);
    all_arrived(&[("mx1", &daemon)]);
    let alter = |what: &str| drop(server.sql(&database, what));
    let today = server.sql(&database, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')");
    let first_id = |day: i64| {
        let date = format!("date_trunc('day', now() AT TIME ZONE 'UTC') + {day} * interval '1 day'");
        server.sql(
            &database,
            &format!("SELECT (lpad(to_hex((extract(epoch FROM {date}) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid"),
        )
    };
    let faults = [
        Fault::new("password", || alter("ALTER ROLE mailsluice PASSWORD 'second'"), || connection("localhost", "second")),
        Fault::new("name", || connection("db.invalid", "second"), || connection("localhost", "second")),
        Fault::new("certificate", || show(&server, &others, "localhost"), || show(&server, &ours, "localhost")),
        Fault::new("certificate's name", || show(&server, &ours, "db.example"), || show(&server, &ours, "localhost")),
        Fault::new(
            "read-only",
            || drop(server.sql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"))),
            || drop(server.sql("postgres", &format!("ALTER DATABASE {database} RESET default_transaction_read_only"))),
        ),
        Fault::new(
            "a partition that is not there",
            || {
                alter(&format!(
                    "ALTER TABLE mailsluice.records DETACH PARTITION mailsluice.records_{today}; ALTER TABLE mailsluice.records DETACH PARTITION mailsluice.records_other"
                ))
            },
            || {
                alter(&format!(
                    "ALTER TABLE mailsluice.records ATTACH PARTITION mailsluice.records_other DEFAULT; ALTER TABLE mailsluice.records ATTACH PARTITION mailsluice.records_{today} FOR VALUES FROM ('{}') TO ('{}')",
                    first_id(0),
                    first_id(1)
                ))
            },
        ),
        Fault::new(
            "rights",
            || alter("REVOKE INSERT ON mailsluice.records FROM mailsluice_writer; REVOKE mailsluice_owner FROM mailsluice_writer"),
            || alter("GRANT INSERT ON mailsluice.records TO mailsluice_writer; GRANT mailsluice_owner TO mailsluice_writer"),
        ),
    ];
    for Fault { name, begin, end } in &faults {
        begin();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mailsluice'";
        server.try_sql("postgres", cut);
        send(&daemon, 20);
        let down = || daemon.admin.get("/metrics").text().contains("mailsluice_fleet_up{sink=\"postgres\"} 0").then_some(());
        eventually_within(CATCH_UP, &format!("{name}: the daemon to see it"), down);
        let said = || daemon.admin.get("/notices").text().contains("the fleet's database").then_some(());
        eventually_within(CATCH_UP, &format!("{name}: a notice"), said);
        end();
        let up = || daemon.admin.get("/metrics").text().contains("mailsluice_fleet_behind_records 0").then_some(());
        eventually_within(CATCH_UP, &format!("{name}: it is caught up with"), up);
    }
    all_arrived(&[("mx1", &daemon)]);
    assert_eq!(records_of(&daemon).len(), 5 + 20 * faults.len());
    assert!(!daemon.log().contains("second"), "no password is in the log");
}

/// A text that PostgreSQL has no form for costs its own letter, and none of the records beside it.
#[test]
fn a_record_that_is_refused_is_mended_alone() {
    let server = Server::start();
    let database = server.fleet("mended");
    let endpoint = Endpoint::with(|request| match load::id_of(request) % 7 {
        0 => Answer::text(422, "zero: \0."),
        _ => Answer::status(200),
    })
    .start();
    let daemon = Daemon::start(Config::to(&endpoint).set("forward.breaker.failures", 0).set("forward.id_secret", super::server::ID_SECRET));
    send(&daemon, 40);
    let expected =
        records_of(&daemon).values().filter(|record| record["server_response"]["body"].as_str().unwrap().contains('\0')).count() as u64;
    assert!(expected > 3, "{expected}");
    let mut daemon = daemon;
    daemon.reload(server.boxed(Config::to(&endpoint), &database, "mx1"));
    eventually_within(CATCH_UP, "all records", || {
        (server.try_sql(&database, "SELECT count(*) FROM mailsluice.records").out.trim() == "40").then_some(())
    });
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.records WHERE response_body LIKE 'zero: \u{fffd}.%'"), expected);
    eventually_within(CATCH_UP, "the count", || {
        (server.number(&database, "SELECT mended FROM mailsluice.boxes") == expected).then_some(())
    });
    assert_eq!(server.number(&database, "SELECT lost FROM mailsluice.boxes"), 0);
    // Who asks for that letter is answered, whatever the filter.
    for filter in ["text=zero:%20%00", "sender=a%00b@c.test", "recipient=%00", "message_id=%00", "route=%00", "webhook_id=%00"] {
        let answer = daemon.admin.get(&format!("/records?fleet=1&{filter}"));
        assert_eq!(answer.status, 200, "{filter}: {}", answer.text());
        let found = answer.json()["records"].as_array().unwrap().len() as u64;
        assert_eq!(found, if filter.starts_with("text") { expected } else { 0 }, "{filter}");
    }
}

#[test]
fn who_does_not_belong_to_the_fleet_brings_nothing() {
    let (server, database, endpoint, first) = one_box("strangers");
    send(&first, 3);
    all_arrived(&[("mx1", &first)]);
    // A copied store, beside the one it was copied from.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(first.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let copied = Daemon::start_in(Arc::new(copy), server.boxed(Config::to(&endpoint), &database, "mx1"));
    send(&copied, 2);
    said(&copied, "its store was copied");
    // Another id_secret, and tables of a newer program.
    let other = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx2").set("forward.id_secret", "another one"));
    said(&other, "forward.id_secret is another one than the fleet's");
    assert!(other.admin.get("/notices").text().contains("forward.id_secret"));
    server.sql(&database, "UPDATE mailsluice.format SET version = 2");
    let older = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx3"));
    said(&older, "upgrade this box");
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.records"), 3);
    assert_eq!(server.sql(&database, "SELECT string_agg(name, ',') FROM mailsluice.boxes"), "mx1");
    server.sql(&database, "UPDATE mailsluice.format SET version = 1");
    // Without the first the copy speaks for the box.
    drop(first);
    eventually_within(CATCH_UP, "the copy's records", || {
        (server.number(&database, "SELECT count(*) FROM mailsluice.records") == 5).then_some(())
    });
}

/// Yesterday's copy of a store: what it brings again is passed over, what is new is new.
#[test]
fn a_box_restored_from_a_copy() {
    let server = Server::start();
    let database = server.fleet("restored");
    let endpoint = Endpoint::ok();
    let config = server.boxed(Config::to(&endpoint), &database, "mx1");
    let daemon = Daemon::start(config.clone());
    send(&daemon, 10);
    all_arrived(&[("mx1", &daemon)]);
    let dir = daemon.shared_dir();
    assert_eq!(daemon.stop().code, Some(0));
    let copy = tempfile::tempdir().unwrap();
    let files = |from: &std::path::Path, to: &std::path::Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    files(dir.path(), copy.path());
    let daemon = Daemon::start_in(dir, config.clone());
    send(&daemon, 10);
    all_arrived(&[("mx1", &daemon)]);
    assert_eq!(daemon.stop().code, Some(0));
    let restored = Daemon::start_in(Arc::new(copy), config);
    send(&restored, 5);
    eventually_within(CATCH_UP, "the new ones", || {
        (server.number(&database, "SELECT count(*) FROM mailsluice.records") == 25).then_some(())
    });
    assert_eq!(deliver(restored.smtp(), "a@sender.test", &["b@example.test"], b"Subject: one more\r\n\r\nx\r\n").code, 250);
    eventually_within(CATCH_UP, "one more", || (server.number(&database, "SELECT count(*) FROM mailsluice.records") == 26).then_some(()));
}

/// The database is made anew, or from a copy of before: it has again all that the boxes have, and what was erased meanwhile is erased there.
#[test]
fn a_database_that_is_restored_from_a_copy() {
    let (server, database, _endpoint, daemon) = one_box("went_back");
    let gone = "gone@example.test";
    deliver(daemon.smtp(), "a@sender.test", &[gone], b"Subject: one\r\n\r\nx\r\n").starts("250 ");
    send(&daemon, 10);
    all_arrived(&[("mx1", &daemon)]);
    let copy = server.dump(&database);
    send(&daemon, 20);
    daemon.cli(&["forget", "--address", gone]).ok();
    let named = || server.number(&database, &format!("SELECT count(*) FROM mailsluice.records r WHERE r::text LIKE '%{gone}%'"));
    eventually_within(CATCH_UP, "it is erased there", || (named() == 0).then_some(()));
    all_arrived(&[("mx1", &daemon)]);
    under_load(&daemon, || {
        server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        server.restore(&database, &copy);
        said(&daemon, "as if restored from a copy");
    });
    // The copy has the address again, until what was erased since is brought too.
    eventually_within(CATCH_UP, "it is erased there again", || (named() == 0).then_some(()));
    all_arrived(&[("mx1", &daemon)]);
    assert_eq!(named(), 0);
    server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
    server.fleet(&database);
    said(&daemon, "does not know this box");
    send(&daemon, 10);
    all_arrived(&[("mx1", &daemon)]);
    // That is said of nothing else: not of a database that was stopped, nor of a daemon that was.
    let daemon = daemon.kill();
    server.stop_at_once();
    server.begin();
    let daemon = daemon.restart();
    send(&daemon, 10);
    all_arrived(&[("mx1", &daemon)]);
    assert!(!daemon.log().contains("brought again"), "{}", daemon.log());
}

/// A page above the leaves goes bad before its records were brought. The store makes that file anew, and nothing of it was passed over.
#[test]
fn a_file_that_is_salvaged_before_its_records_were_brought() {
    const RECORDS: u64 = 800;
    let server = Server::start();
    let database = server.fleet("salvaged");
    let (endpoint, dir) = (Endpoint::ok(), Arc::new(tempfile::tempdir().unwrap()));
    write_store(&dir.path().join("records.redb"), RECORDS, &Mixture { days: 1, put_off_each: 50 });
    let daemon = Daemon::start_in(Arc::clone(&dir), Config::to(&endpoint));
    eventually_within(CATCH_UP, "the store's own form", || (records_of(&daemon).len() as u64 == RECORDS).then_some(()));
    assert_eq!(daemon.stop().code, Some(0));
    let mut damaged = 0;
    for path in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.strip_prefix("records.redb.").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            continue;
        }
        // A branch has a checksum of 16 octets for each child, and then a number of 8: the first child becomes the last.
        let mut octets = std::fs::read(&path).unwrap();
        for page in (0..octets.len()).step_by(4096) {
            let last = usize::from(u16::from_le_bytes([octets[page + 2], octets[page + 3]]));
            let children = page + 8 + 16 * (last + 1);
            if octets[page] == 2 && last > 0 && children + 8 * last + 8 <= page + 4096 {
                octets.copy_within(children + 8 * last..children + 8 * last + 8, children);
                damaged += 1;
            }
        }
        std::fs::write(path, octets).unwrap();
    }
    assert!(damaged > 0, "no page was hit");
    let daemon = Daemon::start_in(dir, server.boxed(Config::to(&endpoint), &database, "mx1"));
    send(&daemon, 20);
    eventually_within(CATCH_UP, "all records of the box", || (records_of(&daemon).len() as u64 == RECORDS + 20).then_some(()));
    assert!(daemon.log().contains("what could be read of a damaged file is kept"), "{}", daemon.log());
    all_arrived(&[("mx1", &daemon)]);
    assert_eq!(server.number(&database, "SELECT lost FROM mailsluice.boxes"), 0);
}

/// Somebody reads all for an hour, as a dump does, and a day is to go: records are brought meanwhile.
#[test]
fn a_lock_that_keeps_an_old_day() {
    let server = Server::start();
    let database = server.fleet("read_for_long");
    let endpoint = Endpoint::ok();
    let old = "CREATE TABLE mailsluice.records_20200101 PARTITION OF mailsluice.records FOR VALUES FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')";
    server.sql(&database, &format!("SET ROLE mailsluice_owner; {old}"));
    let is_held = || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND state = 'active'";
        (server.number("postgres", count) == 1).then_some(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| server.try_sql(&database, "BEGIN; LOCK TABLE mailsluice.records IN ACCESS SHARE MODE; SELECT pg_sleep(60)"));
        eventually_within(CATCH_UP, "a long reader", is_held);
        let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
        send(&daemon, 20);
        said(&daemon, "partitions could not be looked after");
        all_arrived(&[("mx1", &daemon)]);
        assert!(!server.sql(&database, "SELECT to_regclass('mailsluice.records_20200101')").is_empty());
        server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'");
    });
}

/// A database whose letters are not all letters is refused before it loses one.
#[test]
fn a_database_in_another_encoding() {
    let server = Server::start();
    for (name, encoding) in [("octets", "SQL_ASCII"), ("latin", "LATIN1")] {
        server.sql("postgres", &format!("CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"));
        let failed = server.init(name);
        assert!(failed.code == Some(69) && failed.err.contains("--encoding=UTF8"), "{}{}", failed.out, failed.err);
        assert_eq!(server.number(name, "SELECT count(*) FROM pg_namespace WHERE nspname = 'mailsluice'"), 0);
    }
}
