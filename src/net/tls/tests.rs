//! A rustls client in memory against the wrapper, and certificate files that change under it.

use super::*;
use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
    der: rustls::pki_types::CertificateDer<'static>,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(["mx.example.com".to_owned()]).unwrap();
    Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

/// As certbot and others do it: a new file is renamed over the old one.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn files(dir: &TempDir, min_version: TlsVersion) -> config::Tls {
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    config::Tls { certificate: at("fullchain.pem"), private_key: at("privkey.pem"), require: false, min_version }
}

fn served(min_version: TlsVersion) -> (TempDir, config::Tls, Pair, Arc<ServerTls>) {
    let dir = tempfile::tempdir().unwrap();
    let (files, pair) = (files(&dir, min_version), pair());
    put(&files.certificate, &pair.certificate);
    put(&files.private_key, &pair.key);
    let tls = ServerTls::load(Some(&files)).unwrap();
    (dir, files, pair, tls)
}

fn client_config(pair: &Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    client_config_of(aws_lc_rs::default_provider(), pair, versions)
}

fn client_config_of(provider: CryptoProvider, pair: &Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pair.der.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from("mx.example.com").unwrap()).unwrap()
}

fn server(tls: &ServerTls) -> Tls {
    Tls::new(&tls.config().unwrap()).unwrap()
}

/// All plaintext there is.
fn taken(server: &mut Tls) -> Vec<u8> {
    let mut plain = Vec::new();
    loop {
        let chunk = server.plain();
        let octets = chunk.len();
        plain.extend_from_slice(chunk);
        server.consume(octets);
        if octets == 0 {
            if !server.is_behind() {
                return plain;
            }
            server.feed(&[]).unwrap();
        }
    }
}

/// Carries records both ways until neither side has more.
fn carry(client: &mut ClientConnection, server: &mut Tls) -> Result<(), TlsError> {
    loop {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let fed = server.feed(&to_server);
        server.take_out(&mut to_client);
        let mut rest = to_client.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().ok();
        }
        fed?;
        if to_server.is_empty() && to_client.is_empty() {
            return Ok(());
        }
    }
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn both_versions_carry_octets_and_are_described() {
    let (_dir, _, pair, tls) = served(TlsVersion::V1_2);
    for (version, described) in [
        (&rustls::version::TLS13, "TLSv1.3 TLS_AES_128_GCM_SHA256"),
        (&rustls::version::TLS12, "TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let (mut client, mut server) = (client(&client_config(&pair, &[version])), server(&tls));
        assert!(server.is_handshaking());
        carry(&mut client, &mut server).unwrap();
        assert!(!server.is_handshaking() && !client.is_handshaking());
        assert_eq!(server.description(), described);

        client.writer().write_all(b"EHLO client.example\r\n").unwrap();
        carry(&mut client, &mut server).unwrap();
        assert_eq!(taken(&mut server), b"EHLO client.example\r\n");

        server.write_plain(b"250 mx.example.com\r\n").unwrap();
        carry(&mut client, &mut server).unwrap();
        let mut reply = [0; 64];
        let n = client.reader().read(&mut reply).unwrap();
        assert_eq!(&reply[..n], b"250 mx.example.com\r\n");
    }
}

#[test]
fn a_client_with_one_suite_gets_it() {
    let (_dir, _, pair, tls) = served(TlsVersion::V1_2);
    for suite in aws_lc_rs::default_provider().cipher_suites {
        if suite.suite().as_str().unwrap().contains("_RSA_") {
            // The certificate's key is of the other kind.
            continue;
        }
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let version = if suite.tls13().is_some() { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
        let mut client = client(&client_config_of(provider, &pair, &[version]));
        carry(&mut client, &mut server(&tls)).unwrap();
        assert_eq!(client.negotiated_cipher_suite(), Some(suite));
    }
}

#[test]
fn nothing_is_resumed_and_no_ticket_is_sent() {
    let (_dir, _, pair, tls) = served(TlsVersion::V1_2);
    for version in BOTH {
        // One client configuration: it would resume if it could.
        let config = client_config(&pair, &[version]);
        for _ in 0..2 {
            let (mut client, mut server) = (client(&config), server(&tls));
            carry(&mut client, &mut server).unwrap();
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn the_least_version_is_held() {
    let (_dir, _, pair, tls) = served(TlsVersion::V1_3);
    let mut refused = client(&client_config(&pair, &[&rustls::version::TLS12]));
    assert!(carry(&mut refused, &mut server(&tls)).is_err());
    assert!(refused.is_handshaking());
    let mut served = client(&client_config(&pair, BOTH));
    carry(&mut served, &mut server(&tls)).unwrap();
    assert_eq!(served.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn plaintext_is_answered_by_an_alert() {
    let (_dir, _, _, tls) = served(TlsVersion::V1_2);
    let mut server = server(&tls);
    let error = server.feed(b"EHLO in.the.clear\r\n").unwrap_err();
    assert!(!error.to_string().contains("clear"), "{error}");
    let mut out = Vec::new();
    server.take_out(&mut out);
    assert_eq!((out.first(), out.len()), (Some(&21), 7), "an alert record: {out:?}");
    assert!(server.feed(b"EHLO again\r\n").is_err(), "the session is over");
}

#[test]
fn each_side_says_that_it_closes() {
    let (_dir, _, pair, tls) = served(TlsVersion::V1_2);
    let (mut client, mut server) = (client(&client_config(&pair, BOTH)), server(&tls));
    carry(&mut client, &mut server).unwrap();
    client.writer().write_all(b"QUIT\r\n").unwrap();
    client.send_close_notify();
    assert!(!server.is_closed());
    carry(&mut client, &mut server).unwrap();
    assert!(server.is_closed());
    server.feed(b"octets behind the end").unwrap();
    assert_eq!(taken(&mut server), b"QUIT\r\n");

    let mut out = Vec::new();
    server.close_notify(&mut out);
    client.read_tls(&mut out.as_slice()).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_split_of_the_records_gives_the_same_octets(
        octets in proptest::collection::vec(any::<u8>(), 0..100_000),
        splits in proptest::collection::vec(1..40_000_usize, 1..20),
    ) {
        let (_dir, _, pair, tls) = served(TlsVersion::V1_2);
        let (mut client, mut server) = (client(&client_config(&pair, BOTH)), server(&tls));
        carry(&mut client, &mut server).unwrap();
        client.set_buffer_limit(None);
        client.writer().write_all(&octets).unwrap();
        let mut records = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut records).unwrap();
        }
        let (mut plain, mut rest, mut splits) = (Vec::new(), records.as_slice(), splits.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*splits.next().unwrap()));
            server.feed(now).unwrap();
            plain.extend(taken(&mut server));
            rest = later;
        }
        prop_assert!(plain == octets);
    }
}

/// A ClientHello whose server name is `written`, of as many octets as `mx.example.com` has; without its record.
fn hello(written: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    client(&client_config(&pair(), BOTH)).write_tls(&mut records).unwrap();
    let mut hello = records.split_off(5);
    let at = hello.windows(14).position(|octets| octets == b"mx.example.com").unwrap();
    hello[at..at + 14].copy_from_slice(written);
    hello
}

proptest! {
    #[test]
    fn a_name_that_is_none_is_hidden_from_the_library_only(
        written in prop_oneof![Just(*b"mx.example:465"), Just(*b"mx.example.com"), Just(*b"[203.0.113.25]"), Just(*b"mx..example.co"), Just(*b"mx_1.example.1")],
        again in any::<bool>(),
        sizes in proptest::collection::vec(0_usize..400, 1..8),
    ) {
        let hello = hello(&written);
        let mut records = if again { vec![20, 3, 3, 0, 1, 1] } else { Vec::new() };
        let (mut rest, mut sizes) = (hello.as_slice(), sizes.iter().chain(&[300]).cycle());
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            records.extend([22, 3, 1]);
            records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend(part);
            rest = later;
        }
        let sent = records.clone();
        for whole in 0..records.len() {
            prop_assert_eq!(server_name::hide(&mut records[..whole]), Hello::Part);
        }
        let hidden = ServerName::try_from(&written[..]).is_err();
        prop_assert_eq!(server_name::hide(&mut records), if hidden { Hello::Hidden } else { Hello::Other });
        prop_assert_eq!(sent.iter().zip(&records).filter(|(sent, given)| sent != given).count(), usize::from(hidden));
        let given: Vec<u8> = if hidden {
            // Every octet that differs stands in the message, by the line above; where it does is what `shown` has to find.
            hello.iter().enumerate().map(|(at, octet)| if hello[at..].starts_with(&[0, 0, 0, 19, 0, 17, 0, 0, 14]) { 0xff } else { *octet }).collect()
        } else {
            hello.clone()
        };
        prop_assert_eq!(server_name::shown(&given), hidden.then_some(hello));
    }

    #[test]
    fn any_octets_for_a_hello(mut octets in proptest::collection::vec(any::<u8>(), 0..200), kind in any::<bool>()) {
        if kind && octets.len() > 5 {
            octets[..6].copy_from_slice(&[22, 3, 1, 0, 60, 1]);
        }
        let before = octets.clone();
        let hidden = server_name::hide(&mut octets) == Hello::Hidden;
        prop_assert_eq!(before != octets, hidden);
        server_name::shown(octets.get(5..).unwrap_or_default());
    }
}

#[test]
fn a_pair_that_does_not_match_is_refused() {
    let (_dir, files, _, tls) = served(TlsVersion::V1_2);
    put(&files.private_key, &pair().key);
    let error = ServerTls::load(Some(&files)).err().unwrap();
    assert!(matches!(error, TlsError::Files(_)), "{error}");
    assert!(tls.reload(Some(&files)).is_err());
    assert!(tls.config().is_some(), "the old configuration stays");
}

#[test]
fn without_tls_in_the_configuration_there_is_none() {
    let (_dir, files, _, tls) = served(TlsVersion::V1_2);
    tls.reload(None).unwrap();
    assert!(tls.config().is_none());
    tls.watch(&Counter::default());
    assert!(tls.config().is_none());
    tls.reload(Some(&files)).unwrap();
    assert!(tls.config().is_some());
}

/// Counts the errors that are logged.
struct Errors(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn trusts(pair: &Pair, tls: &ServerTls) -> bool {
    let mut client = client(&client_config(pair, BOTH));
    carry(&mut client, &mut server(tls)).is_ok() && !client.is_handshaking()
}

#[test]
fn a_renewed_pair_is_picked_up_and_a_broken_one_is_logged_once() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let errors = Arc::new(AtomicUsize::new(0));
    let subscriber = tracing_subscriber::registry().with(Errors(Arc::clone(&errors)));
    tracing::subscriber::with_default(subscriber, || {
        let (_dir, files, first, tls) = served(TlsVersion::V1_2);
        let (mut old_client, mut old_server) = (client(&client_config(&first, BOTH)), server(&tls));
        carry(&mut old_client, &mut old_server).unwrap();
        let before = tls.config().unwrap();
        tls.watch(&Counter::default());
        assert!(Arc::ptr_eq(&before, &tls.config().unwrap()), "nothing changed");

        let second = pair();
        // Half renewed, then broken: the old pair stays.
        put(&files.certificate, &second.certificate);
        tls.watch(&Counter::default());
        tls.watch(&Counter::default());
        assert_eq!(errors.load(Ordering::Relaxed), 1);
        assert!(tls.watch(&Counter::default()).is_some_and(|broken| broken.contains("smtp.tls")), "it stands until it is mended");
        put(&files.private_key, "no key at all");
        tls.watch(&Counter::default());
        tls.watch(&Counter::default());
        std::fs::remove_file(&files.private_key).unwrap();
        tls.watch(&Counter::default());
        tls.watch(&Counter::default());
        assert_eq!(errors.load(Ordering::Relaxed), 3);
        assert!(trusts(&first, &tls) && !trusts(&second, &tls));

        put(&files.private_key, &second.key);
        tls.watch(&Counter::default());
        assert!(trusts(&second, &tls) && !trusts(&first, &tls));
        assert_eq!(tls.watch(&Counter::default()), None);
        assert_eq!(errors.load(Ordering::Relaxed), 3);

        old_client.writer().write_all(b"NOOP\r\n").unwrap();
        carry(&mut old_client, &mut old_server).unwrap();
        assert_eq!(taken(&mut old_server), b"NOOP\r\n", "a connection keeps the configuration it began with");
    });
}
