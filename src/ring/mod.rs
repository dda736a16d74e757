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
mod fill;
mod in_hand;
mod listener;
mod op;
mod probe;
mod round;
mod setup;
mod spare;
mod task;
mod time;

pub use conn::{Conn, Interrupter, Untaken};
pub use fill::Fill;
pub use listener::Listener;
pub use probe::probe;
pub use round::may_go_on;
pub use setup::SetupError;
pub use task::{run, spawn};
pub use time::{at_once, sleep_until, timeout_at, turn};

#[cfg(test)]
mod tests;
