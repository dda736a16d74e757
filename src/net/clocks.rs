//! The clocks of a connection that waits for a command: the command's own, and that of the transaction or of the message that has begun.

use super::message::Message;
use crate::config::Smtp;
use std::time::{Duration, Instant};

/// Chunks that were pipelined behind one that failed are part of its message; who says nothing for so long sends no more of them.
const LATE_CHUNKS: Duration = Duration::from_secs(2);

pub(super) struct Clocks {
    began: Instant,
    /// When the present command was first waited for: milliseconds since then, as every idle connection has these.
    command_began: u32,
    /// The last message's end, if there was one.
    transaction_began: u32,
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, command_began: 0, transaction_began: 0 }
    }

    /// When the connection began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The next command has the whole time, however its octets drip.
    pub(super) fn command_ended(&mut self, now: Instant) {
        self.command_began = self.since(now);
    }

    pub(super) fn transaction_ended(&mut self, now: Instant) {
        self.transaction_began = self.since(now);
    }

    /// A connection that has been there for seven weeks has no time left.
    fn since(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u32::MAX)
    }

    fn at(&self, milliseconds: u32) -> Instant {
        self.began + Duration::from_millis(milliseconds.into())
    }

    /// Until when the next command may come. Between two chunks the message's clocks go on.
    pub(super) fn deadline(&self, limits: &Smtp, message: Option<&Message>) -> Instant {
        let command_began = self.at(self.command_began);
        let command = command_began + limits.command_timeout;
        command.min(match message {
            Some(message) if message.has_failed() => message.pace.pause_deadline().min(command_began + LATE_CHUNKS),
            Some(message) => message.pace.pause_deadline(),
            None => self.at(self.transaction_began) + limits.transaction_timeout,
        })
    }

    /// The message failed with a chunk, and no other has come since.
    pub(super) fn no_more_chunks(&self, message: Option<&Message>, now: Instant) -> bool {
        message.is_some_and(Message::has_failed) && self.at(self.command_began) + LATE_CHUNKS <= now
    }
}
