//! What verification costs, with a warm cache, beside none. Run by hand: the figures are in `packaging/docs/dns.md`.

use super::server::NameServer;
use super::{SPF, script, test_zone};
use crate::support::{Client, Config, Daemon, Endpoint, turn};
use std::time::{Duration, Instant};

const ROUNDS: usize = 8;
const SENDERS: usize = 2;
const MESSAGES: usize = 500;

/// One daemon, what its messages cost so far.
struct Measured {
    what: &'static str,
    daemon: Daemon,
    cpu: Duration,
    times: Vec<Duration>,
}

impl Measured {
    fn start(what: &'static str, endpoint: &Endpoint, server: &NameServer, checks: Vec<&str>) -> Self {
        let config = Config::to(endpoint)
            .of_route("format", "json")
            .of_route("verify", checks)
            .set("smtp.proxy_protocol_from", vec!["127.0.0.0/8"])
            .set("smtp.max_messages_per_connection", 100_000)
            .set("dns.servers", vec![server.address.to_string()]);
        Self { what, daemon: Daemon::start(config), cpu: Duration::ZERO, times: Vec::new() }
    }

    fn round(&mut self, message: &[u8]) {
        let before = cpu(self.daemon.pid());
        let to = self.daemon.smtp();
        let times: Vec<Vec<Duration>> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(move || send(to, message))).collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        self.cpu += cpu(self.daemon.pid()) - before;
        self.times.extend(times.concat());
    }

    fn per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(self.times.len()).unwrap())
    }

    fn median(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times[self.times.len() / 2]
    }
}

/// End of data to reply, of each message.
fn send(to: std::net::SocketAddr, message: &[u8]) -> Vec<Duration> {
    let mut client = Client::connect_silently(to);
    client.send("PROXY TCP4 192.0.2.1 127.0.0.1 4000 25\r\n");
    client.reply().starts("220 ");
    client.expect("EHLO helo.spf.test", "250 ");
    let mut times = Vec::with_capacity(MESSAGES);
    for _ in 0..MESSAGES {
        client.transaction("alice@signed.test", &["bob@example.test"]);
        let begun = Instant::now();
        client.bdat(message, true).starts("250 ");
        times.push(begun.elapsed());
    }
    times
}

/// Time that a process computed, in and for it.
fn cpu(pid: u32) -> Duration {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // Nanoseconds on a core come first.
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        total += Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap_or(0));
    }
    total
}

#[test]
#[ignore = "measures for a minute: cargo test --release --test main the_cost_of_verification -- --ignored --nocapture"]
fn the_cost_of_verification() {
    let _turn = turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let records = script("sign.py", &[dir.path().to_str().unwrap()]);
    let server = test_zone(&format!("{SPF}\n{records}"));
    let endpoint = Endpoint::ok();
    // Signed by a key of 2048 bits, of the size of a short text mail and of one with a picture.
    for (name, size) in [("small", 4_000), ("large", 400_000)] {
        let message = std::fs::read(dir.path().join(format!("{name}.eml"))).unwrap();
        assert!(message.len() > size);
        let mut measured = [
            Measured::start("[]", &endpoint, &server, vec![]),
            Measured::start("[\"spf\"]", &endpoint, &server, vec!["spf"]),
            Measured::start("[\"spf\", \"dkim\", \"dmarc\"]", &endpoint, &server, vec!["spf", "dkim", "dmarc"]),
        ];
        // The first round fills the caches.
        for one in &mut measured {
            endpoint.clear();
            one.round(&message);
            (one.cpu, one.times) = (Duration::ZERO, Vec::new());
        }
        for _ in 0..ROUNDS {
            for one in &mut measured {
                one.round(&message);
                endpoint.clear();
            }
        }
        let base = measured[0].per_message();
        for one in &mut measured {
            let (cost, median) = (one.per_message(), one.median());
            eprintln!(
                "{} octets, verify = {}: {cost:.0} µs of CPU a message ({:.2} times), p50 {median:?}",
                message.len(),
                one.what,
                cost / base
            );
        }
        let all = measured[2].per_message();
        assert!(all > base, "checks cost something: {all} beside {base}");
    }
}
