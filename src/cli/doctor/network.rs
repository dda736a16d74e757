//! Ports, names and endpoints. Connects, shakes hands, and hangs up: no mail, no request.

use super::Finding;
use crate::cli::client::{connect_tcp, reachable};
use crate::config::{AdminListen, Config, Route, files};
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::net::NetError;
use mail_auth::hickory_resolver::proto::rr::{RData, Record};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
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

/// Every endpoint can be reached: TCP, and TLS where it is https.
pub(super) fn endpoints(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in &config.routes {
        let urls = [("url", Some(&route.url)), ("authorize_url", route.authorize_url.as_ref())];
        for (key, url) in urls {
            findings.extend(url.map(|url| endpoint(config, route, key, url)));
        }
    }
    findings
}

fn endpoint(config: &Config, route: &Route, key: &str, url: &url::Url) -> Finding {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Finding::problem(format!("route {}: {key} has no host", route.name), "correct it");
    };
    let place = format!("route {}: {key} {}://{host}:{port}", route.name, url.scheme());
    let stream = match connect_tcp(&format!("{host}:{port}"), TIMEOUT) {
        Ok(stream) => stream,
        Err(_) if is_own_inspector(config, url) => return Finding::fine(format!("{place}: the daemon's own, not running now")),
        Err(error) => {
            return Finding::problem(
                format!("{place}: {error}"),
                format!("start the endpoint, or open the way to it: nc -vz {host} {port}"),
            );
        }
    };
    if url.scheme() == "http" {
        return Finding::fine(format!("{place}: reached"));
    }
    match shake_hands(route, host, stream) {
        Ok(version) => Finding::fine(format!("{place}: reached, {version}")),
        Err(error) => Finding::problem(
            format!("{place}: no TLS: {error}"),
            format!(
                "correct the endpoint's certificate, or set ca_certificate; to see it: openssl s_client -connect {host}:{port} -servername {host}"
            ),
        ),
    }
}

fn is_own_inspector(config: &Config, url: &url::Url) -> bool {
    let AdminListen::Tcp(address) = &config.admin.listen else { return false };
    url.socket_addrs(|| None).is_ok_and(|addresses| addresses.contains(address)) && url.path().starts_with("/inspector")
}

fn shake_hands(route: &Route, host: &str, mut stream: TcpStream) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    match &route.ca_certificate {
        Some(path) => {
            for certificate in files::certificates(path, "ca_certificate").map_err(|error| error.to_string())? {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| error.to_string())?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    // The other side shall not log a cut connection; that it may be gone already does not matter.
    connection.send_close_notify();
    drop(connection.complete_io(&mut stream));
    Ok(connection.protocol_version().map_or_else(String::new, |version| format!("{version:?}")))
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
                while connection.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
            });
            let [finding] = endpoints(&config).try_into().expect("one endpoint");
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
            thread.join().expect("it ends");
            let [finding] = endpoints(&config).try_into().expect("one endpoint");
            assert!(finding.severity == Severity::Problem && finding.what.contains("refused"), "{finding:?}");
        }
    }
}
