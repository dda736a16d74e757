//! What a connection is made to. Pure.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use url::Url;

/// Scheme, host and port, or a Unix socket.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin {
    tls: bool,
    host: String,
    port: u16,
    socket: Option<PathBuf>,
}

impl Origin {
    /// `None`: a URL that no connection can be made for.
    pub(super) fn of(url: &Url, socket: Option<&Path>) -> Option<Self> {
        let host = url.host_str()?.to_owned();
        let tls = url.scheme() == "https" && socket.is_none();
        Some(Self { tls, host, port: url.port_or_known_default()?, socket: socket.map(Path::to_owned) })
    }

    pub(super) fn of_proxy(host: &str, port: u16) -> Self {
        Self { tls: false, host: host.to_owned(), port, socket: None }
    }

    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// As it stands in the URL: an IPv6 address in brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// A host that is an address, an IPv6 one in brackets.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse().ok()
}
