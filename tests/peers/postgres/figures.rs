//! What a fleet costs, and how long its questions take: figures for `packaging/docs/fleet.md`. By hand only, of a release build, on a machine at rest:
//!
//! ```text
//! cargo test --release --test main -- --ignored --nocapture peers::postgres::figures
//! ```

use super::server::{ID_SECRET, Server};
use super::{all_arrived, send};
use crate::peers::large::{Mixture, write_store};
use crate::support::client::{Client, stuffed};
use crate::support::load;
use crate::support::{Config, Daemon, Endpoint, eventually_within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(900);

fn from_environment<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Processor time of the fleet's own thread, and of all others.
fn processor_time(daemon: &Daemon) -> [Duration; 2] {
    let mut found = [Duration::ZERO; 2];
    for entry in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name));
        // A thread may end meanwhile.
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else { continue };
        let time = times.split_whitespace().next().unwrap().parse().unwrap();
        found[usize::from(name.trim() != "fleet")] += Duration::from_nanos(time);
    }
    found
}

/// Senders that do not wait for each other: so many messages a second in all, each sender in its own time.
fn at_a_rate(daemon: &Daemon, senders: u32, per_second: u32, time: Duration) -> Vec<Duration> {
    let pause = Duration::from_secs(1) * senders / per_second;
    let begun = Instant::now();
    let sender = |number: u32| {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        let (mut next, mut times) = (begun + pause * number / senders, Vec::new());
        while next < begun + time {
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            if Instant::now() < next {
                continue;
            }
            next += pause;
            client.send("MAIL FROM:<load@sender.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n");
            assert_eq!([(); 3].map(|()| client.reply().code), [250, 250, 354]);
            let octets = stuffed(&load::message(u64::from(number), 3000));
            let sent = Instant::now();
            client.send(octets);
            assert_eq!(client.reply().code, 250);
            times.push(sent.elapsed());
        }
        times
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..senders).map(|number| scope.spawn(move || sender(number))).collect();
        running.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    })
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    #[expect(clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index into a list of times")]
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
    times[at - 1]
}

/// Two daemons of each kind, asked in turns: without a fleet, with its database up, and down. `ASIDE=1`: the database takes nothing of the
/// processors and the disk that mail wants.
#[test]
#[ignore = "minutes, on a machine at rest"]
fn the_hot_path_beside_a_fleet() {
    let rounds: u32 = from_environment("ROUNDS", 8);
    let server = if std::env::var_os("ASIDE").is_some() { Server::start_aside() } else { Server::start() };
    let database = server.fleet("beside");
    let endpoint = Endpoint::ok();
    let alone = || Config::to(&endpoint).set("forward.id_secret", ID_SECRET).set("smtp.max_messages_per_connection", 1_000_000);
    let down = format!("host=127.0.0.1 port={} user=mailsluice dbname={database} sslmode=disable", crate::support::port::free());
    let names = ["without", "without", "database up", "database up", "database down", "database down"];
    let daemons: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| match *name {
            "database up" => server.boxed(alone(), &database, &format!("mx{number}")),
            "database down" => server.boxed_by(alone(), &down, &format!("mx{number}")),
            _ => alone(),
        })
        .map(Daemon::start)
        .collect();
    let mut seen: Vec<_> = daemons.iter().map(|_| ([Duration::ZERO; 2], Vec::new(), Vec::new())).collect();
    for round in 0..=rounds {
        for turn in 0..daemons.len() {
            // Another one is the first each time.
            let one = (turn + round as usize) % daemons.len();
            let before = processor_time(&daemons[one]);
            let times = at_a_rate(&daemons[one], 4, 400, Duration::from_millis(3000));
            let after = processor_time(&daemons[one]);
            // The first round warms up.
            if round > 0 {
                let (spent, all, each) = &mut seen[one];
                (0..2).for_each(|who| spent[who] += after[who] - before[who]);
                each.push(quantile(&mut times.clone(), 0.99));
                all.extend(times);
            }
        }
    }
    println!("processor time a message (the fleet's thread apart); p50, p99 of all, median of the rounds' p99");
    for (name, (spent, mut all, mut each)) in names.iter().zip(seen) {
        let messages = u32::try_from(all.len()).unwrap();
        let (p50, p99, rounds) = (quantile(&mut all, 0.5), quantile(&mut all, 0.99), quantile(&mut each, 0.5));
        println!(
            "{name:14} {:.1?} ({:.1?}); {p50:.2?}, {p99:.2?}, {rounds:.2?}; {messages} messages",
            spent[1] / messages,
            spent[0] / messages
        );
    }
}

/// A database that is away while a store grows: the same memory as without a fleet, also while it is caught up with.
#[test]
#[ignore = "minutes"]
fn memory_over_an_outage() {
    const STEPS: u64 = 4;
    let messages: u64 = from_environment("RECORDS", 200_000);
    let server = Server::start();
    let database = server.fleet("outage");
    let endpoint = Endpoint::ok();
    let alone = Daemon::start(Config::to(&endpoint));
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    let show = |when: &str| println!("{when}: {} KiB without a fleet, {} KiB with one", alone.rss() >> 10, daemon.rss() >> 10);
    for one in [&alone, &daemon] {
        send(one, 1000);
    }
    all_arrived(&[("mx1", &daemon)]);
    show("before");
    server.stop_at_once();
    for step in 1..=STEPS {
        send(&alone, messages / STEPS);
        send(&daemon, messages / STEPS);
        show(&format!("{} messages", messages * step / STEPS));
    }
    server.begin();
    let begun = Instant::now();
    let (stop, mut most) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = daemon.rss().max(most);
                std::thread::park_timeout(Duration::from_millis(50));
            }
            most
        });
        let level = || daemon.admin.get("/metrics").text().contains("mailsluice_fleet_behind_records 0").then_some(());
        eventually_within(LONG, "it is caught up with", level);
        stop.store(true, Ordering::Relaxed);
        most = watching.join().unwrap();
    });
    println!("caught up with after {:.1?}, {} KiB at the most meanwhile", begun.elapsed(), most >> 10);
    show("after");
    let [rows, boxes] = ["records", "boxes"].map(|table| server.number(&database, &format!("SELECT count(*) FROM mailsluice.{table}")));
    assert_eq!((rows, boxes), (messages + 1000, 1));
}

const DELIVERED_SINCE: &str = "INSERT INTO mailsluice.records SELECT (n).* FROM (SELECT jsonb_populate_record(x.r, jsonb_build_object(\
    'id', left((x.r).id::text, 18) || '-ffff-' || right((x.r).id::text, 12), 'outcome', 'delivered')) AS n \
    FROM (SELECT r, row_number() OVER (ORDER BY id DESC) AS place FROM mailsluice.records r WHERE outcome = 'deferred') x WHERE place > 100) y";

/// Half a million records in a box and in the fleet's database: the same questions to both.
#[test]
#[ignore = "minutes"]
fn questions_beside_those_to_one_box() {
    let records: u64 = from_environment("RECORDS", 500_000);
    let server = Server::start();
    server.set(&[("shared_buffers", "'512MB'")]);
    server.stop_at_once();
    server.begin();
    let endpoint = Endpoint::ok();
    for days in [1, 20] {
        let database = server.fleet(&format!("days_{days}"));
        let dir = Arc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        write_store(&dir.path().join("records.redb"), records, &Mixture { days, put_off_each: 50 });
        let daemon = Daemon::start_in(dir, server.boxed(Config::to(&endpoint), &database, "mx1"));
        let brought = || (server.number(&database, "SELECT count(*) FROM mailsluice.records") == records).then_some(());
        let begun = Instant::now();
        eventually_within(LONG, "all records in the database", brought);
        let octets = server.number(&database, "SELECT pg_database_size(current_database())");
        println!("{records} records of {days} days, brought in {:.1?}, {} octets each", begun.elapsed(), octets / records);
        let middle = records / 2;
        let show = |question: &str| {
            let ask = |more: &str| {
                let mut times: Vec<_> = (0..15)
                    .map(|_| {
                        let begun = Instant::now();
                        assert!(daemon.admin.get(&format!("{question}{more}")).text().contains("@example.com"), "{question}");
                        begun.elapsed()
                    })
                    .collect();
                times.sort_unstable();
                format!("{:.1?} ({:.1?} to {:.1?})", times[7], times[0], times[14])
            };
            println!("{question}: one box {}, the fleet {}", ask(""), ask("&fleet=1"));
        };
        for question in [
            "/undelivered?limit=100",
            "/undelivered?limit=1000",
            &format!("/records?sender=bounce-{middle}@sender.example"),
            &format!("/records?recipient=ticket%2B{middle}@example.com"),
            "/records?recipient=team-7@example.com&limit=100",
            "/records?limit=100",
            "/records?undelivered=1&limit=100",
            "/records?outcome=deferred&limit=100",
        ] {
            show(question);
        }
        // Of what was put off all but a hundred were delivered since, on another box.
        server.sql(&database, DELIVERED_SINCE);
        println!("all but a hundred delivered since, and nobody has looked yet");
        show("/undelivered?limit=100");
        let is_marked = || {
            (server.number(&database, "SELECT count(*) FROM mailsluice.records WHERE outcome = 'deferred' AND NOT settled") == 100)
                .then_some(())
        };
        eventually_within(LONG, "a sweep", is_marked);
        println!("it is marked");
        show("/undelivered?limit=100");
    }
}
