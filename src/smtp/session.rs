//! A session (RFC 5321 section 3.1): octets in, replies and needs out. Keeps no buffer, knows no clock, logs nothing. What a peer sends
//! always ends in a reply; a driver that calls out of turn changes nothing, and is told so by an assertion in debug builds.

use super::chunk::Chunk;
use super::command::{Command, LineReader, Verb};
use super::data::{Incoming, Refusal};
use super::dispatch::is_command_error;
use super::refused::{Refused, What};
use super::transaction::Transaction;
use super::{Reply, reply};
use crate::envelope::{Envelope, Peer};
use std::sync::Arc;

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
    /// A verdict about this forward-path (mailbox text): answer with [`Session::recipient`].
    Recipient(String),
    /// DATA is in order: answer with [`Session::begin`]; after an accepted one, data octets follow.
    Data,
    /// A BDAT chunk of that many octets follows (RFC 3030): for the first chunk of a message answer with
    /// [`Session::begin`] too (no reply is written for an accepted one); then data octets follow. Call [`Session::data`] at once with
    /// what has been read, be that nothing: a chunk may be empty.
    Chunk { size: u64, first: bool, last: bool },
    /// `out` holds the 220 to STARTTLS: flush it, drop every octet still unread, shake hands, call [`Session::tls_started`].
    Tls,
    /// `out` holds the last reply: flush it and close.
    Close,
}

/// How far the data have come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More data octets are needed.
    More,
    /// A BDAT chunk that is not the last (or one that was refused by [`Session::begin`]) is complete; its reply is in `out`; commands
    /// follow.
    ChunkDone,
    /// End of data, or of the chunk with which a message failed. `refused` is the session's own verdict on the message (bare newline,
    /// size), which beats delivery. Answer with [`Session::end`].
    End { refused: Option<Reply> },
}

/// Where the octets of a buffer stand after [`Session::data`].
#[derive(Debug, PartialEq, Eq)]
pub struct Advance {
    /// `buf[..clean]` are message octets, un-stuffed.
    pub clean: usize,
    /// `buf[clean..filled]` wait for their successors (a few octets such as `CR LF .`), unchanged in meaning; with `End` or `ChunkDone`
    /// they are what follows the data: pipelined commands.
    pub filled: usize,
    pub progress: Progress,
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
    pub(super) messages: u32,
    pub(super) errors: u32,
    /// The command that is being answered, and the address that it names.
    pub(super) verb: Verb,
    pub(super) named: Option<Box<str>>,
    /// For the driver: [`Session::take_refused`].
    pub(super) refused: Vec<Refused>,
}

pub(super) enum State {
    /// Lines are commands.
    Command,
    AskRecipient(String),
    AskData,
    AskChunk(Chunk),
    Data,
    Chunk(Chunk),
    /// These octets are a chunk that nobody wants; then the reply.
    Swallow {
        left: u64,
        reply: Box<Reply>,
    },
    /// The driver owes the final reply.
    Ended {
        more_chunks: bool,
    },
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
            messages: 0,
            errors: 0,
            verb: Verb::Unknown,
            named: None,
            refused: Vec::new(),
        }
    }

    #[must_use]
    pub fn normalizes_newlines(&self) -> bool {
        self.settings.normalize_newlines
    }

    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Appends the 220 banner.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.line(out, &["220 ", &self.settings.hostname, " ESMTP mailsluice"]);
    }

    /// Uses command octets; returns how many were used and what is needed next. Replies are appended to `out`.
    /// Called again with the unused rest (and more) after each need has been met, also when that rest is empty: the session may have
    /// to close. A line that is not complete is left unused.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Need) {
        let mut used = 0;
        loop {
            if let Some(need) = self.need() {
                // Octets that came in the clear behind STARTTLS belong to nobody (command injection, CVE-2011-0411).
                let used = if need == Need::Tls { input.len() } else { used };
                return (used, need);
            }
            let rest = input.get(used..).unwrap_or_default();
            if let State::Swallow { .. } = self.state {
                used += self.swallow(rest.len(), out);
                if let State::Swallow { .. } = self.state {
                    return (used, Need::Input);
                }
                continue;
            }
            let read = self.lines.read(rest);
            used += read.used;
            match read.line {
                None => return (used, Need::Input),
                Some(Ok(line)) => self.command(&Command::parse(line), out),
                Some(Err(error)) => self.bad_line(error, read.bdat, out),
            }
            self.first = false;
        }
    }

    /// The verdict on the recipient asked about. A refusal for good (5xx) counts towards `max_errors`; one that says "later" or "in
    /// another transaction" does not, or else a long list of recipients would never get through.
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
                self.named = Some(mailbox.into());
                self.answer(&refusal, out);
                if (500..600).contains(&refusal.code()) && !is_command_error(&refusal) {
                    self.count_error(out);
                }
            }
        }
    }

    /// May the data come? For DATA, Ok writes 354. A refused DATA needs no data octets; a refused chunk is swallowed through
    /// [`Session::data`] (or [`Session::feed`], the same). Either refusal ends the transaction.
    pub fn begin(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        match (&self.state, verdict) {
            (State::AskData, Ok(())) => {
                self.begin_message();
                reply::START_DATA.write(out);
                self.state = State::Data;
            }
            (State::AskData, Err(refusal)) => {
                self.transaction = None;
                self.state = State::Command;
                self.answer(&refusal, out);
            }
            (&State::AskChunk(chunk), Ok(())) => {
                self.begin_message();
                self.begin_chunk(chunk);
            }
            (&State::AskChunk(chunk), Err(refusal)) => self.fail_chunk(chunk, refusal),
            _ => self.out_of_turn(),
        }
    }

    /// Un-stuffs data octets in place. `buf[..clean]` was clean before, `buf[clean..filled]` is what has been read since (the waiting
    /// octets of the last call first). Under `normalize_newlines`, `buf` must be at least `2 * filled - clean` long. One clean octet
    /// may still change under `normalize_newlines`: a CR that ended a chunk becomes a space when no LF starts the next. A message starts
    /// with `clean` 0; octets that a driver left there of a message which was forgotten (RSET between chunks) are dropped.
    pub fn data(&mut self, buf: &mut [u8], clean: usize, filled: usize, out: &mut Vec<u8>) -> Advance {
        let mut filled = filled.min(buf.len());
        let mut clean = clean.min(filled);
        if let State::Swallow { .. } = self.state {
            let taken = self.swallow(filled - clean, out);
            buf.copy_within(clean + taken..filled, 0);
            let progress = if let State::Swallow { .. } = self.state { Progress::More } else { Progress::ChunkDone };
            return Advance { clean: 0, filled: filled - clean - taken, progress };
        }
        let incoming = self.transaction.as_mut().and_then(|transaction| transaction.incoming.as_mut());
        if incoming.as_ref().is_some_and(|incoming| incoming.size() == 0) {
            buf.copy_within(clean..filled, 0);
            filled -= std::mem::take(&mut clean);
        }
        match (&mut self.state, incoming) {
            (State::Data, Some(incoming)) => {
                let pass = incoming.data(buf, clean, filled);
                let progress = if pass.end { self.ended(false) } else { Progress::More };
                Advance { clean: pass.clean, filled: pass.filled, progress }
            }
            (State::Chunk(chunk), Some(incoming)) => {
                let taken = usize::try_from(chunk.size).unwrap_or(usize::MAX).min(filled - clean);
                chunk.size -= taken as u64;
                let Chunk { size: left, last } = *chunk;
                let pass = incoming.chunk(buf, clean, filled, taken, last && left == 0);
                let progress = if left > 0 {
                    Progress::More
                } else if last || incoming.refusal().is_some() {
                    self.ended(!last)
                } else {
                    self.state = State::Command;
                    self.answer(&reply::CHUNK_OK, out);
                    Progress::ChunkDone
                };
                Advance { clean: pass.clean, filled: pass.filled, progress }
            }
            _ => {
                debug_assert!(false, "data octets were given, but none are wanted");
                Advance { clean, filled, progress: Progress::More }
            }
        }
    }

    /// From now on nothing is kept (`clean` stays 0): the message is swallowed to its true end, then refused with this. For a budget or
    /// header limit that the driver finds while data flow. The first refusal wins, but a bare newline gives way to any other.
    pub fn refuse_data(&mut self, refusal: Reply) {
        if let Some(incoming) = self.incoming_mut() {
            incoming.refuse(Refusal::Other, refusal);
        }
    }

    /// At most so many more octets may be read before the next decision (a BDAT chunk's rest; `u64::MAX` in DATA).
    pub fn data_left(&self) -> u64 {
        match &self.state {
            State::Data => u64::MAX,
            State::Chunk(chunk) => chunk.size,
            State::Swallow { left, .. } => *left,
            State::Command
            | State::AskRecipient(_)
            | State::AskData
            | State::AskChunk(_)
            | State::Ended { .. }
            | State::StartTls
            | State::Closed => 0,
        }
    }

    /// The octets of a message have begun and it is not over: what is clean has to be kept, also between two chunks. When this is false
    /// (RSET between chunks, a refused chunk), the driver can free them.
    pub fn message_open(&self) -> bool {
        self.incoming().is_some()
    }

    /// Un-stuffed octets of the message so far, also those that were not kept (counted as they came, not as they would have been
    /// normalised); until [`Session::end`].
    pub fn message_size(&self) -> u64 {
        self.incoming().map_or(0, Incoming::size)
    }

    /// Why the session refuses the message whose data flow or have just ended, until [`Session::end`].
    pub fn refusal(&self) -> Option<Refusal> {
        self.incoming().and_then(Incoming::refusal).map(|(refusal, _)| *refusal)
    }

    /// A recipient of the transaction has been accepted.
    pub fn has_recipients(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| !transaction.recipients.is_empty())
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
        std::mem::take(&mut self.refused)
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

    /// The final reply to the end of data; the transaction is over.
    pub fn end(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        let State::Ended { more_chunks } = self.state else { return self.out_of_turn() };
        self.state = State::Command;
        let bare_newline = self.refusal() == Some(Refusal::BareNewline);
        self.transaction = None;
        self.failed_chunks = more_chunks.then(|| Box::new(reply.clone()));
        self.write_reply(reply, out);
        if bare_newline {
            self.count_error(out);
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

    fn ended(&mut self, more_chunks: bool) -> Progress {
        self.state = State::Ended { more_chunks };
        Progress::End { refused: self.incoming().and_then(Incoming::refusal).map(|(_, reply)| reply.clone()) }
    }

    pub(super) fn line(&self, out: &mut Vec<u8>, parts: &[&str]) {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn incoming(&self) -> Option<&Incoming> {
        self.transaction.as_ref().and_then(|transaction| transaction.incoming.as_ref())
    }

    pub(super) fn incoming_mut(&mut self) -> Option<&mut Incoming> {
        self.transaction.as_mut().and_then(|transaction| transaction.incoming.as_mut())
    }

    /// The driver answered what was not asked: a bug of ours, never of the peer.
    fn out_of_turn(&self) {
        debug_assert!(false, "an answer came that was not asked for");
    }
}
