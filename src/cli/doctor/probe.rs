//! What answers at an endpoint, without a message: a handshake as the daemon makes it, and the endpoint's OPTIONS.

use super::way::Way;
use crate::config::{Route, files};
use crate::http::{Roots, Tls, same_origin};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Octets of an endpoint's answer that are looked at.
const ANSWER_READ: u64 = 4096;

/// What an endpoint does that could take no mail.
pub(super) enum Trouble {
    Tls(String),
    NoTls,
    OnlyTls,
    ClientCertificate,
    OnlyHttp2,
    NoHttp(String),
    /// A proxy's word, with which it hands nothing on.
    Proxy(u16),
}

/// Looks closer where it was not understood: servers may say nothing at all to what they do not speak.
pub(super) fn look(way: &Way, route: &Route, url: &url::Url, host: &str, stream: TcpStream) -> Result<String, Trouble> {
    match probe(way, route, url, host, stream) {
        Err(Trouble::NoHttp(what)) => match (url.scheme(), handshake(way, route, url, host)) {
            ("http", Handshake::Tls | Handshake::Http2) => Err(Trouble::OnlyTls),
            ("https", Handshake::Http2) => Err(Trouble::OnlyHttp2),
            _ => Err(Trouble::NoHttp(what)),
        },
        found => found,
    }
}

/// Asks for what may be asked of it: any HTTP/1 answer will do.
fn probe(way: &Way, route: &Route, url: &url::Url, host: &str, stream: TcpStream) -> Result<String, Trouble> {
    let silent = |error: io::Error| Trouble::NoHttp(error.to_string());
    let authority = url.authority().rsplit('@').next().unwrap_or_default();
    let (before, fields) = way.start(url);
    let path = url.path();
    let request =
        format!("OPTIONS {before}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: mailsluice\r\n{fields}Connection: close\r\n\r\n");
    if url.scheme() == "http" {
        let start = asked(stream, &request).map_err(silent)?;
        // An alert of TLS, or nginx' own words for it.
        return if start.starts_with(b"\x15\x03") || said(&start, "plain HTTP request was sent to HTTPS port") {
            Err(Trouble::OnlyTls)
        } else {
            match read_start(&start)? {
                status @ (407 | 502..=504) if way.is_answered_by_proxy(url) => Err(Trouble::Proxy(status)),
                _ => Ok("reached".to_owned()),
            }
        };
    }
    let asks = Arc::new(AsksForCertificate::default());
    let mut connection = session(route, same_origin(url, &route.target.url), host, &asks).map_err(Trouble::Tls)?;
    let mut stream = stream;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            return Err(handshake_trouble(&error));
        }
    }
    let version = connection.protocol_version().map_or_else(String::new, |version| format!("{version:?}"));
    let (was_asked, shows_one) = (|| asks.asked.load(Ordering::Relaxed), asks.shown.get().is_some());
    match asked(rustls::StreamOwned::new(connection, stream), &request) {
        Ok(start) => {
            // To one that was shown, an application may say no by these as well.
            let refused = match read_start(&start)? {
                495 | 496 => true,
                400 => !shows_one || said(&start, "SSL certificate"),
                401 | 403 => !shows_one,
                _ => false,
            };
            if refused && was_asked() { Err(Trouble::ClientCertificate) } else { Ok(format!("reached, {version}")) }
        }
        // In TLS 1.3 the server says so behind the handshake.
        Err(error) if was_asked() && (!shows_one || is_alert(&error)) => Err(Trouble::ClientCertificate),
        Err(error) => Err(silent(error)),
    }
}

/// How a server answers a handshake.
#[derive(PartialEq, Eq)]
enum Handshake {
    /// Not as TLS does.
    None,
    Tls,
    Http2,
}

fn handshake(way: &Way, route: &Route, url: &url::Url, host: &str) -> Handshake {
    let (Ok(mut stream), Ok(config), Ok(name)) = (way.connect(url), tls(route, &Arc::default()), server_name(host)) else {
        return Handshake::None;
    };
    let mut config = ClientConfig::clone(&config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let Ok(mut connection) = ClientConnection::new(Arc::new(config), name) else { return Handshake::None };
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            let said = error.get_ref().and_then(|inner| inner.downcast_ref());
            let is_tls = said.is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)));
            return if is_tls { Handshake::Tls } else { Handshake::None };
        }
    }
    if connection.alpn_protocol() == Some(b"h2") { Handshake::Http2 } else { Handshake::Tls }
}

fn session(route: &Route, at_home: bool, host: &str, asks: &Arc<AsksForCertificate>) -> Result<ClientConnection, String> {
    if let (Some(identity), true) = (&route.identity, at_home) {
        let key = files::client_key(identity).map_err(|error| error.to_string())?;
        asks.shown.get_or_init(|| Arc::new(key));
    }
    ClientConnection::new(tls(route, asks)?, server_name(host)?).map_err(|error| error.to_string())
}

/// As the daemon does it.
fn tls(route: &Route, asks: &Arc<AsksForCertificate>) -> Result<Arc<ClientConfig>, String> {
    let trusted = match &route.ca_certificate {
        Some(path) => files::certificates(path, "ca_certificate").map_err(|error| error.to_string())?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    Ok(Tls::new(&Roots::new(trusted)?, Some(Arc::clone(asks) as Arc<dyn ResolvesClientCert>))?.config())
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())
}

fn handshake_trouble(error: &io::Error) -> Trouble {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => Trouble::NoTls,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => Trouble::OnlyHttp2,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired)) => Trouble::ClientCertificate,
        _ => Trouble::Tls(error.to_string()),
    }
}

fn is_alert(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(rustls::Error::AlertReceived(_)))
}

/// The start of the answer.
fn asked(mut stream: impl io::Read + io::Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut start = Vec::new();
    match stream.take(ANSWER_READ).read_to_end(&mut start) {
        // What came before it broke off tells enough.
        Err(_) if !start.is_empty() => Ok(start),
        Err(error) => Err(error),
        Ok(_) => Ok(start),
    }
}

fn said(start: &[u8], words: &str) -> bool {
    String::from_utf8_lossy(start).contains(words)
}

/// Its status.
fn read_start(start: &[u8]) -> Result<u16, Trouble> {
    let text = String::from_utf8_lossy(start.get(..40.min(start.len())).unwrap_or_default());
    if let Some(rest) = text.trim_start().strip_prefix("HTTP/1.") {
        let status = rest.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        return status.ok_or_else(|| Trouble::NoHttp(format!("{text:?}")));
    }
    // A frame of HTTP/2 begins with its length; the first one is SETTINGS (RFC 9113 section 3.4), or GOAWAY.
    match start {
        [0, _, _, 4 | 7, ..] => Err(Trouble::OnlyHttp2),
        [] => Err(Trouble::NoHttp("it closes the connection".to_owned())),
        _ => Err(Trouble::NoHttp(format!("{text:?}"))),
    }
}

/// Shows what the route has, and notes that something was asked for.
#[derive(Debug, Default)]
struct AsksForCertificate {
    asked: AtomicBool,
    shown: OnceLock<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for AsksForCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.shown.get().map(Arc::clone)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
