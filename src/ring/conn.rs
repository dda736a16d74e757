//! A connection on a ring: wait, read, write, close, each with a deadline.
//!
//! Logs nothing. Fails with the kernel's error, `TimedOut` at a deadline, `Interrupted` after an interrupt.

use super::cancel::{Ended, Interrupt, Timer, until};
use super::fill::Fill;
use super::op::{self, Socket};
use super::time;
use nix::libc;
use socket2::{SockAddr, SockRef};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

/// Octets that a closing connection swallows at most, so that the peer reads the last reply instead of a reset.
const LINGER_OCTETS: usize = 256 * 1024;

/// How often it is looked whether the last reply has arrived, where the peer closed before it.
const ACKNOWLEDGED_EVERY: Duration = Duration::from_millis(20);

/// A connection on this ring. Dropping it shuts it down and closes it, without leaving an operation or a descriptor behind.
///
/// One task may read while another writes. Its futures may be dropped too: one that is pending shuts the connection down, for its octets would be lost.
pub struct Conn {
    socket: Rc<Socket>,
    read_timer: Timer,
    write_timer: Timer,
    interrupt: Rc<Interrupt>,
    /// The last wait said that there is something to read.
    ready: Cell<bool>,
}

/// Ends a connection's wait from another task of its ring.
pub struct Interrupter(Weak<Interrupt>);

impl Interrupter {
    /// As [`Conn::interrupt`]; nothing happens if the connection is gone.
    pub fn interrupt(&self) {
        if let Some(interrupt) = self.0.upgrade() {
            interrupt.wish();
        }
    }
}

impl Conn {
    pub(super) fn new(socket: Socket) -> Self {
        // Replies are whole when they are written: waiting to fill a segment would only delay them. A connection that is
        // already reset refuses the option; its first read says so. (Inherited from the listening socket it would be missing where the
        // peer came before we had that.)
        SockRef::from(&socket).set_tcp_nodelay(true).ok();
        Self {
            socket: Rc::new(socket),
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            interrupt: Rc::default(),
            ready: Cell::new(false),
        }
    }

    /// A connection from elsewhere (a test's client), on this ring from now on.
    #[must_use]
    pub fn from_std(stream: std::net::TcpStream) -> Self {
        Self::new(Socket::new(stream.into()))
    }

    /// Connects to an address, on this ring.
    pub async fn connect(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        Self::connect_to(address.into(), deadline).await
    }

    /// Connects to a Unix socket, on this ring.
    pub async fn connect_unix(path: &Path, deadline: Instant) -> io::Result<Self> {
        Self::connect_to(SockAddr::unix(path)?, deadline).await
    }

    async fn connect_to(address: SockAddr, deadline: Instant) -> io::Result<Self> {
        let socket = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
        let conn = Self::new(Socket::new(socket.into()));
        loop {
            match until(op::connect(&conn.socket, address.clone()), &conn.write_timer, deadline, None).await.0 {
                Ended::Done(_) => return Ok(conn),
                // A connection that a signal interrupted goes on by itself; asked again the kernel says what became of it.
                Ended::Again => {}
                Ended::Failed(error) if error.raw_os_error() == Some(libc::EISCONN) => return Ok(conn),
                Ended::Failed(error) => return Err(error),
            }
        }
    }

    /// Whether it was accepted with the last descriptor the process may have: tell the client to come later, and drop it.
    #[must_use]
    pub fn on_spare(&self) -> bool {
        self.socket.is_on_spare()
    }

    /// Our side's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = SockRef::from(&*self.socket).local_addr()?;
        addr.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The next read looks at once for what is there, as after a wait.
    pub fn look_again(&self) {
        self.ready.set(true);
    }

    /// Ends the pending [`Conn::readable`], or the next one, with `Interrupted`.
    pub fn interrupt(&self) {
        self.interrupt.wish();
    }

    /// For whoever ends idle connections when the daemon drains.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(Rc::downgrade(&self.interrupt))
    }

    /// Waits without a buffer until there are octets (or EOF). `TimedOut` at the deadline; also ends early with `Interrupted` after [`Conn::interrupt`].
    pub fn readable(&self, deadline: Instant) -> impl Future<Output = io::Result<()>> {
        self.wait(deadline, Some(&self.interrupt))
    }

    /// Waits until the peer takes octets, and with `or_read` until it says something, whichever is first: (takes, says). A connection that
    /// broke is both.
    pub async fn writable(&self, or_read: bool, deadline: Instant) -> io::Result<(bool, bool)> {
        let wanted = if or_read { libc::POLLOUT | libc::POLLIN } else { libc::POLLOUT };
        in_time(deadline)?;
        loop {
            match until(op::poll(&self.socket, wanted), &self.write_timer, deadline, None).await.0 {
                Ended::Done(events) => {
                    let came = |event: libc::c_short| events & u32::from(event.cast_unsigned()) != 0;
                    let broke = came(libc::POLLERR) || came(libc::POLLHUP);
                    return Ok((broke || came(libc::POLLOUT), broke || came(libc::POLLIN)));
                }
                Ended::Again => {}
                Ended::Failed(error) => return Err(error),
            }
        }
    }

    /// Hands the slices to the socket as far as they fit, without waiting; `WouldBlock` if nothing fits.
    pub fn send_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(&*self.socket).send_vectored_with_flags(slices, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }

    /// Acknowledges what has come at once, and what comes next; a socket that knows no such thing does as it does.
    pub fn acknowledge(&self) {
        SockRef::from(&*self.socket).set_tcp_quickack(true).ok();
    }

    /// Whether the connection is open and the peer has said nothing that was not read.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut octet = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&*self.socket).recv_with_flags(&mut octet, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Not an async block, which would hold its arguments twice: this is what an idle connection is made of.
    fn wait<'a>(&'a self, deadline: Instant, interrupt: Option<&'a Interrupt>) -> impl Future<Output = io::Result<()>> + 'a {
        let wait = move || until(op::poll_in(&self.socket), &self.read_timer, deadline, interrupt);
        let mut waiting = None;
        poll_fn(move |cx| {
            if waiting.is_none()
                && let Err(late) = in_time(deadline)
            {
                return Poll::Ready(Err(late));
            }
            loop {
                match ready!(Pin::new(waiting.get_or_insert_with(wait)).poll(cx)).0 {
                    Ended::Done(_) => {
                        self.ready.set(true);
                        return Poll::Ready(Ok(()));
                    }
                    Ended::Again => waiting = None,
                    Ended::Failed(error) => return Poll::Ready(Err(error)),
                }
            }
        })
    }

    /// Reads into the spare octets of `into`; 0 is EOF. A read that is cancelled at the deadline but has data returns the data.
    /// Without spare octets it is `InvalidInput`: it would look like EOF.
    pub async fn read<B: Fill>(&self, mut into: B, deadline: Instant) -> (io::Result<usize>, B) {
        if into.spare() == 0 {
            return (Err(io::ErrorKind::InvalidInput.into()), into);
        }
        if let Err(late) = in_time(deadline) {
            return (Err(late), into);
        }
        // What a wait has announced is there: taking it at once saves a turn of the ring. Only once per wait, for a task that
        // never waits would keep the ring from submitting.
        if self.ready.take()
            && let Some(done) = self.read_now(&mut into)
        {
            return (done, into);
        }
        loop {
            let (ended, data) = until(op::recv(&self.socket, into), &self.read_timer, deadline, None).await;
            into = data;
            match ended {
                Ended::Done(n) => return (count_filled(&mut into, n as usize), into),
                Ended::Again => {}
                Ended::Failed(error) => return (Err(error), into),
            }
        }
    }

    /// Takes what is there without waiting; `None` if nothing is. 0 is EOF, or no spare octets in `into`.
    pub fn read_now<B: Fill>(&self, into: &mut B) -> Option<io::Result<usize>> {
        let (at, len) = (into.spare_ptr().cast::<MaybeUninit<u8>>(), into.spare());
        #[expect(unsafe_code, reason = "the octets that `Fill` promises, as a slice")]
        // SAFETY: by the contract of `Fill` these octets are writable and the value's own, which is borrowed here.
        let octets = unsafe { std::slice::from_raw_parts_mut(at, len) };
        match SockRef::from(&*self.socket).recv_with_flags(octets, libc::MSG_DONTWAIT) {
            Ok(n) => Some(count_filled(into, n)),
            Err(error) if super::cancel::is_passing(&error) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Writes all of it, or fails; a buffer comes back for its memory, with what had to wait for the peer in it.
    pub async fn write_all(&self, octets: Vec<u8>, deadline: Instant) -> (io::Result<()>, Vec<u8>) {
        self.write_flagged(octets, 0, deadline).await
    }

    /// As [`Conn::write_all`], when the next thing is [`Conn::close`]: what fits into a segment goes with the FIN.
    pub async fn write_last(&self, octets: Vec<u8>, deadline: Instant) -> (io::Result<()>, Vec<u8>) {
        self.write_flagged(octets, libc::MSG_MORE, deadline).await
    }

    async fn write_flagged(&self, mut octets: Vec<u8>, flags: libc::c_int, deadline: Instant) -> (io::Result<()>, Vec<u8>) {
        // A reply nearly always fits the socket's buffer: sent at once it saves a turn of the ring. A writer always comes to wait
        // for its peer sooner or later, so the ring gets its turns.
        let now = SockRef::from(&*self.socket).send_with_flags(&octets, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | flags);
        let mut sent = match now {
            Ok(n) => n,
            Err(error) if super::cancel::is_passing(&error) => 0,
            Err(error) => return (Err(error), octets),
        };
        if sent < octets.len() {
            // Who waits for its peer holds what is left, and no more.
            octets = octets.get(sent..).unwrap_or_default().to_vec();
            sent = 0;
        }
        while sent < octets.len() {
            let (ended, data) = until(op::send(&self.socket, octets, sent), &self.write_timer, deadline, None).await;
            octets = data;
            match ended {
                Ended::Done(0) => return (Err(io::ErrorKind::WriteZero.into()), octets),
                // Short of all: a cancellation came between. Whether it was ours, the next one tells.
                Ended::Done(n) => sent += n as usize,
                Ended::Again => {}
                Ended::Failed(error) => return (Err(error), octets),
            }
        }
        (Ok(()), octets)
    }

    /// Sends FIN, swallows what still comes for a short while (bounded), closes: so that the last reply is not lost in a reset. Says what of
    /// all that was written the peer's side has not taken.
    pub async fn close(self, linger: Duration) -> Untaken {
        // A connection that was reset is none any more.
        if SockRef::from(&*self.socket).shutdown(Shutdown::Write).is_err() {
            return Untaken { reset: true, ..self.untaken() };
        }
        let deadline = Instant::now() + linger;
        let mut left = LINGER_OCTETS;
        let mut scratch = Vec::new();
        while left > 0 && self.wait(deadline, None).await.is_ok() {
            scratch.clear();
            scratch.reserve(4096);
            match self.read_now(&mut scratch) {
                Some(Ok(n)) if n > 0 => left = left.saturating_sub(n),
                None => {}
                Some(Ok(_)) => return self.taken(deadline).await,
                Some(Err(_)) => return Untaken { reset: true, ..self.untaken() },
            }
        }
        self.untaken()
    }

    /// A peer that had closed before us takes what was written, or answers with a reset: one of them comes, and nothing announces it.
    async fn taken(&self, deadline: Instant) -> Untaken {
        loop {
            let untaken = self.untaken();
            if untaken.is_nothing() || untaken.reset || Instant::now() >= deadline {
                return untaken;
            }
            time::sleep_until(Instant::now() + ACKNOWLEDGED_EVERY).await;
        }
    }

    fn untaken(&self) -> Untaken {
        let reset = !matches!(SockRef::from(&*self.socket).take_error(), Ok(None));
        Untaken { octets: op::unacknowledged(&self.socket).unwrap_or(u32::MAX), reset }
    }
}

/// What of all that was written has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untaken {
    /// The last ones of all; the end that was said counts as one.
    pub octets: u32,
    /// The peer's side has reset the connection: what it took it may not have read.
    pub reset: bool,
}

impl Untaken {
    fn is_nothing(&self) -> bool {
        *self == Self { octets: 0, reset: false }
    }
}

#[cfg(test)]
impl std::os::fd::AsFd for Conn {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // An operation that is still pending (its future was forgotten, or outlives us) ends with the connection.
        if Rc::strong_count(&self.socket) > 1 {
            self.socket.shutdown();
        }
    }
}

/// An operation that is begun after its deadline would still bring what is there: a peer that never pauses would have no deadline.
fn in_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

fn count_filled<B: Fill>(into: &mut B, n: usize) -> io::Result<usize> {
    #[expect(unsafe_code, reason = "octets that the kernel has written are counted")]
    // SAFETY: the kernel has written `n` octets from `spare_ptr` on.
    unsafe {
        into.filled(n);
    }
    Ok(n)
}
