//! How a connection to an endpoint is made: the first of its addresses that answers, then TLS.
//!
//! Here the redirect's rule about addresses is kept, on the address that is connected to: what a name meant a moment ago does
//! not count (DNS rebinding). Logs nothing; fails with the phase and one short line.

use super::address;
use super::failure::{NoAnswer, Phase};
use super::head;
use super::names::Names;
use super::origin::Origin;
use super::proxy::{self, Proxy};
use super::wire::Wire;
use crate::ring::{self, Conn};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Name, all addresses and the TLS handshake together, within the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one host.
const ADDRESSES_MAX: usize = 16;
/// An address that has not answered by then is joined by the next one (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Room for a proxy's word.
const TUNNEL_STEP: usize = 1024;

/// What is connected to.
pub(super) struct To<'a> {
    pub(super) origin: &'a Origin,
    /// The host is none of the configuration's.
    pub(super) redirected: bool,
    pub(super) only_public: bool,
    pub(super) proxy: Option<&'a Proxy>,
}

pub(super) async fn connect(names: &Names, tls: &Arc<ClientConfig>, to: &To<'_>, deadline: Instant) -> Result<Wire, NoAnswer> {
    let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let (conn, ip) = match to.proxy {
        Some(proxy) => (through(names, proxy, to, deadline).await?, proxy::peer(to.origin)),
        None => reach(names, to, deadline).await?,
    };
    let tls = if to.origin.is_tls() { Some(Box::new(session(tls, to.origin)?)) } else { None };
    let mut wire = Wire::new(conn, tls, ip.to_canonical());
    wire.handshake(deadline).await.map_err(|error| NoAnswer::of(Phase::Tls, &error))?;
    Ok(wire)
}

/// A connection to the proxy, and for TLS a tunnel through it.
async fn through(names: &Names, proxy: &Proxy, to: &To<'_>, deadline: Instant) -> Result<Conn, NoAnswer> {
    if to.only_public && !address::is_public(proxy::peer(to.origin)) {
        return Err(NoAnswer::not_public());
    }
    let origin = Origin::of_proxy(&proxy.host, proxy.port);
    let (conn, _) = reach(names, &To { origin: &origin, redirected: false, only_public: false, proxy: None }, deadline).await?;
    if !to.origin.is_tls() {
        return Ok(conn);
    }
    let failed = |error: io::Error| NoAnswer::of(Phase::Connect, &error);
    let (sent, _) = conn.write_all(proxy::connect(proxy, to.origin), deadline).await;
    sent.map_err(failed)?;
    let (mut input, mut searched) = (Vec::new(), 0);
    loop {
        input.reserve(TUNNEL_STEP);
        let (came, back) = conn.read(std::mem::take(&mut input), deadline).await;
        input = back;
        if came.map_err(failed)? == 0 {
            return Err(NoAnswer::new(Phase::Connect, "the proxy closed the connection"));
        }
        while let Some((head, used)) =
            head::read(&input, &mut searched).map_err(|why| NoAnswer::new(Phase::Connect, format!("proxy: {why}")))?
        {
            input.drain(..used);
            searched = 0;
            if (200..=299).contains(&head.status) && input.is_empty() {
                return Ok(conn);
            }
            if !head.is_interim() {
                return Err(NoAnswer::new(Phase::Connect, format!("the proxy refuses: {}", head.status)));
            }
        }
    }
}

/// The addresses that are known, and others if none of them answers: they may be old.
async fn reach(names: &Names, to: &To<'_>, deadline: Instant) -> Result<(Conn, IpAddr), NoAnswer> {
    if let Some(path) = to.origin.socket() {
        let conn = Conn::connect_unix(path, deadline).await.map_err(|error| NoAnswer::of(Phase::Connect, &error))?;
        return Ok((conn, IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    let host = to.origin.host();
    let known = names.addresses(host, to.redirected, deadline).await.map_err(|why| NoAnswer::new(Phase::Name, why))?;
    let reached = match open(&known, to, deadline).await {
        Err(failed) => {
            let others = names.others(host, to.redirected, &known, deadline).await;
            if others.is_empty() { Err(failed) } else { open(&others, to, deadline).await }
        }
        reached => reached,
    };
    let (conn, ip) = reached?;
    names.connected(host, to.redirected, ip);
    Ok((conn, ip))
}

async fn open(addresses: &[IpAddr], to: &To<'_>, deadline: Instant) -> Result<(Conn, IpAddr), NoAnswer> {
    let allowed = addresses.iter().filter(|ip| !to.only_public || address::is_public(**ip)).take(ADDRESSES_MAX);
    let allowed: Vec<SocketAddr> = allowed.map(|ip| SocketAddr::new(*ip, to.origin.port())).collect();
    if allowed.is_empty() && !addresses.is_empty() {
        return Err(NoAnswer::not_public());
    }
    let (conn, address) = first(&allowed, deadline).await.map_err(|error| NoAnswer::of(Phase::Connect, &error))?;
    Ok((conn, address.ip()))
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<(Conn, SocketAddr)>>>>;

/// The first that answers: each is begun when the one before it has failed, or has not answered for a while. What is still under way
/// then is dropped, which ends it.
async fn first(addresses: &[SocketAddr], deadline: Instant) -> io::Result<(Conn, SocketAddr)> {
    let mut rest = addresses.iter().copied();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failed = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        if let Some(address) = rest.next() {
            attempts.push(Box::pin(async move { Conn::connect(address, deadline).await.map(|conn| (conn, address)) }));
        } else if attempts.is_empty() {
            return Err(failed);
        }
        let more = rest.len() > 0;
        let mut pause = pin!(ring::sleep_until(Instant::now() + ATTEMPT_DELAY));
        // An attempt that has failed, `None` at the end of the pause.
        let came = poll_fn(|cx| {
            for at in 0..attempts.len() {
                if let Some(attempt) = attempts.get_mut(at)
                    && let Poll::Ready(ended) = attempt.as_mut().poll(cx)
                {
                    drop(attempts.swap_remove(at));
                    return Poll::Ready(Some(ended));
                }
            }
            if more { pause.as_mut().poll(cx).map(|()| None) } else { Poll::Pending }
        });
        match came.await {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => failed = error,
            None => {}
        }
    }
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
    use super::{Duration, Instant, SocketAddr, first};
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    fn in_time() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addresses = [closed, SocketAddr::from(([127, 0, 0, 2], closed.port())), good];
        crate::ring::run(async move {
            assert_eq!(first(&addresses, in_time()).await.unwrap().1, good);
            assert!(first(&[closed], in_time()).await.is_err());
            assert!(first(&[], in_time()).await.is_err());
        })
        .unwrap();
    }

    /// A backlog that is full takes no SYN: as silent as a host that is off.
    #[test]
    fn an_address_that_is_silent_costs_a_moment() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let fills: Vec<Socket> = std::iter::repeat_with(|| {
            let fill = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            fill.set_nonblocking(true).unwrap();
            assert!(fill.connect(&silent.into()).is_err(), "begun, not done");
            fill
        })
        .take(8)
        .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        crate::ring::run(async move {
            let begun = Instant::now();
            assert_eq!(first(&[silent, silent, good], in_time()).await.unwrap().1, good);
            assert!(begun.elapsed() >= Duration::from_millis(500), "one after the other: {:?}", begun.elapsed());
            // The ring ends: what was dropped is under way no more.
        })
        .unwrap();
        drop(fills);
    }
}
