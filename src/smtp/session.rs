//! A session (RFC 5321 section 3.1): octets in, replies and needs out. Keeps no buffer, knows no clock, logs nothing. What a peer sends
//! always ends in a reply; a driver that calls out of turn changes nothing, and is told so by an assertion in debug builds.

use super::chunk::Chunk;
use super::command::{Command, LineReader, Verb};
use super::newline::CR;
use super::refused::{Refusals, Refused, What};
use super::transaction::Transaction;
use super::{Reply, reply};
use crate::envelope::{Envelope, Peer};
use std::sync::Arc;

/// Replies beyond this end a turn: what is written next is not much longer.
pub const TURN_OCTETS: usize = 12 * 1024;
/// So many command lines end it too.
const TURN_LINES: usize = 64;

/// What the session must know of the configuration; one value shared by all sessions of a configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hostname: String,
    /// What `<postmaster>` without a domain stands for (RFC 5321 section 4.5.1); without a domain of its own it stays as it was written.
    pub postmaster: String,
    pub max_message_size: u64,
    pub max_recipients: usize,
    pub max_messages: u32,
    pub max_errors: u32,
    pub max_junk: u32,
    /// true: a bare LF becomes CRLF and a stray CR a space; false: such a message is refused at its true end.
    pub normalize_newlines: bool,
    pub offer_starttls: bool,
    pub require_tls: bool,
}

/// What the session needs before it can go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Need {
    /// More octets: all complete lines have been used. Of a line that is not complete less than [`super::COMMAND_MAX`] octets are left
    /// unused, so a buffer of that size never gets stuck.
    Input,
    /// Enough was done for one turn: write what is in `out`, let others have theirs, call again.
    Turn,
    /// A verdict about this forward-path (mailbox text): answer with [`Session::recipient`].
    Recipient(String),
    /// DATA or a first BDAT is in order, may the message come? Answer with [`Session::begin`].
    Message,
    /// Data follow, up to their end: answer with [`Session::end`].
    Data,
    /// A BDAT chunk of that many octets follows (RFC 3030), be that none. `wanted`: it belongs to a message that has begun; answer with
    /// [`Session::end`] if it is the last, else with [`Session::chunk_done`]. Else it is swallowed and answered with
    /// [`Session::chunk_done`].
    Chunk { size: u64, last: bool, wanted: bool },
    /// `out` holds the 220 to STARTTLS: flush it, drop every octet still unread, shake hands, call [`Session::tls_started`].
    Tls,
    /// `out` holds the last reply: flush it and close.
    Close,
}

/// One connection's session.
pub struct Session {
    pub(super) settings: Arc<Settings>,
    pub(super) peer: Peer,
    pub(super) tls: Option<Box<str>>,
    /// The argument of EHLO or HELO.
    pub(super) hello: Option<Box<str>>,
    /// What an idle session has not is boxed, here and below.
    pub(super) transaction: Option<Box<Transaction>>,
    /// A chunk failed: those that were pipelined behind it get the same reply (RFC 3030 section 2).
    pub(super) failed_chunks: Option<Box<Reply>>,
    pub(super) state: State,
    pub(super) lines: LineReader,
    /// No line has come yet.
    pub(super) first: bool,
    /// MAIL was refused: what was pipelined behind it can only fail.
    pub(super) mail_refused: bool,
    /// Messages that have begun.
    pub(super) messages: u32,
    /// Both since the last delivered message.
    pub(super) errors: u32,
    pub(super) junk: u32,
    /// The command that is being answered.
    pub(super) verb: Verb,
    pub(super) refusals: Option<Box<Refusals>>,
}

pub(super) enum State {
    /// Lines are commands.
    Command,
    AskRecipient(String),
    /// `None`: DATA.
    AskMessage(Option<Chunk>),
    Data,
    Chunk(Chunk),
    /// A chunk that nobody wants; then the reply.
    Swallow(Chunk, Box<Reply>),
    StartTls,
    Closed,
}

impl Session {
    pub fn new(settings: Arc<Settings>, peer: Peer) -> Self {
        Self {
            lines: LineReader::new(settings.normalize_newlines),
            settings,
            peer,
            tls: None,
            hello: None,
            transaction: None,
            failed_chunks: None,
            state: State::Command,
            first: true,
            mail_refused: false,
            messages: 0,
            errors: 0,
            junk: 0,
            verb: Verb::Unknown,
            refusals: None,
        }
    }

    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Appends the 220 banner.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.line(out, &["220 ", &self.settings.hostname, " ESMTP mailsluice"]);
    }

    /// Uses command octets; returns how many were used and what is needed next. Replies are appended to `out`, not many more than
    /// [`super::TURN_OCTETS`]. Called again with the unused rest (and more) after each need has been met, also when that rest is empty: the
    /// session may have to close. A line that is not complete is left unused.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Need) {
        let (mut used, mut lines) = (0, 0);
        loop {
            if let Some(need) = self.need() {
                // Octets that came in the clear behind STARTTLS belong to nobody (command injection, CVE-2011-0411).
                let used = if need == Need::Tls { input.len() } else { used };
                return (used, need);
            }
            if lines >= TURN_LINES || out.len() >= TURN_OCTETS {
                return (used, Need::Turn);
            }
            let read = self.lines.read(input.get(used..).unwrap_or_default());
            used += read.used;
            match read.line {
                None => return (used, Need::Input),
                // Left there only where it is white space.
                Some(Ok(line)) if line.contains(&CR) => {
                    let spaced: Vec<u8> = line.iter().map(|octet| if *octet == CR { b' ' } else { *octet }).collect();
                    self.command(&Command::parse(&spaced), out);
                }
                Some(Ok(line)) => self.command(&Command::parse(line), out),
                Some(Err(error)) => self.bad_line(error, read.bdat, out),
            }
            self.first = false;
            lines += 1;
        }
    }

    /// The verdict on the recipient asked about. A refusal for good (5xx) counts towards `max_errors`; one that says "later" or "in
    /// another transaction" does not, or else a long list of recipients would never get through. Too many of them do not end a
    /// transaction in which good ones are named as well: it is heard to its end, and what is delivered makes up for them.
    pub fn recipient(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        let State::AskRecipient(mailbox) = &mut self.state else { return self.out_of_turn() };
        let mailbox = std::mem::take(mailbox);
        self.state = State::Command;
        self.verb = Verb::Rcpt;
        match verdict {
            Ok(()) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.accept(mailbox);
                }
                self.answer(&reply::RECIPIENT_OK, out);
            }
            Err(refusal) => {
                self.refusals.get_or_insert_default().named = Some(mailbox);
                self.answer(&refusal, out);
                if (500..600).contains(&refusal.code()) && !refusal.says_command_was_wrong() {
                    self.count_refused_recipient(out);
                }
            }
        }
    }

    /// May the message come? For DATA, Ok writes 354, and data follow. A refusal ends the transaction; a refused chunk is swallowed.
    pub fn begin(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        let State::AskMessage(chunk) = self.state else { return self.out_of_turn() };
        match (chunk, verdict) {
            (None, Ok(())) => {
                self.begin_message();
                reply::START_DATA.write(out);
                self.state = State::Data;
            }
            (None, Err(refusal)) => {
                self.state = State::Command;
                self.answer(&refusal, out);
                self.transaction = None;
            }
            (Some(chunk), Ok(())) => {
                self.begin_message();
                self.state = State::Chunk(chunk);
            }
            (Some(chunk), Err(refusal)) => {
                self.failed_chunks = (!chunk.last).then(|| Box::new(refusal.clone()));
                self.state = State::Swallow(chunk, Box::new(refusal));
                self.note_swallowed();
                self.transaction = None;
            }
        }
    }

    /// The octets of a chunk have come. `refused`: the message fails with this chunk, and so do the chunks that are pipelined behind it.
    pub fn chunk_done(&mut self, refused: Option<&Reply>, out: &mut Vec<u8>) {
        match &self.state {
            State::Swallow(chunk, reply) => {
                if chunk.last {
                    // The message is over.
                    self.failed_chunks = None;
                }
                let reply = Reply::clone(reply);
                self.state = State::Command;
                self.write_reply(&reply, out);
            }
            State::Chunk(Chunk { last: false, .. }) => {
                self.state = State::Command;
                match refused {
                    None => self.answer(&reply::CHUNK_OK, out),
                    Some(reply) => {
                        self.transaction = None;
                        self.failed_chunks = Some(Box::new(reply.clone()));
                        self.answer_message(reply, out);
                    }
                }
            }
            State::Chunk(_)
            | State::Command
            | State::AskRecipient(_)
            | State::AskMessage(_)
            | State::Data
            | State::StartTls
            | State::Closed => self.out_of_turn(),
        }
    }

    /// The final reply to the end of data; the transaction is over.
    pub fn end(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        let (State::Data | State::Chunk(Chunk { last: true, .. })) = self.state else { return self.out_of_turn() };
        self.state = State::Command;
        self.transaction = None;
        self.answer_message(reply, out);
    }

    fn answer_message(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        if reply.code() == 250 {
            (self.errors, self.junk) = (0, 0);
        }
        if *reply == reply::BARE_NEWLINE {
            self.errors = self.errors.saturating_add(1);
        }
        self.write_reply(reply, out);
    }

    /// A message has begun, or has failed with a chunk, and more chunks may follow. When this is false (RSET between chunks), what was
    /// kept of it can be freed.
    pub fn awaits_chunks(&self) -> bool {
        self.message_open() || self.failed_chunks.is_some()
    }

    /// The octets of a message have begun and it is not over.
    pub fn message_open(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.begun)
    }

    /// A recipient of the transaction has been accepted.
    pub fn has_recipients(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| !transaction.recipients.is_empty())
    }

    /// Recipients were refused beyond `max_errors`, and none was accepted. Unless good ones are named in what was sent before the
    /// replies could be read, [`Session::cut_off`] ends it.
    pub fn has_only_refused(&self) -> bool {
        self.has_erred_enough() && !self.has_recipients()
    }

    /// Octets of the recipients accepted so far.
    pub fn recipients_octets(&self) -> usize {
        self.transaction.as_ref().map_or(0, |transaction| transaction.octets)
    }

    /// The driver ends the connection with these words.
    pub fn cut_off(&mut self, words: &Reply, out: &mut Vec<u8>) {
        self.answer(words, out);
    }

    /// A refusal of the message that has just ended, and of which there is no record.
    pub fn refused_message(&self, reply: &Reply) -> Refused {
        let Envelope { peer, helo, reverse_path, mut recipients, .. } = self.envelope();
        let recipient = (!recipients.is_empty()).then(|| recipients.swap_remove(0));
        Refused { what: What::Message, ip: peer.ip, greeting: helo, sender: Some(reverse_path), recipient, reply: reply.clone() }
    }

    /// What has been refused since the last call, the replies to an end of data apart: whoever made those knows whether they are
    /// recorded.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        self.refusals.take().map(|refusals| refusals.since).unwrap_or_default()
    }

    /// The envelope of the transaction so far: complete when its data flow, and until [`Session::end`].
    pub fn envelope(&self) -> Envelope {
        let transaction = self.transaction.as_ref();
        Envelope {
            peer: self.peer.clone(),
            helo: self.hello.as_deref().unwrap_or_default().to_owned(),
            reverse_path: transaction.map(|t| t.reverse_path.clone()).unwrap_or_default(),
            recipients: transaction.map(|t| t.recipients.clone()).unwrap_or_default(),
            declared_size: transaction.and_then(|t| t.declared_size),
            smtputf8: transaction.is_some_and(|t| t.smtputf8),
            tls: self.tls.as_deref().map(str::to_owned),
        }
    }

    /// The handshake succeeded: the session starts afresh (RFC 3207 section 4.2). What bounds the connection, the counts of messages
    /// and errors, goes on.
    pub fn tls_started(&mut self, tls: String) {
        if let State::StartTls = self.state {
            self.tls = Some(tls.into());
            self.hello = None;
            self.reset();
            self.lines = LineReader::new(self.settings.normalize_newlines);
            self.first = true;
            self.state = State::Command;
        } else {
            debug_assert!(false, "TLS started, but no STARTTLS was answered");
        }
    }

    pub(super) fn line(&self, out: &mut Vec<u8>, parts: &[&str]) {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The driver answered what was not asked: a bug of ours, never of the peer.
    fn out_of_turn(&self) {
        debug_assert!(false, "an answer came that was not asked for");
    }
}
