//! What a connection is made to. Pure.

use url::Url;

/// Scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// `None`: a URL that no connection can be made for.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?.to_owned();
        Some(Self { tls: url.scheme() == "https", host, port: url.port_or_known_default()? })
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
