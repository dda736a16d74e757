//! What each command does to a session (RFC 5321 section 4.1.1): a check that may reply, then what changes. Logs nothing; a command that
//! is wrong changes nothing but the count of errors.

use super::chunk::Chunk;
use super::command::{Command, LineError, Verb};
use super::data::Incoming;
use super::refused::{Refused, What, path_in};
use super::session::{Need, Session, State};
use super::transaction::Transaction;
use super::{Reply, extension, reply};

impl Session {
    /// What the state asks of the driver; `None`: commands can be read.
    pub(super) fn need(&self) -> Option<Need> {
        match &self.state {
            State::Command | State::Swallow { .. } => None,
            State::AskRecipient(mailbox) => Some(Need::Recipient(mailbox.clone())),
            State::AskData => Some(Need::Data),
            State::AskChunk(Chunk { size, last }) => Some(Need::Chunk { size: *size, first: true, last: *last }),
            State::Chunk(Chunk { size, last }) => Some(Need::Chunk { size: *size, first: false, last: *last }),
            State::StartTls => Some(Need::Tls),
            State::Closed => Some(Need::Close),
            State::Data | State::Ended { .. } => {
                debug_assert!(false, "commands were given while a message is not over");
                Some(Need::Close)
            }
        }
    }

    pub(super) fn bad_line(&mut self, error: LineError, bdat: bool, out: &mut Vec<u8>) {
        self.verb = if bdat { Verb::Bdat } else { Verb::Unknown };
        self.answer(&error.reply(), out);
        // Behind a BDAT that cannot be read come octets of a message, which must not be read as commands.
        if bdat || error == LineError::Endless {
            self.state = State::Closed;
        }
    }

    pub(super) fn command(&mut self, command: &Command<'_>, out: &mut Vec<u8>) {
        self.verb = command.verb;
        if command.verb == Verb::Bdat {
            return self.bdat(command.argument, out);
        }
        if !command.verb.needs_no_tls() && self.tls_missing() {
            return self.answer(&reply::TLS_REQUIRED, out);
        }
        if matches!(command.verb, Verb::Ehlo | Verb::Helo) {
            return self.hello(command, out);
        }
        let Some(argument) = command.argument else {
            return self.answer(&reply::NOT_UTF8, out);
        };
        let done = match command.verb {
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data => self.data_command(argument),
            Verb::StartTls => self.starttls(argument),
            Verb::Rset => no_argument(argument).map(|()| {
                self.reset();
                Some(reply::OK)
            }),
            Verb::Quit => no_argument(argument).map(|()| Some(reply::BYE)),
            Verb::Noop => Ok(Some(reply::OK)),
            Verb::Help => Ok(Some(reply::HELP)),
            Verb::Vrfy if argument.is_empty() => Err(reply::VRFY_SYNTAX),
            Verb::Vrfy => Ok(Some(reply::CANNOT_VERIFY)),
            Verb::NotImplemented => Err(reply::NOT_IMPLEMENTED),
            Verb::Http if self.first => Err(reply::NOT_HTTP),
            Verb::Http | Verb::Unknown | Verb::Bdat | Verb::Ehlo | Verb::Helo => Err(reply::UNKNOWN_COMMAND),
        };
        if done.is_err() && matches!(command.verb, Verb::Mail | Verb::Rcpt) {
            self.named = Some(path_in(argument).into());
        }
        if let Ok(Some(reply)) | Err(reply) = done {
            self.answer(&reply, out);
        }
    }

    fn tls_missing(&self) -> bool {
        self.settings.require_tls && self.tls.is_none()
    }

    fn check_hello(&self) -> Result<(), Reply> {
        if self.hello.is_some() { Ok(()) } else { Err(reply::HELLO_FIRST) }
    }

    /// Whatever the client calls itself (RFC 5321 section 4.1.4): computers are named by people, in any charset, and a client that is
    /// refused for its name has no other to give.
    fn hello(&mut self, command: &Command<'_>, out: &mut Vec<u8>) {
        let name = String::from_utf8_lossy(command.octets);
        if name.is_empty() || name.chars().any(char::is_control) {
            return self.answer(&reply::HELLO_SYNTAX, out);
        }
        self.reset();
        self.hello = Some(name.into());
        if command.verb == Verb::Ehlo {
            extension::write_offer(&self.settings, self.settings.offer_starttls && self.tls.is_none(), out);
        } else {
            self.line(out, &["250 ", &self.settings.hostname]);
        }
    }

    fn mail(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        self.check_hello()?;
        if self.transaction.is_some() {
            return Err(reply::NESTED_MAIL);
        }
        if self.messages >= self.settings.max_messages {
            return Err(reply::TOO_MANY_MESSAGES);
        }
        self.transaction = Some(Box::new(Transaction::open(argument, &self.settings)?));
        self.failed_chunks = None;
        Ok(Some(reply::SENDER_OK))
    }

    fn rcpt(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        self.check_hello()?;
        let transaction = self.transaction.as_mut().ok_or(reply::MAIL_FIRST)?;
        match transaction.check_recipient(argument, &self.settings)? {
            // Who is named twice gets the message once.
            None => Ok(Some(reply::RECIPIENT_OK)),
            Some(mailbox) => {
                self.state = State::AskRecipient(mailbox);
                Ok(None)
            }
        }
    }

    fn data_command(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        no_argument(argument)?;
        self.check_message()?;
        if self.message_open() {
            return Err(reply::CHUNKS_BEGUN);
        }
        self.state = State::AskData;
        Ok(None)
    }

    fn starttls(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        if !self.settings.offer_starttls {
            return Err(reply::NOT_IMPLEMENTED);
        }
        if self.tls.is_some() {
            return Err(reply::TLS_ACTIVE);
        }
        no_argument(argument)?;
        self.state = State::StartTls;
        Ok(Some(reply::READY_FOR_TLS))
    }

    /// The chunk follows whatever we think of it, so every refusal waits until it has been swallowed.
    fn bdat(&mut self, argument: Option<&str>, out: &mut Vec<u8>) {
        let Some(chunk) = argument.and_then(Chunk::parse) else {
            // Nobody knows where the chunk ends.
            self.answer(&reply::BDAT_SYNTAX, out);
            self.state = State::Closed;
            return;
        };
        if let Some(failure) = self.failed_chunks.clone() {
            return self.fail_chunk(chunk, *failure);
        }
        let checked = if self.tls_missing() { Err(reply::TLS_REQUIRED) } else { self.check_message() };
        match checked {
            Err(reply) => self.state = State::Swallow { left: chunk.size, reply: Box::new(reply) },
            Ok(()) if self.message_open() => self.begin_chunk(chunk),
            Ok(()) => self.state = State::AskChunk(chunk),
        }
    }

    /// Is the transaction ready for data?
    fn check_message(&self) -> Result<(), Reply> {
        self.check_hello()?;
        self.transaction.as_ref().ok_or(reply::MAIL_FIRST)?.check_recipients()
    }

    pub(super) fn begin_message(&mut self) {
        self.messages = self.messages.saturating_add(1);
        if let Some(transaction) = &mut self.transaction {
            transaction.incoming = Some(Incoming::new(self.settings.normalize_newlines, self.settings.max_message_size));
        }
    }

    pub(super) fn begin_chunk(&mut self, chunk: Chunk) {
        if let Some(incoming) = self.incoming_mut() {
            incoming.announce(chunk.size);
        }
        self.state = State::Chunk(chunk);
    }

    /// The transaction fails with this chunk, and so do the chunks that are pipelined behind it.
    pub(super) fn fail_chunk(&mut self, chunk: Chunk, reply: Reply) {
        self.transaction = None;
        self.failed_chunks = (!chunk.last).then(|| Box::new(reply.clone()));
        self.state = State::Swallow { left: chunk.size, reply: Box::new(reply) };
    }

    /// Uses up to `available` octets of an unwanted chunk.
    pub(super) fn swallow(&mut self, available: usize, out: &mut Vec<u8>) -> usize {
        let State::Swallow { left, reply } = &mut self.state else { return 0 };
        let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
        *left -= taken as u64;
        if *left == 0 {
            let reply = Reply::clone(reply);
            self.state = State::Command;
            self.answer(&reply, out);
        }
        taken
    }

    /// RSET, and what else aborts a transaction (RFC 5321 section 4.1.4).
    pub(super) fn reset(&mut self) {
        self.transaction = None;
        self.failed_chunks = None;
    }

    /// Writes a reply, draws the consequences of its code, and notes it if it refuses.
    pub(super) fn answer(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.note(reply);
        self.write_reply(reply, out);
    }

    fn note(&mut self, reply: &Reply) {
        let named = self.named.take().map(String::from);
        if !reply.refuses() {
            return;
        }
        let (sender, recipient) = if self.verb == Verb::Mail { (named, None) } else { (None, named) };
        let sender = sender.or_else(|| self.transaction.as_ref().map(|transaction| transaction.reverse_path.clone()));
        let greeting = self.hello.as_deref().unwrap_or_default().to_owned();
        let what = What::of(self.verb, reply);
        self.refused.push(Refused { what, ip: self.peer.ip, greeting, sender, recipient, reply: reply.clone() });
    }

    /// What [`Session::answer`] does, for a reply whose maker notes it.
    pub(super) fn write_reply(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        if matches!(reply.code(), 221 | 421) {
            self.state = State::Closed;
        } else if is_command_error(reply) {
            self.count_error(out);
        }
    }

    pub(super) fn count_error(&mut self, out: &mut Vec<u8>) {
        self.errors = self.errors.saturating_add(1);
        if self.errors >= self.settings.max_errors && !matches!(self.state, State::Closed) {
            self.note(&reply::TOO_MANY_ERRORS);
            reply::TOO_MANY_ERRORS.write(out);
            self.state = State::Closed;
        }
    }
}

/// Replies that say a command was wrong; refusals of a message or a recipient are not the client's mistakes.
pub(super) fn is_command_error(reply: &Reply) -> bool {
    matches!(reply.code(), 500..=503 | 530 | 553 | 555)
}

fn no_argument(argument: &str) -> Result<(), Reply> {
    if argument.is_empty() { Ok(()) } else { Err(reply::NO_ARGUMENT) }
}
