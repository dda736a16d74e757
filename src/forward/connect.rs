//! How a connection to an endpoint is made: the first of its addresses that answers, then TLS.
//!
//! Here the redirect's rule about addresses is kept, on the address that is connected to: what a name meant a moment ago does
//! not count (DNS rebinding). Logs nothing; fails with ureq's errors.

use super::progress::{note, progress, until};
use super::redirect;
use super::transport::{Wire, wait};
use nix::poll::PollFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::{ConnectionDetails, Connector, ShutdownHandle};
use ureq::{Error, Timeout};

/// All addresses and the TLS handshake together, within the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Connect {
    pub(super) tls: Arc<ClientConfig>,
}

impl Connector<()> for Connect {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, Error> {
        let deadline = until(&progress(), CONNECT_TIMEOUT);
        let (stream, address) = open(&details.addrs, deadline)?;
        let stream = Arc::new(stream);
        let handle: Weak<TcpStream> = Arc::downgrade(&stream);
        let handle: Weak<dyn ShutdownHandle> = handle;
        (details.register_shutdown)(handle)?;
        let tls = if details.needs_tls() {
            let host = details.uri.host().unwrap_or_default();
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Some(Box::new(self.handshake(host, &stream, deadline)?))
        } else {
            None
        };
        Ok(Some(Wire::new(stream, tls, address.ip().to_canonical())))
    }
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect").finish_non_exhaustive()
    }
}

/// Each address but the last may use half of the time that is left.
fn open(addresses: &[SocketAddr], deadline: Instant) -> Result<(TcpStream, SocketAddr), Error> {
    let only_public = progress().only_public;
    let mut last_error = None;
    let allowed: Vec<&SocketAddr> = addresses.iter().filter(|a| !only_public || redirect::is_public(a.ip())).collect();
    if allowed.is_empty() && !addresses.is_empty() {
        note(|progress| progress.not_public = true);
        return Err(Error::ConnectionFailed);
    }
    for (n, &&address) in allowed.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = if n + 1 == allowed.len() { left } else { left / 2 };
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok((stream, address));
            }
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.map_or(Error::Timeout(Timeout::Connect), Error::Io))
}

impl Connect {
    fn handshake(&self, host: &str, stream: &TcpStream, deadline: Instant) -> Result<ClientConnection, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Tls("the host is no name that a certificate can have"))?;
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut socket = stream;
        while tls.is_handshaking() || tls.wants_write() {
            let (done, event) = if tls.wants_write() {
                (tls.write_tls(&mut socket), PollFlags::POLLOUT)
            } else {
                (tls.read_tls(&mut socket), PollFlags::POLLIN)
            };
            match done {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed during the TLS handshake").into()),
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert that tells the endpoint why.
                        drop(tls.write_tls(&mut socket));
                        return Err(error.into());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(stream, event, Some(deadline))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(tls)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, SocketAddr, open};
    use crate::forward::progress;
    use std::net::TcpListener;

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        progress::begin(deadline, false, false);
        assert_eq!(open(&[closed, SocketAddr::from(([127, 0, 0, 2], closed.port())), good], deadline).unwrap().1, good);
        assert!(open(&[closed], deadline).is_err());
    }
}
