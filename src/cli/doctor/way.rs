//! The way to an endpoint, as the daemon goes it: names as `[dns]` says, and through `forward.proxy`. Logs nothing.

use crate::config::{self, Config};
use crate::http::{self, Proxy, Resolver};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use url::{Position, Url};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of what a proxy says before the tunnel is there.
const SAID_MAX: usize = 8 * 1024;

pub(super) struct Way {
    resolver: Arc<Resolver>,
    proxy: Option<Proxy>,
}

impl Way {
    pub(super) fn of(config: &Config) -> io::Result<Self> {
        let proxy = |proxy: &config::Proxy| Proxy {
            host: proxy.host.clone(),
            port: proxy.port,
            authorization: proxy.authorization.as_ref().map(|value| value.expose().to_owned()),
        };
        Ok(Self { resolver: Resolver::start(&config.dns.servers, config.dns.timeout)?, proxy: config.forward.proxy.as_ref().map(proxy) })
    }

    fn proxy(&self, url: &Url) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| http::is_proxied(url))
    }

    pub(super) fn is_by_proxy(&self, url: &Url) -> bool {
        self.proxy(url).is_some()
    }

    /// A proxy answers for this endpoint: what it says may be its own word.
    pub(super) fn is_answered_by_proxy(&self, url: &Url) -> bool {
        url.scheme() == "http" && self.proxy(url).is_some()
    }

    /// Where what is said is heard by the endpoint, and TLS begins with it.
    pub(super) fn connect(&self, url: &Url) -> io::Result<TcpStream> {
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let Some(proxy) = self.proxy(url) else { return self.open(host, port) };
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("the proxy {}:{}: {error}", proxy.host, proxy.port));
        let stream = self.open(&proxy.host, proxy.port).map_err(|error| failed(&error))?;
        if url.scheme() == "https" {
            tunnel(&stream, &http::tunnel(proxy, url)).map_err(|error| failed(&error))?;
        }
        Ok(stream)
    }

    fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = self.resolver.look_up(host).map_err(io::Error::other)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&SocketAddr::new(address, port), TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The start of a request's target, and fields for who hands it on.
    pub(super) fn start<'u>(&self, url: &'u Url) -> (&'u str, String) {
        let Some(proxy) = self.proxy(url).filter(|_| url.scheme() == "http") else { return ("", String::new()) };
        let authorization = proxy.authorization.as_ref();
        (&url[..Position::BeforePath], authorization.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default())
    }
}

fn tunnel(mut stream: &TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request)?;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") && said.len() < SAID_MAX {
        let mut octet = [0];
        stream.read_exact(&mut octet)?;
        said.extend_from_slice(&octet);
    }
    let line = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
    let takes = line.split_ascii_whitespace().nth(1).is_some_and(|status| status.starts_with('2'));
    if takes { Ok(()) } else { Err(io::Error::other(format!("it refuses: {line}"))) }
}
