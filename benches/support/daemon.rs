//! The daemon's binary, a client of it and an endpoint, for benches that look at it from outside. `MAILSLUICE_BINARY` names another binary.

#![allow(dead_code, reason = "each bench is a crate of its own and uses what it needs")]
#![allow(clippy::disallowed_methods, reason = "who waits for the daemon leaves it the processor")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint that reads each request and says 200; a thread a connection.
pub(crate) fn endpoint() -> SocketAddr {
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

pub(crate) fn binary() -> PathBuf {
    std::env::var_os("MAILSLUICE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_mailsluice").into(), Into::into)
}

pub(crate) struct Daemon {
    process: Child,
    pub(crate) smtp: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
}

impl Daemon {
    /// `top` stands before the first section, `more` behind the others.
    pub(crate) fn start(dir: tempfile::TempDir, top: &str, more: &str) -> Self {
        Self::start_by(Command::new(binary()), dir, top, &format!("[log]\nmessages = \"none\"\nformat = \"text\"\n{more}"))
    }

    /// `command` is the program, or what runs it; it logs as it does by default.
    pub(crate) fn start_by(mut command: Command, dir: tempfile::TempDir, top: &str, more: &str) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (smtp, admin) = (free(), free());
        let text = format!(
            "{top}[smtp]\nlisten = [\"{smtp}\"]\nhostname = \"bench.example\"\nmax_connections_per_ip = 1000\n\
             max_messages_per_connection = 100000\nmax_errors = 1000\nmax_junk_commands = 1000\n\
             [admin]\nlisten = \"{admin}\"\n[store]\npath = \"{}\"\n[memory]\nper_ip_share = 1.0\n{more}",
            dir.path().join("records.redb").display()
        );
        std::fs::write(dir.path().join("mailsluice.toml"), text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command.args(["serve", "--config"]).arg(dir.path().join("mailsluice.toml")).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(smtp).is_err() {
            assert!(started.elapsed() < PATIENCE, "the daemon does not listen");
            thread::sleep(Duration::from_millis(1));
        }
        Self { process, smtp, admin, dir }
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let clock = nix::time::clock_getcpuclockid(self.pid()).unwrap();
        nix::time::clock_gettime(clock).unwrap().into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// One connection of the load generator.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(smtp: SocketAddr) -> Self {
        let stream = TcpStream::connect(smtp).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self(BufReader::new(stream));
        client.expect("220");
        client.say(b"EHLO client.example.org\r\n");
        client.expect("250");
        client
    }

    pub(crate) fn say(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    pub(crate) fn expect(&mut self, code: &str) {
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

    pub(crate) fn send(&mut self, to: &str, data: &[u8]) {
        self.say(format!("MAIL FROM:<bob@example.org>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes());
        self.expect("250");
        self.expect("250");
        self.expect("354");
        self.say(data);
        self.expect("250");
    }
}
