//! What does STARTTLS cost without a daemon: the server's half of a handshake, and of the records of two small messages, in memory?
//!
//! And what does it cost over a socket, by a thread that does nothing else, with the two more commands of STARTTLS?
//!
//! The daemon's processor time for such a connection, less that for the same in the clear, stands beside both (README.md).

#![allow(clippy::unwrap_used, reason = "a bench stops at the first thing that is not as expected, and says so")]

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands and replies of a transaction, as they cross the record layer.
const EXCHANGES: [(usize, usize); 4] = [(30, 200), (80, 60), (4096 + 400, 0), (5, 70)];
const MESSAGES: usize = 2;

const STARTTLS: &[(usize, usize)] = &[(30, 200), (10, 30)];

/// Who chooses the cipher suite.
#[derive(Clone, Copy, Debug)]
enum Suites {
    /// `TLS_AES_256_GCM_SHA384`.
    ByLibrary,
    /// `TLS_AES_128_GCM_SHA256`.
    ByDaemon,
}

/// As the daemon's: no tickets, no resumption.
fn configurations(suites: Suites) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certified = rcgen::generate_simple_self_signed(["mx.example".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut ours = rustls::crypto::aws_lc_rs::default_provider();
    if matches!(suites, Suites::ByDaemon) {
        ours.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
    let server = ServerConfig::builder_with_provider(Arc::new(ours)).with_safe_default_protocol_versions().unwrap();
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

/// The dialog of such a connection over a socket, by the least there is: a thread that reads and writes. Its processor time.
fn over_a_socket(server: Option<&Arc<ServerConfig>>, client: &Arc<ClientConfig>) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut stream = listener.accept().unwrap().0;
    stream.set_nodelay(true).unwrap();
    peer.set_nodelay(true).unwrap();
    let exchanges = [EXCHANGES; MESSAGES].concat();
    let serving = std::thread::spawn({
        let (server, exchanges) = (server.cloned(), exchanges.clone());
        move || {
            let begun = processor_time();
            match server {
                None => serve(&mut stream, &exchanges),
                Some(server) => {
                    serve(&mut stream, STARTTLS);
                    let mut tls = ServerConnection::new(server).unwrap();
                    serve(&mut Stream::new(&mut tls, &mut stream), &exchanges);
                    tls.send_close_notify();
                    tls.write_tls(&mut stream).unwrap();
                }
            }
            processor_time() - begun
        }
    });
    if server.is_some() {
        ask(&mut peer, STARTTLS);
        let mut tls = ClientConnection::new(Arc::clone(client), ServerName::try_from("mx.example").unwrap()).unwrap();
        ask(&mut Stream::new(&mut tls, &mut peer), &exchanges);
    } else {
        ask(&mut peer, &exchanges);
    }
    serving.join().unwrap()
}

fn serve(stream: &mut (impl Read + Write), exchanges: &[(usize, usize)]) {
    let mut heard = vec![0; 8192];
    for (command, reply) in exchanges {
        stream.read_exact(heard.get_mut(..*command).unwrap()).unwrap();
        stream.write_all(&vec![b'y'; *reply]).unwrap();
        stream.flush().unwrap();
    }
}

fn ask(stream: &mut (impl Read + Write), exchanges: &[(usize, usize)]) {
    let mut heard = vec![0; 8192];
    for (command, reply) in exchanges {
        stream.write_all(&vec![b'x'; *command]).unwrap();
        stream.flush().unwrap();
        stream.read_exact(heard.get_mut(..*reply).unwrap()).unwrap();
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.into()
}

fn bench(c: &mut Criterion) {
    for suites in [Suites::ByLibrary, Suites::ByDaemon] {
        let (server, client) = configurations(suites);
        c.bench_function(&format!("tls/handshake_and_two_messages/{suites:?}"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| connection(&server, &client)).sum());
        });
        c.bench_function(&format!("tls/over_a_socket/{suites:?}"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| over_a_socket(Some(&server), &client)).sum());
        });
    }
    let (_, client) = configurations(Suites::ByDaemon);
    c.bench_function("tls/over_a_socket/in_the_clear", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| over_a_socket(None, &client)).sum());
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
