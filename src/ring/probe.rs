//! Does this machine let us have a ring that does what we need? Logs nothing; fails with the error that says what to change.

use super::op::{self, Socket};
use super::setup::SetupError;
use super::{cancel, task};
use nix::libc;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// Makes a ring, an operation and a cancellation, on a thread of its own: what `doctor` asks and the daemon checks first.
pub fn probe() -> io::Result<()> {
    let tried = std::thread::Builder::new().name("ring-probe".to_owned()).spawn(|| task::run(probe_cancel()))?;
    tried.join().map_err(|_| io::Error::other("the io_uring probe panicked"))??
}

async fn probe_cancel() -> io::Result<()> {
    let (one, _other) = UnixStream::pair()?;
    let socket = Rc::new(Socket::new(OwnedFd::from(one)));
    let waiting = op::poll_in(&socket);
    let cancelled = cancel::cancel(&socket).await.0;
    if let Err(error) = cancelled {
        // Unknown flags of a cancellation: the kernel is older than cancelling by descriptor.
        socket.shutdown();
        waiting.await.0.ok();
        return Err(SetupError::from(error).into());
    }
    match waiting.await.0 {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(error) => Err(SetupError::from(error).into()),
        Ok(_) => Err(io::Error::other("an io_uring operation ended by itself instead of by its cancellation")),
    }
}
