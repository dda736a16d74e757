//! What do 1, 1 000, 10 000 and 100 000 routes cost: `check`, start, memory, `/metrics`, a reload of one changed file and what mail feels of
//! it, a recipient that matches and one that does not? Prints a table, and draws `benches/routes.svg`.
//!
//! All of it is the daemon's processor time, as far as it is time, and the least of several runs, since the machine may be busy; mail's p99 is
//! a median of runs with and without reloads in turn.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use daemon::{Client, Daemon, binary, endpoint};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike as _;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const COUNTS: [usize; 4] = [1, 1000, 10_000, 100_000];
const OF_FILE: usize = 1000;
const ROUNDS: usize = 5;
const RECIPIENTS: usize = 100;
const TRANSACTIONS: usize = 200;
/// So many refused ones are borne on one connection.
const OF_CONNECTION: usize = 8;
/// Of mail beside reloads, and without.
const SPAN: Duration = Duration::from_secs(3);

/// A glob, a URL and a domain a route. `version` changes what it says; `more` routes are at its end.
fn write_file(dir: &Path, file: usize, routes: usize, to: SocketAddr, version: usize, more: usize) {
    let mut text = String::new();
    let own = file * OF_FILE..(file * OF_FILE + OF_FILE).min(routes);
    for number in own.chain(routes..routes + more) {
        writeln!(
            text,
            "[[route]]\nname = \"r{number}\"\nrecipients = [\"*@d{number}.example\"]\nurl = \"http://{to}/in/{number}?v={version}\"\nformat = \"rfc822\""
        )
        .unwrap();
    }
    let (new, name) = (dir.join("new"), dir.join(format!("{file:03}.toml")));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, name).unwrap();
}

/// What of a run is kept.
#[derive(Default)]
struct Row {
    routes: usize,
    check: Duration,
    start: Duration,
    memory: u64,
    metrics: usize,
    reload: Duration,
    reload_took: Duration,
    added: Duration,
    removed: Duration,
    matching: Duration,
    unknown: Duration,
    quiet: [Duration; 2],
    beside: [Duration; 2],
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds().try_into().unwrap())
}

fn check(dir: &Path) -> Duration {
    let before = children_cpu();
    let checked = Command::new(binary()).args(["check", "--config"]).arg(dir.join("mailsluice.toml")).stdout(Stdio::null()).status();
    assert!(checked.unwrap().success());
    children_cpu() - before
}

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn metrics(daemon: &Daemon) -> usize {
    let mut stream = TcpStream::connect(daemon.admin).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.admin).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    answer.len()
}

fn reloads(daemon: &Daemon) -> usize {
    std::fs::read_to_string(daemon.dir.path().join("log")).unwrap().matches("configuration reloaded").count()
}

/// Until it is in use; processor time and the wall's.
fn reload(daemon: &Daemon) -> (Duration, Duration) {
    let (done, cpu, begun) = (reloads(daemon), daemon.cpu(), Instant::now());
    kill(daemon.pid(), Signal::SIGHUP).unwrap();
    while reloads(daemon) == done {
        assert!(begun.elapsed() < Duration::from_secs(60), "no reload");
        thread::sleep(Duration::from_millis(1));
    }
    (daemon.cpu() - cpu, begun.elapsed())
}

/// The daemon's processor time for one `RCPT TO`, with all that belongs to it.
fn recipient(daemon: &Daemon, reply: &str, mailbox: impl Fn(usize, usize) -> String) -> Duration {
    let mut clients: Vec<_> = (0..TRANSACTIONS / OF_CONNECTION).map(|_| Client::connect(daemon.smtp)).collect();
    let before = daemon.cpu();
    for transaction in 0..TRANSACTIONS {
        let client = &mut clients[transaction / OF_CONNECTION];
        let mut commands = "MAIL FROM:<bob@example.org>\r\n".to_owned();
        (0..RECIPIENTS).for_each(|number| write!(commands, "RCPT TO:<{}>\r\n", mailbox(transaction, number)).unwrap());
        commands.push_str("RSET\r\n");
        client.say(commands.as_bytes());
        client.expect("250");
        (0..RECIPIENTS).for_each(|_| client.expect(reply));
        client.expect("250");
    }
    (daemon.cpu() - before) / u32::try_from(TRANSACTIONS * RECIPIENTS).unwrap()
}

/// Median and 99th percentile of what one connection waits for its replies.
fn mail(daemon: &Daemon, to: &str) -> [Duration; 2] {
    let mut data = support::plain(4096);
    data.extend_from_slice(b".\r\n");
    let mut client = Client::connect(daemon.smtp);
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < SPAN {
        let sent = Instant::now();
        client.send(to, &data);
        took.push(sent.elapsed());
    }
    took.sort_unstable();
    [took[took.len() / 2], took[took.len() * 99 / 100]]
}

fn median(mut of: Vec<[Duration; 2]>) -> [Duration; 2] {
    [0, 1].map(|at| {
        of.sort_by_key(|both| both[at]);
        of[of.len() / 2][at]
    })
}

fn measure(routes: usize, to: SocketAddr) -> Row {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = dir.path().join("routes.d");
    std::fs::create_dir(&folder).unwrap();
    (0..routes.div_ceil(OF_FILE)).for_each(|file| write_file(&folder, file, routes, to, 0, 0));
    // A file that was written a moment ago is read again: its time says little yet.
    thread::sleep(Duration::from_secs(3));
    let daemon = Daemon::start(dir, "include = [\"routes.d/*.toml\"]\n", "");
    let mut row = Row { routes, start: daemon.cpu(), ..Row::default() };
    row.check = (0..3).map(|_| check(daemon.dir.path())).min().unwrap();
    let last = routes - 1;
    let matching = || recipient(&daemon, "250", |_, number| format!("u{number}@d{last}.example"));
    let unknown = || recipient(&daemon, "550", |transaction, number| format!("u{number}@x{transaction}.d{last}.example"));
    row.matching = (0..ROUNDS).map(|_| matching()).min().unwrap();
    row.unknown = (0..ROUNDS).map(|_| unknown()).min().unwrap();
    row.memory = resident(&daemon);
    row.metrics = metrics(&daemon);
    let changed = |version: usize| {
        write_file(&folder, routes.div_ceil(OF_FILE) / 2, routes, to, version, 0);
        reload(&daemon)
    };
    let times: Vec<_> = (1..=ROUNDS).map(changed).collect();
    row.reload = times.iter().map(|(cpu, _)| *cpu).min().unwrap();
    row.reload_took = times.iter().map(|(_, took)| *took).min().unwrap();
    // One more route, and then one fewer; nothing else changes.
    let with = |more: usize| {
        write_file(&folder, routes.div_ceil(OF_FILE) / 2, routes, to, ROUNDS, more);
        reload(&daemon).0
    };
    let times: Vec<_> = (0..ROUNDS).map(|_| (with(1), with(0))).collect();
    row.added = times.iter().map(|(added, _)| *added).min().unwrap();
    row.removed = times.iter().map(|(_, removed)| *removed).min().unwrap();
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let mailbox = format!("u@d{last}.example");
        quiet.push(mail(&daemon, &mailbox));
        beside.push(thread::scope(|scope| {
            let sender = scope.spawn(|| mail(&daemon, &mailbox));
            let mut version = 100 * (round + 1);
            while !sender.is_finished() {
                version += 1;
                changed(version);
                thread::sleep(Duration::from_millis(100));
            }
            sender.join().unwrap()
        }));
    }
    (row.quiet, row.beside) = (median(quiet), median(beside));
    row
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1e3
}

fn micros(of: Duration) -> f64 {
    of.as_secs_f64() * 1e6
}

/// A small picture for each figure, all over the number of routes.
fn plot(rows: &[Row]) -> String {
    type Figure = (&'static str, fn(&Row) -> f64);
    const FIGURES: [Figure; 8] = [
        ("check, ms", |row| millis(row.check)),
        ("start, ms", |row| millis(row.start)),
        ("memory, MiB", |row| row.memory as f64 / f64::from(1 << 20)),
        ("/metrics, KiB", |row| row.metrics as f64 / 1024.0),
        ("reload of one changed file, ms", |row| millis(row.reload)),
        ("a recipient that matches, µs", |row| micros(row.matching)),
        ("one that does not, µs", |row| micros(row.unknown)),
        ("mail's p99 beside reloads, µs", |row| micros(row.beside[1])),
    ];
    let (wide, high) = (220.0, 170.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        wide * 4.0,
        high * 2.0
    );
    for (number, (name, figure)) in FIGURES.iter().enumerate() {
        let (left, top) = (wide * (number % 4) as f64 + 20.0, high * (number / 4) as f64 + 20.0);
        let most = rows.iter().map(figure).fold(f64::MIN_POSITIVE, f64::max);
        let point = |at: usize| (left + 20.0 + 50.0 * at as f64, top + 110.0 - 85.0 * figure(&rows[at]) / most);
        writeln!(svg, "<text x=\"{left}\" y=\"{top}\" font-weight=\"bold\">{name}</text>").unwrap();
        let path: Vec<String> = (0..rows.len()).map(point).map(|(x, y)| format!("{x:.0},{y:.1}")).collect();
        writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#3a7ca5\" stroke-width=\"2\"/>", path.join(" ")).unwrap();
        for (at, row) in rows.iter().enumerate() {
            let (x, y) = point(at);
            let value = figure(row);
            let digits = if value < 10.0 { 1 } else { 0 };
            writeln!(svg, "<text x=\"{x:.0}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.digits$}</text>", y - 5.0).unwrap();
            writeln!(svg, "<text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\" fill=\"#777\">{}</text>", top + 126.0, row.routes).unwrap();
        }
    }
    svg + "</svg>\n"
}

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let counts = if std::env::args().any(|argument| argument == "--bench") { &COUNTS[..] } else { &COUNTS[..1] };
    let to = endpoint();
    let rows: Vec<Row> = counts.iter().map(|&routes| measure(routes, to)).collect();
    println!(
        "| routes | `check`, ms | start, ms | memory, MiB | `/metrics`, KiB | reload, ms (all in all) | a route added, removed, ms | recipient, µs | no match, µs | p50 and p99, µs | beside reloads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in &rows {
        println!(
            "| {} | {:.0} | {:.0} | {:.1} | {:.0} | {:.1} ({:.1}) | {:.1}, {:.1} | {:.2} | {:.2} | {:.0}, {:.0} | {:.0}, {:.0} |",
            row.routes,
            millis(row.check),
            millis(row.start),
            row.memory as f64 / f64::from(1 << 20),
            row.metrics as f64 / 1024.0,
            millis(row.reload),
            millis(row.reload_took),
            millis(row.added),
            millis(row.removed),
            micros(row.matching),
            micros(row.unknown),
            micros(row.quiet[0]),
            micros(row.quiet[1]),
            micros(row.beside[0]),
            micros(row.beside[1]),
        );
    }
    if rows.len() == COUNTS.len() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/routes.svg"), plot(&rows)).unwrap();
    }
}
