//! An HTTP proxy between us and endpoints (RFC 9110 sections 7.1 and 9.3.6). Pure.

use super::origin::{Origin, literal};
use std::net::{IpAddr, Ipv4Addr};
use url::Url;

/// Who stands behind a proxy has no address that we know: a name there counts as one of the open internet.
const BEYOND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub struct Proxy {
    /// An IPv6 address in brackets.
    pub host: String,
    pub port: u16,
    /// The whole value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// Whether an endpoint is asked through a proxy: sockets and this host are not.
pub(super) fn is_for(origin: &Origin) -> bool {
    let host = origin.host();
    let is_local = host.trim_end_matches('.').rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("localhost"));
    origin.socket().is_none() && !is_local && !literal(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether what is at this URL is asked through a proxy, where there is one.
#[must_use]
pub fn is_proxied(url: &Url) -> bool {
    Origin::of(url, None).is_some_and(|origin| is_for(&origin))
}

/// What stands for the address of who is asked.
pub(super) fn peer(origin: &Origin) -> IpAddr {
    literal(origin.host()).unwrap_or(BEYOND)
}

/// The head of a request for a tunnel to what is at this URL.
#[must_use]
pub fn tunnel(proxy: &Proxy, url: &Url) -> Vec<u8> {
    Origin::of(url, None).map(|origin| connect(proxy, &origin)).unwrap_or_default()
}

/// The head of a request for a tunnel.
pub(super) fn connect(proxy: &Proxy, origin: &Origin) -> Vec<u8> {
    let to = format!("{}:{}", origin.host(), origin.port());
    let authorization = proxy.authorization.as_ref().map(|value| format!("proxy-authorization: {value}\r\n")).unwrap_or_default();
    format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n{authorization}\r\n").into_bytes()
}
