//! How a connection to an endpoint is made: the first of its addresses that answers, then TLS.
//!
//! Here the redirect's rule about addresses is kept, on the address that is connected to: what a name meant a moment ago does
//! not count (DNS rebinding). Logs nothing; fails with one short line.

use super::address;
use super::failure::{NoAnswer, Phase};
use super::origin::Origin;
use super::resolver::CachedResolver;
use super::wire::Wire;
use crate::ring::Conn;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All addresses and the TLS handshake together, within the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one host.
const ADDRESSES_MAX: usize = 16;

pub(super) async fn connect(
    resolver: &CachedResolver,
    tls: &Arc<ClientConfig>,
    origin: &Origin,
    only_public: bool,
    deadline: Instant,
) -> Result<Wire, NoAnswer> {
    let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let addresses = resolver.addresses(origin.host(), origin.port(), deadline).await.map_err(|why| NoAnswer::new(Phase::Name, why))?;
    let (conn, address) = open(&addresses, only_public, deadline).await?;
    let tls = if origin.is_tls() { Some(Box::new(session(tls, origin)?)) } else { None };
    let mut wire = Wire::new(conn, tls, address.ip().to_canonical());
    wire.handshake(deadline).await.map_err(|error| NoAnswer::of(Phase::Tls, &error))?;
    Ok(wire)
}

/// Each address but the last may use half of the time that is left.
async fn open(addresses: &[SocketAddr], only_public: bool, deadline: Instant) -> Result<(Conn, SocketAddr), NoAnswer> {
    let allowed: Vec<SocketAddr> =
        addresses.iter().filter(|address| !only_public || address::is_public(address.ip())).take(ADDRESSES_MAX).copied().collect();
    if allowed.is_empty() && !addresses.is_empty() {
        return Err(NoAnswer::not_public());
    }
    let mut last = NoAnswer::new(Phase::Connect, "timed out");
    for (n, &address) in allowed.iter().enumerate() {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let share = if n + 1 == allowed.len() { left } else { left / 2 };
        if share.is_zero() {
            break;
        }
        match Conn::connect(address, now + share).await {
            Ok(conn) => return Ok((conn, address)),
            Err(error) => last = NoAnswer::of(Phase::Connect, &error),
        }
    }
    Err(last)
}

fn session(tls: &Arc<ClientConfig>, origin: &Origin) -> Result<ClientConnection, NoAnswer> {
    let host = origin.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| NoAnswer::new(Phase::Tls, "the host is no name that a certificate can have"))?;
    let mut session = ClientConnection::new(Arc::clone(tls), name).map_err(|error| NoAnswer::new(Phase::Tls, error.to_string()))?;
    // What is written at once is bounded by who writes; a bound here would also count what the records add.
    session.set_buffer_limit(None);
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, SocketAddr, open};
    use std::net::TcpListener;

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let addresses = [closed, SocketAddr::from(([127, 0, 0, 2], closed.port())), good];
        crate::ring::run(async move {
            assert_eq!(open(&addresses, false, deadline).await.unwrap().1, good);
            assert!(open(&[closed], false, deadline).await.is_err());
        })
        .unwrap();
    }
}
