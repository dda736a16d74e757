//! A listening socket on a ring.
//!
//! The pending accept belongs to the listener, not to the future that waits for it: a connection that the kernel has accepted
//! is always handed out. Logs nothing; fails with the kernel's error.

use super::cancel::{cancel, is_passing};
use super::conn::Conn;
use super::op::{self, Flight, PeerAddr, Socket};
use super::spare::{Lent, Spare};
use super::task::reap;
use nix::libc;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A listening socket on this ring.
///
/// It keeps one spare descriptor. When the process has no other left, the next connection is accepted with that one and says so
/// ([`Conn::on_spare`]), so that its client can be told to come later; only while that one is open does `accept` fail with EMFILE.
pub struct Listener {
    socket: Rc<Socket>,
    pending: RefCell<Option<Flight<Box<PeerAddr>>>>,
    stopped: Cell<bool>,
    spare: Rc<Spare>,
}

impl Listener {
    /// The same listening socket may be on several rings (dup).
    #[must_use]
    pub fn new(socket: std::net::TcpListener) -> Self {
        // A waiting accept must not come back with EAGAIN, as it may for nonblocking sockets on older kernels.
        socket.set_nonblocking(false).ok();
        let spare = Rc::new(Spare::default());
        spare.take();
        Self { socket: Rc::new(Socket::new(socket.into())), pending: RefCell::default(), stopped: Cell::new(false), spare }
    }

    /// The next connection; `None` after [`Listener::stop`], once every connection that had been accepted by the kernel operation has been given out.
    /// Errors (EMFILE and the like) come back at once; the caller backs off. Call from one task only.
    pub async fn accept(&self) -> Option<io::Result<(Conn, SocketAddr)>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(Conn, SocketAddr)>>> {
        let mut pending = self.pending.borrow_mut();
        loop {
            if pending.is_none() && self.stopped.get() {
                return Poll::Ready(None);
            }
            let flight = pending.get_or_insert_with(|| op::accept(&self.socket));
            let (result, peer) = std::task::ready!(Pin::new(flight).poll(cx));
            *pending = None;
            match op::accepted(result, *peer) {
                Ok((fd, addr)) => return Poll::Ready(Some(Ok((self.connection(fd), addr)))),
                Err(error) if is_passing(&error) => {}
                Err(error) if is_out_of_descriptors(&error) && self.spare.lend() => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn connection(&self, fd: OwnedFd) -> Conn {
        Conn::new(if self.spare.take() { Socket::new(fd) } else { Socket::on_spare(fd, Lent::of(&self.spare)) })
    }

    /// Ends the pending accept by cancelling and awaiting it; loses no connection.
    pub fn stop(&self) {
        self.stopped.set(true);
        if self.pending.borrow().is_some() {
            drop(cancel(&self.socket));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The kernel would hand the next connection to the forgotten operation. One that came in this moment is closed, not kept.
        if let Some(flight) = self.pending.take() {
            let socket = Rc::clone(&self.socket);
            reap(async move {
                drop(cancel(&socket));
                let (result, peer) = flight.await;
                drop(op::accepted(result, *peer));
            });
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
