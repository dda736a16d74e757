//! Ports, names and endpoints. Connects, shakes hands, asks an endpoint for its OPTIONS, and hangs up: no mail.

use super::Finding;
use super::way::Way;
use crate::cli::client::{connect_tcp, reachable};
use crate::config::{AdminListen, Config, Route, files};
use crate::http::{Roots, Tls, same_origin};
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::net::NetError;
use mail_auth::hickory_resolver::proto::rr::{RData, Record};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection};
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of an endpoint's answer that are looked at.
const ANSWER_READ: u64 = 4096;
/// Domains that are looked up; more routes than this are no different.
const DOMAINS: usize = 20;

/// Whether each `smtp.listen` can be had, or is already ours.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    config.smtp.listen.iter().map(|address| port(*address, &config.smtp.hostname)).collect()
}

fn port(address: SocketAddr, hostname: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::fine(format!("smtp.listen {address}: free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match greeting(address) {
            Some(greeting) if greeting.starts_with("220 ") && greeting.contains(hostname) => {
                Finding::fine(format!("smtp.listen {address}: the daemon answers there"))
            }
            Some(greeting) => Finding::problem(
                format!("smtp.listen {address}: another server answers there ({greeting:?})"),
                format!("stop it; to see which: ss -ltnp 'sport = :{}'", address.port()),
            ),
            None => Finding::problem(
                format!("smtp.listen {address}: in use by something that does not greet"),
                format!("stop it; to see which: ss -ltnp 'sport = :{}'", address.port()),
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::warning(
            format!("smtp.listen {address}: this user may not take the port"),
            "the packaged unit may (CAP_NET_BIND_SERVICE); by hand: run doctor as root",
        ),
        Err(error) => {
            Finding::problem(format!("smtp.listen {address}: {error}"), "write an address of this machine, or [::] for all (ip address)")
        }
    }
}

fn greeting(address: SocketAddr) -> Option<String> {
    let mut stream = connect_tcp(&reachable(address).to_string(), TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let mut octets = [0; 200];
    let read = stream.read(&mut octets).ok().filter(|&read| read > 0)?;
    Some(String::from_utf8_lossy(octets.get(..read)?).lines().next()?.trim_end().to_owned())
}

/// The name in the banner resolves, forth and back, and the MX records of the routes' domains point to it.
pub(super) fn names(config: &Config) -> Vec<Finding> {
    let hostname = &config.smtp.hostname;
    if !hostname.contains('.') {
        let mend = "set smtp.hostname to the name that the MX record points to";
        let all_local = config.smtp.listen.iter().all(|address| address.ip().is_loopback());
        let what = format!("smtp.hostname {hostname} is no name of the internet");
        return vec![if all_local {
            Finding::fine(format!("{what}, and nothing outside can connect"))
        } else {
            Finding::warning(what, mend)
        }];
    }
    let lookup = match Lookup::new(config) {
        Ok(lookup) => lookup,
        Err(error) => {
            return vec![Finding::warning(format!("DNS cannot be asked: {error}"), "set dns.servers, or correct /etc/resolv.conf")];
        }
    };
    let mut findings = Vec::new();
    match lookup.addresses(hostname) {
        Ok(addresses) if addresses.is_empty() => {
            findings.push(Finding::warning(format!("smtp.hostname {hostname} has no address in DNS"), "add an A (and AAAA) record for it"));
        }
        Ok(addresses) => {
            let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            findings.push(Finding::fine(format!("smtp.hostname {hostname} is {}", list.join(", "))));
            findings.extend(addresses.into_iter().map(|address| pointer(address, hostname, lookup.names_of(address))));
        }
        Err(error) => {
            findings.push(Finding::warning(format!("smtp.hostname {hostname}: {error}"), format!("look at it: dig +short A {hostname}")))
        }
    }
    findings.extend(domains(&config.routes).into_iter().take(DOMAINS).map(|domain| exchange(&domain, hostname, lookup.exchanges(&domain))));
    findings
}

fn pointer(address: IpAddr, hostname: &str, names: Result<Vec<String>, String>) -> Finding {
    let mend = format!("let the owner of the address set its PTR record to {hostname}");
    match names {
        Ok(names) if names.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Finding::fine(format!("{address} points back to {hostname}"))
        }
        Ok(names) if names.is_empty() => Finding::warning(format!("{address} has no PTR record"), mend),
        Ok(names) => Finding::warning(format!("{address} points to {}, not to {hostname}", names.join(", ")), mend),
        Err(error) => Finding::warning(format!("{address}: its PTR record is not known: {error}"), mend),
    }
}

fn exchange(domain: &str, hostname: &str, exchanges: Result<Vec<String>, String>) -> Finding {
    let mend = format!("set its MX record: {domain}. MX 10 {hostname}.");
    match exchanges {
        Ok(exchanges) if exchanges.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Finding::fine(format!("the MX record of {domain} names {hostname}"))
        }
        Ok(exchanges) if exchanges.is_empty() => Finding::warning(format!("{domain} has no MX record"), mend),
        Ok(exchanges) => Finding::warning(format!("the MX record of {domain} names {}, not {hostname}", exchanges.join(", ")), mend),
        Err(error) => Finding::warning(format!("{domain}: its MX record is not known: {error}"), mend),
    }
}

/// The domains that the routes' globs name in full.
fn domains(routes: &[Arc<Route>]) -> BTreeSet<String> {
    let globs = routes.iter().flat_map(|route| &route.recipients);
    let domains = globs.filter_map(|glob| glob.rsplit_once('@')).map(|(_, domain)| domain.to_ascii_lowercase());
    domains.filter(|domain| domain.contains('.') && crate::config::hostname::is_domain(domain)).collect()
}

/// DNS as the daemon asks it, so `[dns]` is tried as well.
struct Lookup {
    runtime: tokio::runtime::Runtime,
    resolver: MessageAuthenticator,
}

impl Lookup {
    fn new(config: &Config) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let resolver = crate::verify::resolver(&config.dns, runtime.handle())?;
        Ok(Self { runtime, resolver })
    }

    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().lookup_ip(absolute(name)).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => none_or(error),
            }
        })
    }

    fn names_of(&self, address: IpAddr) -> Result<Vec<String>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().reverse_lookup(address).await {
                Ok(found) => Ok(names_in(found.answers())),
                Err(error) => none_or(error),
            }
        })
    }

    fn exchanges(&self, domain: &str) -> Result<Vec<String>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().mx_lookup(absolute(domain)).await {
                Ok(found) => Ok(names_in(found.answers())),
                Err(error) => none_or(error),
            }
        })
    }
}

fn names_in(records: &[Record]) -> Vec<String> {
    let names = records.iter().filter_map(|record| {
        if let RData::MX(exchange) = &record.data {
            return Some(exchange.exchange.to_ascii());
        }
        if let RData::PTR(name) = &record.data { Some(name.to_ascii()) } else { None }
    });
    names.map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect()
}

/// That there is no record is an answer.
fn none_or<T>(error: NetError) -> Result<Vec<T>, String> {
    if error.is_no_records_found() { Ok(Vec::new()) } else { Err(error.to_string()) }
}

fn absolute(name: &str) -> String {
    format!("{name}.")
}

/// Every endpoint can be reached: TCP, TLS where it is https, and HTTP/1.1.
pub(super) fn endpoints(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let way = match Way::of(config) {
        Ok(way) => way,
        Err(error) => return vec![Finding::problem(format!("endpoints cannot be looked at: {error}"), "look at the limits: ulimit -a")],
    };
    for route in &config.routes {
        let scan = route.scan.as_ref();
        let urls = [
            ("url", Some(&route.target.url), &route.socket),
            ("authorize_url", route.authorize_url.as_ref(), &route.authorize_socket),
            ("scan", scan.map(|scan| &scan.url), scan.map_or(&None, |scan| &scan.socket)),
        ];
        for (key, url, socket) in urls {
            findings.extend(url.map(|url| match socket {
                Some(path) => on_socket(route, key, path),
                None => endpoint(config, &way, route, key, url),
            }));
        }
    }
    findings
}

fn on_socket(route: &Route, key: &str, path: &Path) -> Finding {
    let place = format!("route {}: {key} unix:{}", route.name, path.display());
    match UnixStream::connect(path) {
        Ok(_) => Finding::fine(format!("{place}: reached")),
        Err(error) => Finding::problem(
            format!("{place}: {error}"),
            format!("start the endpoint, and let the daemon's user write to its socket; to see it: ls -l {}", path.display()),
        ),
    }
}

fn endpoint(config: &Config, way: &Way, route: &Route, key: &str, url: &url::Url) -> Finding {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Finding::problem(format!("route {}: {key} has no host", route.name), "correct it");
    };
    let place = format!("route {}: {key} {}://{host}:{port}", route.name, url.scheme());
    let stream = match way.connect(url) {
        Ok(stream) => stream,
        Err(_) if is_own_inspector(config, url) => return Finding::fine(format!("{place}: the daemon's own, not running now")),
        Err(error) => {
            return Finding::problem(
                format!("{place}: {error}"),
                format!("start the endpoint, or open the way to it: nc -vz {host} {port}"),
            );
        }
    };
    let origin = format!("{host}:{port}");
    let found = match probe(way, route, url, host, stream) {
        // Servers may say nothing at all to what they do not speak.
        Err(Trouble::NoHttp(what)) => match (url.scheme(), handshake(way, route, url, host)) {
            ("http", Handshake::Tls | Handshake::Http2) => Err(Trouble::OnlyTls),
            ("https", Handshake::Http2) => Err(Trouble::OnlyHttp2),
            _ => Err(Trouble::NoHttp(what)),
        },
        found => found,
    };
    match found {
        Ok(reached) => Finding::fine(format!("{place}: {reached}")),
        Err(Trouble::Tls(error)) => Finding::problem(
            format!("{place}: no TLS: {error}"),
            format!(
                "correct the endpoint's certificate, or set ca_certificate; to see it: openssl s_client -connect {origin} -servername {host}"
            ),
        ),
        Err(Trouble::NoTls) => Finding::problem(format!("{place}: no TLS: it answers in the clear"), format!("write http://{origin}")),
        Err(Trouble::OnlyTls) => Finding::problem(format!("{place}: it wants TLS"), format!("write https://{origin}")),
        Err(Trouble::ClientCertificate) => Finding::problem(
            format!("{place}: it wants a client certificate"),
            format!("set client_certificate and client_key of route {}, to a pair that it accepts", route.name),
        ),
        Err(Trouble::OnlyHttp2) => Finding::problem(
            format!("{place}: it speaks HTTP/2 only"),
            format!("let it take HTTP/1.1 as well; to see it: curl -v --http1.1 {}://{origin}/", url.scheme()),
        ),
        Err(Trouble::Proxy(status)) => Finding::problem(
            format!("{place}: the proxy answers {status}"),
            "correct forward.proxy, its user and password, or let it reach the endpoint",
        ),
        Err(Trouble::NoHttp(what)) => Finding::problem(
            format!("{place}: no HTTP answer: {what}"),
            format!("look at what listens there: curl -v {}://{origin}/", url.scheme()),
        ),
    }
}

/// What an endpoint does that could take no mail.
enum Trouble {
    Tls(String),
    NoTls,
    OnlyTls,
    ClientCertificate,
    OnlyHttp2,
    NoHttp(String),
    /// A proxy's word, with which it hands nothing on.
    Proxy(u16),
}

fn is_own_inspector(config: &Config, url: &url::Url) -> bool {
    let AdminListen::Tcp(address) = &config.admin.listen else { return false };
    url.socket_addrs(|| None).is_ok_and(|addresses| addresses.contains(address)) && url.path().starts_with("/inspector")
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

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use std::io::Write as _;

    fn config(text: &str) -> Config {
        Config::parse(crate::config::Origin::Development, text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Greets one client.
    fn server(greeting: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(greeting.as_bytes()).expect("it reads");
        });
        (address, thread)
    }

    #[test]
    fn a_port_is_free_ours_or_taken() {
        for (greeting, severity, what) in [
            ("220 mx.example.com ESMTP\r\n", Severity::Fine, "the daemon answers there"),
            ("220 other.example ESMTP\r\n", Severity::Problem, "another server answers there"),
            ("", Severity::Problem, "does not greet"),
        ] {
            let (address, thread) = server(greeting);
            let finding = port(address, "mx.example.com");
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
            assert!(severity == Severity::Fine || finding.mend.contains("ss -ltnp"), "{finding:?}");
            thread.join().expect("it ends");
            // Whoever had it is gone.
            assert_eq!(port(address, "mx.example.com").severity, Severity::Fine);
        }
        assert_eq!(port("192.0.2.1:25".parse().expect("an address"), "mx.example.com").severity, Severity::Problem);
    }

    #[test]
    fn records_of_the_dns() {
        let address = "192.0.2.1".parse().expect("an address");
        let names = |list: &[&str]| Ok(list.iter().map(|&name| name.to_owned()).collect());
        for (found, severity, what) in [
            (names(&["MX.example.com"]), Severity::Fine, "points back"),
            (names(&["a.example.net"]), Severity::Warning, "points to a.example.net, not to"),
            (names(&[]), Severity::Warning, "has no PTR record"),
            (Err("timed out".to_owned()), Severity::Warning, "timed out"),
        ] {
            let finding = pointer(address, "mx.example.com", found);
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
        }
        for (found, severity, what) in [
            (names(&["mx2.example.com", "mx.example.com"]), Severity::Fine, "names mx.example.com"),
            (names(&["mx2.example.com"]), Severity::Warning, "not mx.example.com"),
            (names(&[]), Severity::Warning, "has no MX record"),
        ] {
            let finding = exchange("example.com", "mx.example.com", found);
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
        }
    }

    #[test]
    fn domains_that_are_named_in_full() {
        let text = "[[route]]\nurl = \"http://localhost/\"\nrecipients = [\"*@A.example\", \"x+*@b.example\", \"*@*.c.example\", \"*\", \"postmaster\", \"y@a.example\"]";
        assert_eq!(domains(&config(text).routes).into_iter().collect::<Vec<_>>(), ["a.example", "b.example"]);
    }

    #[test]
    fn endpoints_over_tcp_and_tls() {
        let folder = tempfile::tempdir().expect("a directory");
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (own, key) = (folder.path().join("own.pem"), folder.path().join("own.key"));
        std::fs::write(&own, one.cert.pem()).expect("it can be written");
        std::fs::write(&key, one.signing_key.serialize_pem()).expect("it can be written");
        let tls =
            crate::config::Tls { certificate: own.clone(), private_key: key, require: false, min_version: crate::config::TlsVersion::V1_2 };
        let pair = files::certified_key(&tls).expect("a pair");
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
        let server = Arc::new(server);
        for (ca, severity, what) in [(true, Severity::Fine, "reached, TLSv1_3"), (false, Severity::Problem, "no TLS: ")] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let ca = if ca { format!("ca_certificate = \"{}\"", own.display()) } else { String::new() };
            let config = config(&format!("[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"https://localhost:{port}/in\"\n{ca}\n"));
            let server = Arc::clone(&server);
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut connection = rustls::ServerConnection::new(server).expect("a connection");
                // The client may refuse the certificate; it says so itself.
                while connection.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {
                    if connection.reader().read(&mut [0; 1000]).is_ok_and(|read| read > 0) {
                        connection.writer().write_all(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n").expect("it is buffered");
                        connection.send_close_notify();
                    }
                }
            });
            let [finding] = endpoints(&config).try_into().expect("one endpoint");
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
            thread.join().expect("it ends");
            let [finding] = endpoints(&config).try_into().expect("one endpoint");
            assert!(finding.severity == Severity::Problem && finding.what.contains("refused"), "{finding:?}");
        }
    }

    /// What listens there, and could take no mail.
    #[test]
    fn endpoints_that_are_reached_in_vain() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        let cases: [(&[u8], &str, &str, &str); 6] = [
            (b"HTTP/1.1 405 Method Not Allowed\r\n\r\n", "http", "reached", ""),
            (settings, "http", "HTTP/2 only", "curl"),
            (b"\x15\x03\x01\0\x02\x02\x28", "http", "it wants TLS", "https://localhost"),
            (b"HTTP/1.1 400 Bad\r\n\r\nThe plain HTTP request was sent to HTTPS port", "http", "it wants TLS", "https://localhost"),
            (b"220 mx.example ESMTP\r\n", "http", "no HTTP answer", "curl"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "https", "answers in the clear", "http://localhost"),
        ];
        for (answer, scheme, what, mend) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
                stream.write_all(answer).expect("it reads");
            });
            let config = config(&format!("[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"{scheme}://localhost:{port}/in\"\n"));
            let [finding] = endpoints(&config).try_into().expect("one endpoint");
            assert!(finding.what.contains(what) && finding.mend.contains(mend), "{finding:?}");
            thread.join().expect("it ends");
        }
    }
}
