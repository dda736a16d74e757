//! Accepts admin connections and serves HTTP/1.1 on each, all of it bounded: connections, header time, header size, and the
//! time a client may leave an answer unread. Logs accept errors at `warn`; a broken connection is nobody's concern.

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Sleep;

/// Room for the live views ([`super::live::MAX_CLIENTS`]) and everything else.
const MAX_CONNECTIONS: usize = 1536;
/// For a request's header to come, and for an idle connection to be kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that lets an answer wait must take so many octets of it in so much time, or is cut.
const WRITE_STALL: Duration = Duration::from_secs(20);
const WRITE_LEAST: usize = 64 * 1024;
/// What the kernel buffers for a client that does not read.
const SEND_BUFFER: usize = 128 * 1024;
const READ_BUFFER: usize = 32 * 1024;
/// After an accept error, which is mostly a want of descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A bound, listening socket.
pub enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    Tcp { local: IpAddr, peer_is_loopback: bool },
    Unix,
}

impl Arrival {
    /// From this machine.
    pub(super) fn is_local(self) -> bool {
        match self {
            Self::Unix => true,
            Self::Tcp { local, peer_is_loopback } => local.is_loopback() && peer_is_loopback,
        }
    }
}

/// The listening socket, on the runtime.
pub(super) enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Socket {
    pub(super) fn new(socket: AdminSocket) -> io::Result<Self> {
        match socket {
            AdminSocket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(tokio::net::TcpListener::from_std(listener)?))
            }
            AdminSocket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(tokio::net::UnixListener::from_std(listener)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Arrival)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER)?;
                let local = stream.local_addr()?.ip().to_canonical();
                Ok((Stream::Tcp(stream), Arrival::Tcp { local, peer_is_loopback: peer.ip().to_canonical().is_loopback() }))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Arrival::Unix))
            }
        }
    }
}

/// Serves until it is dropped. Over the limit the connection that has been silent for longest makes room: whoever asks something at
/// once, as a health check does, is heard beside any number that only hold a place. Where none is silent, the new one is closed.
pub(super) async fn serve(socket: Socket, router: &Router) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut silent = Silent::default();
    loop {
        let (stream, arrival) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let place = match Arc::clone(&room).try_acquire_owned() {
            Ok(place) => place,
            Err(_) if silent.end_oldest() => match Arc::clone(&room).acquire_owned().await {
                Ok(place) => place,
                Err(_) => return,
            },
            Err(_) => {
                tracing::debug!("admin connection closed: too many are open");
                continue;
            }
        };
        let speech = silent.enter();
        let service = TowerToHyperService::new(router.clone().layer(Extension(arrival)).layer(Extension(Arc::clone(&speech))));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(Unstalled::new(stream, WRITE_STALL)), service);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "admin connection ended");
                },
                () = speech.ended.notified() => tracing::debug!("admin connection closed: silent or stalled, and others wait"),
            }
            drop(place);
        });
    }
}

/// Whether a connection has asked anything: the whole header of a request has come.
#[derive(Default)]
pub(super) struct Speech {
    heard: AtomicBool,
    ended: Notify,
}

impl Speech {
    pub(super) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Its connection is closed, whatever it waits for.
    pub(super) fn end(&self) {
        self.ended.notify_one();
    }

    #[cfg(test)]
    pub(super) fn is_ended(&self) -> bool {
        futures_util::FutureExt::now_or_never(self.ended.notified()).is_some()
    }
}

/// Connections in the order they came; those that have spoken or gone are left out when they are met.
#[derive(Default)]
struct Silent(VecDeque<Weak<Speech>>);

impl Silent {
    fn enter(&mut self) -> Arc<Speech> {
        let speech = Arc::new(Speech::default());
        if self.0.len() > 2 * MAX_CONNECTIONS {
            self.0.retain(|speech| Self::is_silent(speech).is_some());
        }
        self.0.push_back(Arc::downgrade(&speech));
        speech
    }

    fn is_silent(speech: &Weak<Speech>) -> Option<Arc<Speech>> {
        speech.upgrade().filter(|speech| !speech.heard.load(Ordering::Relaxed))
    }

    /// False: nobody is silent.
    fn end_oldest(&mut self) -> bool {
        let oldest = std::iter::from_fn(|| self.0.pop_front()).find_map(|speech| Self::is_silent(&speech));
        oldest.is_some_and(|speech| {
            speech.end();
            true
        })
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A stream whose writes fail when the peer takes next to nothing for as long as `patience`.
struct Unstalled {
    stream: Stream,
    patience: Duration,
    /// Runs from a write that had to wait until all is written or enough of it.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Octets that the peer has taken meanwhile.
    taken: usize,
}

impl Unstalled {
    fn new(stream: Stream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None, taken: 0 }
    }

    /// Passes on a write's result; one that waits gets a deadline.
    fn with_deadline(&mut self, context: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = result {
            self.taken += written.as_ref().copied().unwrap_or(0);
            if self.taken >= WRITE_LEAST {
                self.all_is_well();
            }
            return Poll::Ready(written);
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            self.taken = 0;
            Box::pin(tokio::time::sleep(self.patience))
        });
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn all_is_well(&mut self) {
        self.stalled = None;
        self.taken = 0;
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, octets),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, octets),
        };
        self.with_deadline(context, result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.with_deadline(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for when nothing is left to write.
        self.all_is_well();
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_and_one_that_takes_little_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
            let mut stream = Unstalled::new(Stream::Unix(ours), Duration::from_millis(300));
            // Ten reads, each well within the patience, all together well beyond it.
            let reader = async {
                let mut some = vec![0; 400_000];
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    theirs.read_exact(&mut some).await.unwrap();
                }
            };
            let (written, ()) = tokio::join!(stream.write_all(&[0; 4_000_000]), reader);
            written.unwrap();
            // Some octets again and again are no way out, nor are none.
            let trickle = async {
                let mut some = [0; 2000];
                loop {
                    theirs.read_exact(&mut some).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let error = tokio::select! {
                written = stream.write_all(&[0; 8_000_000]) => written.unwrap_err(),
                () = trickle => unreachable!(),
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(stream.write_all(&[0; 8_000_000]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        });
    }
}
