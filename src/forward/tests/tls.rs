//! Endpoints over TLS, with an authority of the test's own.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Kept until the test ends.
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
    }

    fn rig(&self, endpoint: &Endpoint) -> Rig {
        let more = format!("ca_certificate = \"{}\"", self.file.path().display());
        Rig::new(&route("r", &format!("https://{}/in", endpoint.address), &more))
    }
}

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

fn endpoint(config: Arc<ServerConfig>, script: impl Fn(&mut Stream, &Mutex<Vec<Request>>) + Send + Sync + 'static) -> Endpoint {
    Endpoint::start(move |talk| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = BufReader::new(StreamOwned::new(connection, talk.stream.try_clone().unwrap()));
        script(&mut stream, &talk.seen);
    })
}

fn serve(stream: &mut Stream, seen: &Mutex<Vec<Request>>) {
    while let Some(request) = Request::whole(stream) {
        seen.lock().unwrap().push(request);
        stream.get_mut().write_all(OK.as_bytes()).unwrap();
    }
}

#[test]
fn a_routes_own_authority_and_a_connection_kept_alive() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), serve);
    let rig = authority.rig(&endpoint);
    for len in [0, 1, 100_000, 3_000_000, 5] {
        let message = vec![b'm'; len];
        assert_eq!(rig.send(&message).unwrap().status, 200, "{len}");
        assert!(endpoint.requests().pop().unwrap().body == message, "{len}");
    }
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn what_is_not_trusted_is_not_reached_and_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let strange = endpoint(other.server("127.0.0.1"), serve);
    let why = not_reached(authority.rig(&strange).send(b"m"));
    assert!(why.contains("certificate"), "{why}");
    let misnamed = endpoint(authority.server("app.example"), serve);
    let why = not_reached(authority.rig(&misnamed).send(b"m"));
    assert!(why.contains("certificate"), "{why}");
    assert!(strange.requests().is_empty() && misnamed.requests().is_empty());
    let plain = Endpoint::always(OK);
    not_reached(authority.rig(&plain).send(b"m"));
}

#[test]
fn a_handshake_that_hangs_ends_at_the_deadline() {
    let authority = Authority::new();
    let endpoint = Endpoint::start(Talk::wait_for_close);
    let begun = Instant::now();
    not_reached(authority.rig(&endpoint).send_within(Duration::from_millis(300), b"m"));
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn an_early_answer_is_heard() {
    let authority = Authority::new();
    for closes in [true, false] {
        let endpoint = endpoint(authority.server("127.0.0.1"), move |stream, _| {
            Request::header(stream);
            stream.get_mut().write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").unwrap();
            if !closes {
                std::thread::park_timeout(PATIENCE);
            }
        });
        let response = authority.rig(&endpoint).send(&vec![b'm'; 8_000_000]).unwrap();
        assert_eq!((response.status, response.body.as_str()), (413, "big"), "closes: {closes}");
    }
}

#[test]
fn a_connection_closed_on_reuse_is_replaced() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), |stream, seen| {
        seen.lock().unwrap().extend(Request::whole(stream));
        stream.get_mut().write_all(OK.as_bytes()).unwrap();
        Request::header(stream);
    });
    let rig = authority.rig(&endpoint);
    for n in 1..=3 {
        assert_eq!(rig.send(b"m").unwrap().status, 200);
        assert_eq!(endpoint.connections(), n);
    }
}

/// The record layer takes 64 KiB at once, its own octets among them.
#[test]
fn a_request_that_fills_a_turn_of_the_record_layer() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), serve);
    let rig = authority.rig(&endpoint);
    for len in (64_900..65_540).step_by(10) {
        assert_eq!(rig.send(&vec![b'm'; len]).unwrap().status, 200, "{len}");
    }
    assert_eq!(endpoint.connections(), 1);
}

/// What comes behind it in the same segment is nobody's.
#[test]
fn octets_behind_a_close_notify_hold_nothing_up() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), |stream, _| {
        Request::whole(stream);
        let StreamOwned { conn, sock } = stream.get_mut();
        conn.writer().write_all(OK.as_bytes()).unwrap();
        conn.send_close_notify();
        let mut octets = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut octets).unwrap();
        }
        octets.resize(octets.len() + 10_000, b'x');
        sock.write_all(&octets).unwrap();
    });
    let rig = authority.rig(&endpoint);
    for _ in 0..3 {
        let answer = rig.submit("r", b"m").unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(super::answer(answer).map(|response| response.status).ok()));
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Some(200)), "the ring goes on");
    }
}

/// Promise 1: it would be taken for the next message's.
#[test]
fn a_second_answer_in_a_record_of_its_own_ends_the_connection() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), |stream, seen| {
        while let Some(request) = Request::whole(stream) {
            seen.lock().unwrap().push(request);
            let StreamOwned { conn, sock } = stream.get_mut();
            let mut octets = Vec::new();
            for answer in [OK, "HTTP/1.1 201 Nobody asked\r\nContent-Length: 0\r\n\r\n"] {
                conn.writer().write_all(answer.as_bytes()).unwrap();
                while conn.wants_write() {
                    conn.write_tls(&mut octets).unwrap();
                }
            }
            sock.write_all(&octets).unwrap();
        }
    });
    let rig = authority.rig(&endpoint);
    for n in 1..=3 {
        assert_eq!(rig.send(b"m").unwrap().status, 200);
        assert_eq!(endpoint.connections(), n);
    }
}

/// More than the record layer keeps of what nobody has taken out.
#[test]
fn an_answer_in_records_of_every_size() {
    let authority = Authority::new();
    let endpoint = endpoint(authority.server("127.0.0.1"), |stream, seen| {
        while let Some(request) = Request::whole(stream) {
            seen.lock().unwrap().push(request);
            let StreamOwned { conn, sock } = stream.get_mut();
            let body = "b".repeat(30_000);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let mut octets = Vec::new();
            let (first, rest) = answer.split_at(16_384);
            for piece in std::iter::once(first.as_bytes()).chain(rest.as_bytes().chunks(100)) {
                conn.writer().write_all(piece).unwrap();
                while conn.wants_write() {
                    conn.write_tls(&mut octets).unwrap();
                }
            }
            sock.write_all(&octets).unwrap();
        }
    });
    let rig = authority.rig(&endpoint);
    for _ in 0..3 {
        assert_eq!(rig.send(b"m").unwrap().status, 200);
    }
    assert_eq!(endpoint.connections(), 1);
}

/// As `openssl req -x509` makes them: an authority that signed itself, with alternative names or without.
#[test]
fn a_certificate_given_by_name_means_that_certificate() {
    let made = |names: &[&str], common: &str, expired: bool| {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        if expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(pem.as_bytes()).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        (Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()), file)
    };
    let ask = |server: Arc<ServerConfig>, file: &tempfile::NamedTempFile, host: &str| {
        let endpoint = endpoint(server, serve);
        let url = format!("https://{host}:{}/in", endpoint.address.port());
        Rig::new(&route("r", &url, &format!("ca_certificate = \"{}\"", file.path().display()))).send(b"m")
    };
    let (server, file) = made(&["localhost"], "other", false);
    assert_eq!(ask(Arc::clone(&server), &file, "localhost").unwrap().status, 200);
    // Its names count, and so does its time; another certificate of the same name is none of ours.
    assert!(not_reached(ask(Arc::clone(&server), &file, "127.0.0.1")).starts_with("TLS: "));
    let (twin, _) = made(&["localhost"], "other", false);
    assert!(not_reached(ask(twin, &file, "localhost")).starts_with("TLS: "));
    let (nameless, file) = made(&[], "localhost", false);
    assert_eq!(ask(Arc::clone(&nameless), &file, "localhost").unwrap().status, 200);
    assert!(not_reached(ask(nameless, &file, "127.0.0.1")).starts_with("TLS: "));
    let (old, file) = made(&["localhost"], "x", true);
    assert!(not_reached(ask(old, &file, "localhost")).starts_with("TLS: "));
}

/// A server that wants a certificate of this authority.
fn demanding(authority: &Authority) -> Arc<ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(authority.file.path()).unwrap().map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority.issuer).unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key).unwrap();
    Arc::new(config)
}

#[test]
fn a_client_certificate_is_shown_renewed_and_stays_at_home() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("client.pem"), dir.path().join("client.key"));
    let renew_until = |year| {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["mailsluice".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let made = params.signed_by(&pair, &authority.issuer).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::write(&certificate, made.pem()).unwrap();
        made.der().to_vec()
    };
    let renew = || renew_until(4000);
    let shown = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let seen = Arc::clone(&shown);
    let wanting = endpoint(demanding(&authority), move |stream, requests| {
        if let Some(request) = Request::whole(stream) {
            seen.lock().unwrap().push(stream.get_ref().conn.peer_certificates().unwrap()[0].to_vec());
            requests.lock().unwrap().push(request);
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            stream.get_mut().conn.send_close_notify();
        }
    });
    let rig = |url: String| {
        let more = format!("ca_certificate = {:?}\nclient_certificate = {certificate:?}\nclient_key = {key:?}", authority.file.path());
        Rig::new(&route("r", &url, &more))
    };
    let first = renew();
    let home = rig(format!("https://{}/in", wanting.address));
    assert_eq!(home.send(b"m").unwrap().status, 200);
    let second = renew();
    let watched = home.forwarders.watch();
    assert!(watched.len() == 1 && watched[0].0.ends_with("client.pem"), "{watched:?}");
    assert_eq!(home.send(b"m").unwrap().status, 200);
    // A pair that does not belong together is not used.
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    home.forwarders.watch();
    assert_eq!(home.stats.certificates.reload_failures.get(), 1);
    // Nor is one that nobody takes any more.
    renew_until(2020);
    home.forwarders.watch();
    assert_eq!(home.stats.certificates.reload_failures.get(), 2);
    assert_eq!(home.send(b"m").unwrap().status, 200);
    assert_eq!(*shown.lock().unwrap(), [first, second.clone(), second]);
    // Another origin that a redirect leads to does not get to see it.
    renew();
    let elsewhere = wanting.url("/in").replace("http:", "https:");
    let redirecting = endpoint(authority.server("127.0.0.1"), move |stream, _| {
        while Request::whole(stream).is_some() {
            stream
                .get_mut()
                .write_all(format!("HTTP/1.1 307 There\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n").as_bytes())
                .unwrap();
        }
    });
    assert!(rig(format!("https://{}/in", redirecting.address)).send(b"m").is_err());
    assert_eq!(wanting.requests().len(), 3);
}
