//! One-shot operations that tokio-uring has not: each keeps its buffer and a share of its descriptor until the kernel is done.

use super::fill::Fill;
use super::in_hand::InFlight;
use super::spare::Lent;
use io_uring::{cqueue, opcode, squeue, types};
use nix::libc;
use socket2::{SockAddr, SockAddrStorage, SockRef};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// The largest length of one operation; the kernel's results are signed 32 bit.
const LEN_MAX: usize = 1 << 30;

/// A descriptor, closed when the last operation and the last owner are done with it.
pub(super) struct Socket {
    fd: OwnedFd,
    /// Behind `fd`: the spare descriptor is taken again after this one is closed.
    lent: Option<Lent>,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, lent: None }
    }

    pub(super) fn on_spare(fd: OwnedFd, lent: Lent) -> Self {
        Self { fd, lent: Some(lent) }
    }

    pub(super) fn is_on_spare(&self) -> bool {
        self.lent.is_some()
    }

    /// Ends every pending operation of a connection, from any place and without the ring.
    pub(super) fn shutdown(&self) {
        // ENOTCONN: the peer was first, and the kernel has ended the operations itself.
        SockRef::from(&self.fd).shutdown(Shutdown::Both).ok();
    }

    fn target(&self) -> types::Fd {
        types::Fd(self.fd.as_raw_fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel may touch while an operation is pending. Dropped inside the ring's driver when the future is gone: nothing
/// in here may submit operations in its `Drop`.
struct Stored<D> {
    data: D,
    _socket: Option<Rc<Socket>>,
    _in_flight: InFlight,
}

/// `data` is never pinned in place: what the kernel writes to is on the heap.
impl<D> Unpin for Stored<D> {}

struct Finish<D>(PhantomData<fn() -> D>);

impl<D> OneshotOutputTransform for Finish<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = Stored<D>;

    fn transform_oneshot_output(self, stored: Stored<D>, cqe: cqueue::Entry) -> Self::Output {
        let result = cqe.result();
        (u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg())), stored.data)
    }
}

/// An operation in the kernel. Dropped while pending it stays there until it ends by itself.
pub(super) struct Flight<D: 'static>(InFlightOneshot<Stored<D>, Finish<D>>);

impl<D> Flight<D> {
    /// # Safety
    /// The kernel may read and write at the addresses in `sqe` until it is done: they point into what `data` owns on the heap, where it
    /// stays when the value moves, or into static memory. The descriptor in it is the socket's.
    #[expect(unsafe_code, reason = "raw pointers go to the kernel")]
    unsafe fn submit(socket: Option<&Rc<Socket>>, data: D, sqe: squeue::Entry) -> Self {
        let stored = Stored { data, _socket: socket.map(Rc::clone), _in_flight: InFlight::new() };
        Self(UnsubmittedOneshot::new(stored, Finish(PhantomData), sqe).submit())
    }
}

impl<D> Future for Flight<D> {
    type Output = (io::Result<u32>, D);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// An operation on a connection. Dropped while pending it shuts the connection down, so that it ends in the kernel as well.
pub(super) struct Op<D: 'static> {
    flight: Flight<D>,
    socket: Option<Rc<Socket>>,
}

impl<D> Op<D> {
    /// # Safety
    /// As [`Flight::submit`].
    #[expect(unsafe_code, reason = "raw pointers go to the kernel")]
    unsafe fn submit(socket: &Rc<Socket>, data: D, sqe: squeue::Entry) -> Self {
        // SAFETY: by the caller's promise.
        let flight = unsafe { Flight::submit(Some(socket), data, sqe) };
        Self { flight, socket: Some(Rc::clone(socket)) }
    }

    /// The connection, while the operation is pending.
    pub(super) fn socket(&self) -> Option<&Rc<Socket>> {
        self.socket.as_ref()
    }
}

impl<D> Future for Op<D> {
    type Output = (io::Result<u32>, D);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = std::task::ready!(Pin::new(&mut self.flight).poll(cx));
        self.socket = None;
        Poll::Ready(done)
    }
}

impl<D> Drop for Op<D> {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            socket.shutdown();
        }
    }
}

/// Readiness to read (octets, EOF, an error), without a buffer.
pub(super) fn poll_in(socket: &Rc<Socket>) -> Op<()> {
    poll(socket, libc::POLLIN)
}

/// One of these events, a hang-up or an error, without a buffer; the result has the events.
pub(super) fn poll(socket: &Rc<Socket>, events: libc::c_short) -> Op<()> {
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: no address is in it.
    unsafe {
        Op::submit(socket, (), opcode::PollAdd::new(socket.target(), events.cast_unsigned().into()).build())
    }
}

/// Connects to the address; its octets are on the heap until the kernel is done with them.
pub(super) fn connect(socket: &Rc<Socket>, address: SockAddr) -> Op<Box<SockAddr>> {
    let address = Box::new(address);
    let sqe = opcode::Connect::new(socket.target(), address.as_ptr().cast(), address.len()).build();
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: the address is boxed, and the box is kept.
    unsafe {
        Op::submit(socket, address, sqe)
    }
}

/// Receives into the spare octets of `into`, which must have some; the caller counts them as filled.
pub(super) fn recv<B: Fill>(socket: &Rc<Socket>, mut into: B) -> Op<B> {
    let at = into.spare_ptr();
    let sqe = opcode::Recv::new(socket.target(), at, op_len(into.spare())).build();
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: by the contract of `Fill` the octets are writable, and stay until `into` is used again: it comes back with the result.
    unsafe {
        Op::submit(socket, into, sqe)
    }
}

/// Sends `octets[from..]`: all of it, unless an error or a cancellation comes between. No SIGPIPE.
pub(super) fn send(socket: &Rc<Socket>, octets: Vec<u8>, from: usize) -> Op<Vec<u8>> {
    let rest = octets.get(from..).unwrap_or_default();
    let sqe = opcode::Send::new(socket.target(), rest.as_ptr(), op_len(rest.len())).flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: the octets are the vector's, on the heap, and it is kept unchanged.
    unsafe {
        Op::submit(socket, octets, sqe)
    }
}

/// Where the kernel writes an accepted connection's peer.
pub(super) struct PeerAddr {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

/// Accepts one connection. Its future must be kept until it is done: dropped, it would swallow a connection.
pub(super) fn accept(socket: &Rc<Socket>) -> Flight<Box<PeerAddr>> {
    let storage = SockAddrStorage::zeroed();
    let len = storage.size_of();
    let mut peer = Box::new(PeerAddr { storage, len });
    let PeerAddr { storage, len } = &mut *peer;
    let sqe = opcode::Accept::new(socket.target(), (&raw mut *storage).cast(), len).flags(libc::SOCK_CLOEXEC).build();
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: both addresses are within the box, which is kept.
    unsafe {
        Flight::submit(Some(socket), peer, sqe)
    }
}

/// The result of an accept as what it is.
pub(super) fn accepted(result: io::Result<u32>, peer: PeerAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let number = i32::try_from(result?).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "a descriptor from the kernel is taken over")]
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    #[expect(unsafe_code, reason = "an address from the kernel is read")]
    // SAFETY: the kernel has written an address of this length into the storage, which started as zeros.
    let addr = unsafe { SockAddr::new(peer.storage, peer.len) };
    let addr = addr.as_socket().ok_or_else(|| io::Error::other("a connection that is not of an internet protocol"))?;
    Ok((fd, addr))
}

/// Cancels every operation on this descriptor in this ring.
pub(super) fn cancel_all(socket: &Rc<Socket>) -> Flight<()> {
    let builder = types::CancelBuilder::fd(socket.target()).all();
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: no address is in it.
    unsafe {
        Flight::submit(Some(socket), (), opcode::AsyncCancel2::new(builder).build())
    }
}

/// Does nothing, but through the kernel.
pub(super) fn nop() -> Flight<()> {
    #[expect(unsafe_code, reason = "an operation goes to the kernel")]
    // SAFETY: neither address nor descriptor is in it.
    unsafe {
        Flight::submit(None, (), opcode::Nop::new().build())
    }
}

/// Octets that were written and that the peer's side has not acknowledged; an end that was said counts as one.
pub(super) fn unacknowledged(socket: &Socket) -> io::Result<u32> {
    let mut octets: libc::c_int = 0;
    #[expect(unsafe_code, reason = "nobody has a safe form of this question")]
    // SAFETY: the request writes one `int`, which is given.
    let asked = unsafe { libc::ioctl(socket.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if asked < 0 { Err(io::Error::last_os_error()) } else { Ok(octets.unsigned_abs()) }
}

fn op_len(len: usize) -> u32 {
    u32::try_from(len.min(LEN_MAX)).unwrap_or(0)
}
