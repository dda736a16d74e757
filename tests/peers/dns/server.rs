//! Name servers of the tests: NSD with one zone, and a relay before it that counts and can be silent.

use crate::support::process::Process;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// NSD on a port of its own, authoritative for one zone.
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl NameServer {
    /// The records are lines of a zone file, relative to the origin.
    #[track_caller]
    pub(super) fn start(origin: &str, records: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_for_udp_and_tcp();
        let zone = format!(
            "$ORIGIN {origin}\n$TTL 60\n@ SOA ns.nsd-itself. admin.nsd-itself. 1 3600 600 86400 60\n@ NS ns.nsd-itself.\n{records}\n"
        );
        std::fs::write(dir.path().join("zone"), zone).unwrap();
        let config = dir.path().join("nsd.conf");
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(
            &config,
            format!(
                "server:\n  ip-address: {}@{}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{}\"\n  pidfile: \"{}\"\n  xfrdfile: \"{}\"\n  xfrdir: \"{}\"\n  zonelistfile: \"{}\"\n  database: \"\"\n  server-count: 1\n  verbosity: 1\nremote-control:\n  control-enable: no\nzone:\n  name: {origin}\n  zonefile: zone\n",
                address.ip(), address.port(), at(""), at("nsd.pid"), at("xfrd.state"), at(""), at("zone.list"),
            ),
        )
        .unwrap();
        let process = Process::start(Command::new(crate::peers::program("nsd")).arg("-d").arg("-c").arg(&config));
        // It answers a query for the zone's own name.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        query.extend_from_slice(&wire_name(origin));
        query.extend_from_slice(b"\0\x06\0\x01");
        crate::support::eventually("the name server", || {
            socket.send_to(&query, address).unwrap();
            let mut answer = [0; 512];
            socket.recv(&mut answer).ok().filter(|&n| n > 12 && answer[3] & 0x0f == 0)
        });
        Self { address, _process: process, _dir: dir }
    }
}

/// A port of loopback that nobody has, over UDP and TCP.
pub(super) fn free_for_udp_and_tcp() -> SocketAddr {
    crate::support::eventually("a port free for both", || {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        TcpListener::bind(address).ok().map(|_| address)
    })
}

/// A name as it stands in a question, in lower case.
fn wire_name(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend_from_slice(label.to_ascii_lowercase().as_bytes());
    }
    octets.push(0);
    octets
}

/// A name that is not answered for, but for records of these types.
pub(super) struct Silence {
    pub(super) name: String,
    pub(super) but_for: Vec<u16>,
}

impl Silence {
    fn covers(&self, query: &[u8]) -> bool {
        let Some(question) = query.get(12..) else { return false };
        let name = wire_name(&self.name);
        let Some((asked, rest)) = question.split_at_checked(name.len()) else { return false };
        let kind = rest.get(..2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]));
        asked.to_ascii_lowercase() == name && kind.is_some_and(|kind| !self.but_for.contains(&kind))
    }
}

/// Hands questions on over UDP, one after the other, and counts them.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    questions: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Relay {
    pub(super) fn start(upstream: SocketAddr, silent: Vec<Silence>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (questions, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let relay = Self { address, questions: Arc::clone(&questions), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok((n, from)) = socket.recv_from(&mut octets) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                questions.fetch_add(1, Ordering::Relaxed);
                if silent.iter().any(|silence| silence.covers(&octets[..n])) {
                    continue;
                }
                let onward = UdpSocket::bind("127.0.0.1:0").unwrap();
                onward.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                onward.send_to(&octets[..n], upstream).unwrap();
                let mut answer = [0; 4096];
                if let Ok(n) = onward.recv(&mut answer) {
                    let _ = socket.send_to(&answer[..n], from);
                }
            }
        });
        relay
    }

    pub(super) fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Whatever it is, it wakes the thread.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"end", self.address));
    }
}
