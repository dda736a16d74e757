//! Every endpoint can be reached: TCP, TLS where it is https, and HTTP/1.1.

use super::Finding;
use super::probe::{Trouble, look};
use super::way::Way;
use crate::config::{AdminListen, Config, Route};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(super) fn inspect(config: &Config) -> Vec<Finding> {
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
            let mend = if way.is_by_proxy(url) {
                "mend the proxy, or correct forward.proxy".to_owned()
            } else {
                format!("start the endpoint, or open the way to it: nc -vz {host} {port}")
            };
            return Finding::problem(format!("{place}: {error}"), mend);
        }
    };
    let origin = format!("{host}:{port}");
    match look(way, route, url, host, stream) {
        Ok(reached) => Finding::fine(format!("{place}: {reached}")),
        Err(Trouble::Tls(error)) => Finding::problem(
            format!("{place}: no TLS: {error}"),
            format!(
                "correct the endpoint's certificate, or set ca_certificate; to see it: openssl s_client -connect {origin} -servername {host}"
            ),
        ),
        Err(Trouble::NoTls) => Finding::problem(format!("{place}: no TLS: it answers in the clear"), format!("write http://{origin}")),
        Err(Trouble::OnlyTls) => Finding::problem(format!("{place}: it wants TLS"), format!("write https://{origin}")),
        Err(Trouble::ClientCertificate) if route.identity.is_some() => Finding::problem(
            format!("{place}: it wants a client certificate, and does not take ours"),
            format!("renew client_certificate and client_key of route {}: to a pair that it accepts", route.name),
        ),
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

fn is_own_inspector(config: &Config, url: &url::Url) -> bool {
    let AdminListen::Tcp(address) = &config.admin.listen else { return false };
    url.socket_addrs(|| None).is_ok_and(|addresses| addresses.contains(address)) && url.path().starts_with("/inspector")
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::config::files;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    fn config(text: &str) -> Config {
        Config::parse(crate::config::Origin::Development, text).unwrap_or_else(|error| panic!("{error}"))
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
            let [finding] = inspect(&config).try_into().expect("one endpoint");
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
            thread.join().expect("it ends");
            let [finding] = inspect(&config).try_into().expect("one endpoint");
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
            let [finding] = inspect(&config).try_into().expect("one endpoint");
            assert!(finding.what.contains(what) && finding.mend.contains(mend), "{finding:?}");
            thread.join().expect("it ends");
        }
    }
}
