//! What does a message cost end to end: the daemon's binary between a load generator and an HTTP endpoint, both in here?
//!
//! Beside the time it prints the daemon's own CPU time per message, which other work on the machine changes less.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// An endpoint that reads each request and says 200; a thread a connection.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(&stream).unwrap_or(()));
        }
    });
    address
}

fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut line = String::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

struct Daemon {
    process: Child,
    smtp: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start(endpoint: SocketAddr) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (smtp, admin) = (free(), free());
        let config = dir.path().join("mailsluice.toml");
        let text = format!(
            "[smtp]\nlisten = [\"{smtp}\"]\nhostname = \"bench.example\"\nmax_connections_per_ip = 1000\nmax_messages_per_connection = 100000\n\
             [admin]\nlisten = \"{admin}\"\n[store]\npath = \"{}\"\n[memory]\nper_ip_share = 1.0\n[log]\nlevel = \"warn\"\n\
             [[route]]\nname = \"bench\"\nrecipients = [\"*\"]\nurl = \"http://{endpoint}/\"\nformat = \"rfc822\"\nmax_concurrency = 512\n",
            dir.path().join("records.redb").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailsluice"));
        command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null());
        let process = command.spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(smtp).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the daemon does not listen");
            thread::yield_now();
        }
        Self { process, smtp, _dir: dir }
    }

    /// CPU time of all its threads so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms; the first two went with the name.
        Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// One connection of the load generator.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(smtp: SocketAddr) -> Self {
        let stream = TcpStream::connect(smtp).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self(BufReader::new(stream));
        client.expect("220");
        client.say(b"EHLO client.example.org\r\n");
        client.expect("250");
        client
    }

    fn say(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    fn expect(&mut self, code: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "{line}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        }
    }

    fn send(&mut self, data: &[u8]) {
        self.say(b"MAIL FROM:<bob@example.org>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n");
        self.expect("250");
        self.expect("250");
        self.expect("354");
        self.say(data);
        self.expect("250");
    }
}

fn end_to_end(c: &mut Criterion) {
    let daemon = Daemon::start(endpoint());
    let mut group = c.benchmark_group("end_to_end");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (connections, octets) in [(1, 4096), (50, 4096), (8, 5 << 20)] {
        let mut data = support::plain(octets);
        data.extend_from_slice(b".\r\n");
        let mut clients: Vec<Client> = (0..connections).map(|_| Client::connect(daemon.smtp)).collect();
        group.throughput(Throughput::Elements(connections));
        let (before, mut messages) = (daemon.cpu(), 0);
        group.bench_function(BenchmarkId::new(format!("{octets} octets"), connections), |b| {
            b.iter(|| {
                thread::scope(|scope| clients.iter_mut().for_each(|client| drop(scope.spawn(|| client.send(&data)))));
                messages += u32::try_from(connections).unwrap();
            })
        });
        println!("daemon's CPU time per message: {:?}\n", (daemon.cpu() - before) / messages.max(1));
    }
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
