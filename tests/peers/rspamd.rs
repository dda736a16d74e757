//! Rspamd as Debian has it, without any network: its verdict stands in the envelope of each format, and mail goes on without it.

use crate::support::client::deliver;
use crate::support::process::Process;
use crate::support::{Config, Daemon, Endpoint, PATIENCE, eventually, messages, port, turn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use tempfile::TempDir;

/// What every scanner takes for spam, so that scanners can be tried.
const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
const FORMATS: [&str; 5] = ["json", "multipart", "raw", "rfc822", "rails"];

/// One worker, no rules, no names.
struct Rspamd {
    process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

impl Rspamd {
    fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], port::free())))
    }

    fn start_at(address: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        // To get ready for the names of all top-level domains takes it many seconds.
        std::fs::write(dir.path().join("tld"), "test\n").unwrap();
        let text = format!(
            "options {{ url_tld = \"{path}/tld\"; tempdir = \"{path}\"; hs_cache_dir = \"{path}\"; disable_hyperscan = true;\n\
             dns {{ nameserver = [\"127.0.0.1:9\"]; timeout = 0.1s; retransmits = 1; }} }}\n\
             logging {{ type = \"console\"; level = \"notice\"; }}\n\
             worker \"normal\" {{ bind_socket = \"{address}\"; count = 1; }}\n\
             actions {{ reject = 15; add_header = 6; greylist = 4; }}\n"
        );
        let file = dir.path().join("rspamd.conf");
        std::fs::write(&file, text).unwrap();
        let process = Process::start(Command::new(super::program("rspamd")).args(["-f", "-i", "-c"]).arg(&file));
        let rspamd = Self { process, address, _dir: dir };
        eventually("Rspamd", || rspamd.answers().then_some(()));
        rspamd
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect_timeout(&self.address, PATIENCE) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("pong")
    }

    /// It and its workers.
    fn signal(&self, signal: Signal) {
        let main = self.process.pid().to_string();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
        for process in children.split_whitespace().chain([main.as_str()]) {
            kill(Pid::from_raw(process.parse().unwrap()), signal).unwrap();
        }
    }
}

impl Drop for Rspamd {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked to.
        self.process.signal(Signal::SIGTERM);
        self.process.wait(PATIENCE);
    }
}

fn config(endpoint: &Endpoint, rspamd: SocketAddr) -> Config {
    let scan = format!("http://{rspamd}/checkv2");
    FORMATS.iter().fold(Config::without_routes(), |config, format| {
        config
            .route(format, &[&format!("*@{format}.test")], &endpoint.url(&format!("/{format}")))
            .of_route("format", *format)
            .of_route("timeout", "8s")
            .of_route("scan", scan.as_str())
    })
}

fn counted(daemon: &Daemon, result: &str) -> u64 {
    let text = daemon.admin.get("/metrics").text();
    let start = format!("mailsluice_scans_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or_else(|| panic!("{start} is not in {text}"))
}

#[test]
fn its_verdict_is_in_every_format() {
    let _turn = turn::shared();
    let rspamd = Rspamd::start();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(config(&endpoint, rspamd.address));
    for (n, format) in FORMATS.iter().enumerate() {
        let to = format!("b@{format}.test");
        deliver(daemon.smtp(), "a@sender.test", &[&to], &messages::simple("x", GTUBE)).starts("250 ");
        let request = endpoint.wait_for(n + 1).pop().unwrap();
        let body = String::from_utf8_lossy(&request.body);
        let field = |name: &str, value: &str| body.contains(&format!("name=\"envelope[spam]{name}\"\r\n\r\n{value}\r\n"));
        match *format {
            "json" => {
                let spam = &request.json()["envelope"]["spam"];
                assert_eq!((&spam["action"], spam["score"].as_f64()), (&"reject".into(), spam["required"].as_f64()), "{spam}");
                assert!(spam["symbols"].as_array().unwrap().contains(&"GTUBE".into()), "{spam}");
            }
            "rfc822" | "rails" => assert_eq!(request.field("mailsluice-spam"), "score=15.0; required=15.0; action=reject"),
            _ => assert!(field("[action]", "reject") && field("[score]", "15.0") && field("[symbols][0]", "GTUBE"), "{format}: {body}"),
        }
    }
    deliver(daemon.smtp(), "a@sender.test", &["b@json.test"], &messages::simple("x", "good news")).starts("250 ");
    let request = endpoint.wait_for(FORMATS.len() + 1).pop().unwrap();
    assert_ne!(request.json()["envelope"]["spam"]["action"], "reject");
    assert_eq!(counted(&daemon, "verdict"), 6);
}

#[test]
fn mail_goes_on_without_it() {
    let _turn = turn::shared();
    let rspamd = Rspamd::start();
    let address = rspamd.address;
    let endpoint = Endpoint::ok();
    let breaker = toml::toml! {
        failures = 2
        cooldown = "1s"
    };
    let daemon = Daemon::start(config(&endpoint, address).set("forward.breaker", breaker));
    // Delivered in any case; was there a verdict?
    let scanned = || {
        let before = endpoint.count();
        deliver(daemon.smtp(), "a@sender.test", &["b@json.test"], &messages::simple("x", GTUBE)).starts("250 ");
        endpoint.wait_for(before + 1).pop().unwrap().json()["envelope"].get("spam").is_some()
    };
    eventually("a verdict", || scanned().then_some(()));
    // It hangs: after two that waited for it nobody does.
    rspamd.signal(Signal::SIGSTOP);
    eventually("nobody to ask it", || {
        assert!(!scanned(), "a verdict of one that stands");
        (counted(&daemon, "not_asked") > 0).then_some(())
    });
    assert!(counted(&daemon, "no_answer") >= 2);
    rspamd.signal(Signal::SIGCONT);
    eventually("verdicts again", || scanned().then_some(()));
    // It is gone, and comes back.
    drop(rspamd);
    let before = counted(&daemon, "no_answer");
    eventually("it to be missed", || (!scanned() && counted(&daemon, "no_answer") > before).then_some(()));
    let _rspamd = Rspamd::start_at(address);
    eventually("verdicts again", || scanned().then_some(()));
    assert_eq!(daemon.admin.stat("messages.deferred"), 0);
}
