//! What each command does to a session (RFC 5321 section 4.1.1): a check that may reply, then what changes. Logs nothing; a command that
//! is wrong changes nothing but the count of errors.

use super::chunk::Chunk;
use super::command::{Command, LineError, Verb};
use super::refused::{Refused, What, path_in};
use super::session::{Need, Session, State};
use super::transaction::Transaction;
use super::{Reply, extension, reply};

impl Session {
    /// What the state asks of the driver; `None`: commands can be read.
    pub(super) fn need(&self) -> Option<Need> {
        match &self.state {
            State::Command => None,
            State::AskRecipient(mailbox) => Some(Need::Recipient(mailbox.clone())),
            State::AskMessage(_) => Some(Need::Message),
            State::Data => Some(Need::Data),
            State::Chunk(Chunk { size, last }) => Some(Need::Chunk { size: *size, last: *last, wanted: true }),
            State::Swallow(Chunk { size, last }, _) => Some(Need::Chunk { size: *size, last: *last, wanted: false }),
            State::StartTls => Some(Need::Tls),
            State::Closed => Some(Need::Close),
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
        if self.has_erred_enough() && !matches!(command.verb, Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Quit) {
            // The transaction that is heard to its end ends here.
            return self.last_words(&reply::TOO_MANY_ERRORS, out);
        }
        if command.verb == Verb::Mail {
            self.mail_refused = false;
        }
        if command.verb == Verb::Bdat {
            return self.bdat(command.argument, out);
        }
        let done = self.obey(command, out);
        if let (Err(_), Some(argument), Verb::Mail | Verb::Rcpt) = (&done, command.argument, command.verb) {
            self.refusals.get_or_insert_default().named = Some(path_in(argument));
        }
        if let Ok(Some(reply)) | Err(reply) = &done {
            self.answer(reply, out);
        }
        self.mail_refused |= command.verb == Verb::Mail && done.is_err();
    }

    /// `Ok(None)`: the reply has been written, or waits for the driver.
    fn obey(&mut self, command: &Command<'_>, out: &mut Vec<u8>) -> Result<Option<Reply>, Reply> {
        if !command.verb.needs_no_tls() && self.tls_missing() {
            return Err(reply::TLS_REQUIRED);
        }
        if matches!(command.verb, Verb::Ehlo | Verb::Helo) {
            return self.hello(command, out);
        }
        let argument = command.argument.ok_or(reply::NOT_UTF8)?;
        if command.verb.is_junk() {
            self.check_junk()?;
        }
        match command.verb {
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data => self.data_command(argument),
            Verb::StartTls => self.starttls(argument),
            Verb::Rset => self.rset(argument),
            Verb::Quit => no_argument(argument).map(|()| Some(reply::BYE)),
            Verb::Noop => self.check_messages().map(|()| Some(reply::OK)),
            Verb::Help => Ok(Some(reply::HELP)),
            Verb::Vrfy if argument.is_empty() => Err(reply::VRFY_SYNTAX),
            Verb::Vrfy => Ok(Some(reply::CANNOT_VERIFY)),
            Verb::NotImplemented => Err(reply::NOT_IMPLEMENTED),
            Verb::Http if self.first => Err(reply::NOT_HTTP),
            Verb::Http | Verb::Unknown | Verb::Bdat | Verb::Ehlo | Verb::Helo => Err(reply::UNKNOWN_COMMAND),
        }
    }

    fn tls_missing(&self) -> bool {
        self.settings.require_tls && self.tls.is_none()
    }

    fn check_hello(&self) -> Result<(), Reply> {
        if self.hello.is_some() { Ok(()) } else { Err(reply::HELLO_FIRST) }
    }

    /// Is there a message left that this connection may bring? Whoever asks in between is told so too: a sender that hears it in answer
    /// to RSET or NOOP opens another connection, one that hears it in answer to MAIL puts its message off.
    fn check_messages(&self) -> Result<(), Reply> {
        let left = self.transaction.is_some() || self.messages < self.settings.max_messages;
        if left { Ok(()) } else { Err(reply::TOO_MANY_MESSAGES) }
    }

    fn check_junk(&mut self) -> Result<(), Reply> {
        if self.junk >= self.settings.max_junk {
            return Err(reply::TOO_MUCH_JUNK);
        }
        self.junk += 1;
        Ok(())
    }

    fn rset(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        no_argument(argument)?;
        self.reset();
        self.check_messages()?;
        Ok(Some(reply::OK))
    }

    /// Whatever the client calls itself (RFC 5321 section 4.1.4): computers are named by people, in any charset, and a client that is
    /// refused for its name has no other to give.
    fn hello(&mut self, command: &Command<'_>, out: &mut Vec<u8>) -> Result<Option<Reply>, Reply> {
        self.check_junk()?;
        let name = String::from_utf8_lossy(command.octets);
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(reply::HELLO_SYNTAX);
        }
        self.reset();
        self.hello = Some(name.into());
        if command.verb == Verb::Ehlo {
            extension::write_offer(&self.settings, self.settings.offer_starttls && self.tls.is_none(), out);
        } else {
            self.line(out, &["250 ", &self.settings.hostname]);
        }
        Ok(None)
    }

    fn mail(&mut self, argument: &str) -> Result<Option<Reply>, Reply> {
        self.check_hello()?;
        if self.transaction.is_some() {
            return Err(reply::NESTED_MAIL);
        }
        self.check_messages()?;
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
        self.state = State::AskMessage(None);
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
        self.state = if let Some(failure) = self.failed_chunks.clone() {
            State::Swallow(chunk, failure)
        } else {
            let checked = if self.tls_missing() { Err(reply::TLS_REQUIRED) } else { self.check_message() };
            match checked {
                Err(reply) => State::Swallow(chunk, Box::new(reply)),
                Ok(()) if self.message_open() => State::Chunk(chunk),
                Ok(()) => State::AskMessage(Some(chunk)),
            }
        };
        self.note_swallowed();
    }

    /// A chunk is refused, though its sender is told behind it: now it is known whose it is.
    pub(super) fn note_swallowed(&mut self) {
        if let State::Swallow(_, reply) = &self.state {
            let reply = Reply::clone(reply);
            self.note(&reply);
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
            transaction.begun = true;
        }
    }

    /// RSET, and what else aborts a transaction (RFC 5321 section 4.1.4).
    pub(super) fn reset(&mut self) {
        self.transaction = None;
        self.failed_chunks = None;
        self.mail_refused = false;
    }

    /// Writes a reply, draws the consequences of its code, and notes it if it refuses.
    pub(super) fn answer(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.note(reply);
        self.write_reply(reply, out);
    }

    fn note(&mut self, reply: &Reply) {
        let named = self.refusals.as_mut().and_then(|refusals| refusals.named.take());
        if !reply.refuses() {
            return;
        }
        let (sender, recipient) = if self.verb == Verb::Mail { (named, None) } else { (None, named) };
        let sender = sender.or_else(|| self.transaction.as_ref().map(|transaction| transaction.reverse_path.clone()));
        let greeting = self.hello.as_deref().unwrap_or_default().to_owned();
        let what = What::of(self.verb, reply);
        // A message that is not let in was for the transaction's recipients.
        let of_transaction = || self.transaction.as_ref().and_then(|transaction| transaction.recipients.first().cloned());
        let recipient = if what == What::Message { recipient.or_else(of_transaction) } else { recipient };
        let refused = Refused { what, ip: self.peer.ip, greeting, sender, recipient, reply: reply.clone() };
        self.refusals.get_or_insert_default().since.push(refused);
    }

    /// What [`Session::answer`] does, for a reply whose maker notes it.
    pub(super) fn write_reply(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        if matches!(reply.code(), 221 | 421) {
            self.state = State::Closed;
        } else if self.mail_refused && matches!(reply.code(), 503 | 530) {
            // Whoever pipelined it behind MAIL could not know (RFC 2920 section 3.1).
            if let Err(words) = self.check_junk() {
                self.last_words(&words, out);
            }
        } else if reply.says_command_was_wrong() {
            self.errors = self.errors.saturating_add(1);
            self.check_errors(out);
        } else if reply.refuses() && matches!(self.verb, Verb::Data | Verb::Bdat) {
            // No message makes up for the recipients that were refused before it.
            self.check_errors(out);
        }
    }

    /// As many as may be named in a transaction may be wrong, and no more.
    pub(super) fn count_refused_recipient(&mut self, out: &mut Vec<u8>) {
        self.errors = self.errors.saturating_add(1);
        let refused = self.transaction.as_mut().map_or(usize::MAX, |transaction| transaction.refuse());
        if refused > self.settings.max_recipients {
            self.check_errors(out);
        }
    }

    /// All that `max_errors` allows.
    pub(super) fn has_erred_enough(&self) -> bool {
        self.errors >= self.settings.max_errors
    }

    fn check_errors(&mut self, out: &mut Vec<u8>) {
        if self.has_erred_enough() {
            self.last_words(&reply::TOO_MANY_ERRORS, out);
        }
    }

    fn last_words(&mut self, words: &Reply, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Closed) {
            self.note(words);
            words.write(out);
            self.state = State::Closed;
        }
    }
}

fn no_argument(argument: &str) -> Result<(), Reply> {
    if argument.is_empty() { Ok(()) } else { Err(reply::NO_ARGUMENT) }
}
