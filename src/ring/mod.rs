//! The only folder that names tokio_uring or io_uring: sockets whose operations have deadlines, are cancelled by descriptor
//! and awaited, and are safe to drop.
//!
//! What holds everywhere in here:
//! - An operation keeps a share of its descriptor until the kernel is done with it, so a descriptor's number cannot be reused
//!   under a pending operation, nor a socket stay open behind a closed number.
//! - At a deadline the operation is cancelled by its descriptor and *the same future* is awaited, so its buffer comes back;
//!   what it had received by then is a result like any other.
//! - A future of a [`Conn`] that is dropped while it is pending shuts its connection down, which ends the operation in the kernel.
//! - [`run`] returns when no operation is left in the kernel: buffers are never freed under it.
//!
//! It logs a task that panicked (where, never the message: a message could hold octets of a mail) and a ring that could not be
//! emptied. It fails with one line that says what to change, see [`SetupError`].

mod cancel;
mod conn;
mod listener;
mod op;
mod setup;
mod task;

pub use conn::{Conn, Interrupter};
pub use listener::Listener;
pub use setup::{SetupError, forbidden, probe};
pub use task::{run, spawn};

use std::future::Future;
use std::time::Instant;

/// Octets that the ring may read into: a stable place that the value owns, also when the value is moved.
///
/// # Safety
/// `spare_ptr..spare_ptr+spare` is writable and stays where it is until the value is used again.
#[expect(unsafe_code, reason = "the kernel writes to what an implementation promises")]
pub unsafe trait Fill: 'static {
    /// Start of the writable octets.
    fn spare_ptr(&mut self) -> *mut u8;
    /// How many octets are writable.
    fn spare(&self) -> usize;
    /// Counts octets as filled.
    ///
    /// # Safety
    /// `n` octets from `spare_ptr` have been written.
    unsafe fn filled(&mut self, n: usize);
}

// SAFETY: a vector's spare capacity is its own, on the heap, and moves only when the vector grows.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl Fill for Vec<u8> {
    fn spare_ptr(&mut self) -> *mut u8 {
        self.spare_capacity_mut().as_mut_ptr().cast()
    }
    fn spare(&self) -> usize {
        self.capacity() - self.len()
    }
    unsafe fn filled(&mut self, n: usize) {
        let len = self.len() + n;
        // SAFETY: the caller says that `n` octets behind the length have been written.
        unsafe { self.set_len(len) }
    }
}

/// Waits until then.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
}

/// Waits for the future at most until the deadline. Only for futures that are safe to drop (oneshots, timers), never for ring operations.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(deadline.into(), future).await.ok()
}

#[cfg(test)]
mod tests;
