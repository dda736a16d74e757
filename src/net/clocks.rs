//! The clocks of a connection that waits for a command: the command's own, and that of the transaction or of the message that has begun.

use super::message::Message;
use crate::config::Smtp;
use std::time::{Duration, Instant};

/// Chunks that were pipelined behind one that failed are part of its message; who says nothing for so long sends no more of them.
const LATE_CHUNKS: Duration = Duration::from_secs(2);

pub(super) struct Clocks {
    /// When the present command was first waited for.
    command_began: Instant,
    /// The connection's start, or the last message's end.
    transaction_began: Instant,
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self { command_began: now, transaction_began: now }
    }

    /// The next command has the whole time, however its octets drip.
    pub(super) fn command_ended(&mut self) {
        self.command_began = Instant::now();
    }

    pub(super) fn transaction_ended(&mut self) {
        self.transaction_began = Instant::now();
    }

    /// Until when the next command may come. Between two chunks the message's clocks go on.
    pub(super) fn deadline(&self, limits: &Smtp, message: Option<&Message>) -> Instant {
        let command = self.command_began + limits.command_timeout;
        command.min(match message {
            Some(message) if message.has_failed() => message.pace.pause_deadline().min(self.command_began + LATE_CHUNKS),
            Some(message) => message.pace.pause_deadline(),
            None => self.transaction_began + limits.transaction_timeout,
        })
    }

    /// The message failed with a chunk, and no other has come since.
    pub(super) fn no_more_chunks(&self, message: Option<&Message>, now: Instant) -> bool {
        message.is_some_and(Message::has_failed) && self.command_began + LATE_CHUNKS <= now
    }
}
