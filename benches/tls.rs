//! What does STARTTLS cost without a daemon: the server's half of a handshake, and of the records of two small messages, in memory?
//!
//! The daemon's processor time for such a connection, less that for the same in the clear, stands beside it (README.md).

#![allow(clippy::unwrap_used, reason = "a bench stops at the first thing that is not as expected, and says so")]

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands and replies of a transaction, as they cross the record layer.
const EXCHANGES: [(usize, usize); 4] = [(30, 200), (80, 60), (4096 + 400, 0), (5, 70)];
const MESSAGES: usize = 2;

/// As the daemon's: no tickets, no resumption.
fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certified = rcgen::generate_simple_self_signed(["mx.example".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (Arc::new(server), Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

/// Time of the server's half only.
struct Server {
    tls: ServerConnection,
    spent: Duration,
}

impl Server {
    fn timed<T>(&mut self, work: impl FnOnce(&mut ServerConnection) -> T) -> T {
        let begun = Instant::now();
        let done = black_box(work(&mut self.tls));
        self.spent += begun.elapsed();
        done
    }

    fn hears(&mut self, client: &mut ClientConnection) -> Vec<u8> {
        let mut records = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut records).unwrap();
        }
        self.timed(|tls| {
            let mut rest = records.as_slice();
            let mut plain = Vec::new();
            while !rest.is_empty() {
                tls.read_tls(&mut rest).unwrap();
                let state = tls.process_new_packets().unwrap();
                let start = plain.len();
                plain.resize(start + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(plain.get_mut(start..).unwrap()).unwrap();
            }
            plain
        })
    }

    fn says(&mut self, client: &mut ClientConnection, reply: &[u8]) {
        let records = self.timed(|tls| {
            tls.writer().write_all(reply).unwrap();
            let mut records = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
            records
        });
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        let mut heard = vec![0; reply.len()];
        client.reader().read_exact(&mut heard).unwrap();
    }
}

fn connection(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Duration {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("mx.example").unwrap()).unwrap();
    let begun = Instant::now();
    let tls = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut server = Server { tls, spent: begun.elapsed() };
    while client.is_handshaking() || server.tls.is_handshaking() {
        server.hears(&mut client);
        server.says(&mut client, b"");
    }
    for (command, reply) in [EXCHANGES; MESSAGES].concat() {
        client.writer().write_all(&vec![b'x'; command]).unwrap();
        assert_eq!(server.hears(&mut client).len(), command);
        server.says(&mut client, &vec![b'y'; reply]);
    }
    server.spent
}

fn bench(c: &mut Criterion) {
    let (server, client) = configurations();
    c.bench_function("tls/handshake_and_two_messages", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| connection(&server, &client)).sum());
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
