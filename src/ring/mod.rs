//! The only folder that names tokio_uring or io_uring: sockets whose operations have deadlines, are cancelled by descriptor
//! and awaited, and are safe to drop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// Octets that the ring may read into: a stable place that the value owns, also when the value is moved.
///
/// # Safety
/// `spare_ptr..spare_ptr+spare` is writable and stays where it is until the value is used again.
pub unsafe trait Fill: 'static {
    fn spare_ptr(&mut self) -> *mut u8;
    fn spare(&self) -> usize;
    /// # Safety
    /// `n` octets from `spare_ptr` have been written.
    unsafe fn filled(&mut self, n: usize);
}

/// Runs a ring on this thread until `main` is done. `Err` if io_uring is forbidden or there are no resources.
pub fn run<F: Future>(_main: F) -> io::Result<F::Output> { todo!() }
/// A task on this thread's ring; a panic in it ends the task only (its connection closes), and is logged without any octets.
pub fn spawn(_task: impl Future<Output = ()> + 'static) { todo!() }
pub async fn sleep_until(_deadline: Instant) { todo!() }
/// Waits for the future at most until the deadline. Only for futures that are safe to drop (oneshots, timers), never for ring operations.
pub async fn timeout_at<F: Future>(_deadline: Instant, _future: F) -> Option<F::Output> { todo!() }

/// A listening socket on this ring.
pub struct Listener { _todo: () }

impl Listener {
    /// The same listening socket may be on several rings (dup).
    pub fn new(_socket: std::net::TcpListener) -> Self { todo!() }
    /// The next connection; `None` after [`Listener::stop`], once every connection that had been accepted by the kernel operation has been given out.
    /// Errors (EMFILE and the like) come back at once; the caller backs off. Call from one task only.
    pub async fn accept(&self) -> Option<io::Result<(Conn, SocketAddr)>> { todo!() }
    /// Ends the pending accept by cancelling and awaiting it; loses no connection.
    pub fn stop(&self) { todo!() }
}

/// A connection on this ring. Dropping it shuts it down and closes it, without leaving an operation or a descriptor behind.
pub struct Conn { _todo: () }

impl Conn {
    /// Waits without a buffer until there are octets (or EOF). `TimedOut` at the deadline; also ends early with `Interrupted` after [`Conn::interrupt`].
    pub async fn readable(&self, _deadline: Instant) -> io::Result<()> { todo!() }
    /// Reads into the spare octets of `into`; 0 is EOF. A read that is cancelled at the deadline but has data returns the data.
    pub async fn read<B: Fill>(&self, _into: B, _deadline: Instant) -> (io::Result<usize>, B) { todo!() }
    /// Writes all of it, or fails; the buffer comes back (cleared by nobody).
    pub async fn write_all(&self, _octets: Vec<u8>, _deadline: Instant) -> (io::Result<()>, Vec<u8>) { todo!() }
    /// Sends FIN, swallows what still comes for a short while (bounded), closes: so that the last reply is not lost in a reset.
    pub async fn close(self, _linger: std::time::Duration) { todo!() }
}
