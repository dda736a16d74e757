//! A session (RFC 5321 section 3.1): octets in, replies and needs out. Keeps no buffer, knows no clock.

use super::Reply;
use crate::envelope::{Envelope, Peer};
use std::sync::Arc;

/// What the session must know of the configuration; one value shared by all sessions of a configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hostname: String,
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
    /// More octets: all complete lines have been used.
    Input,
    /// A verdict about this forward-path (mailbox text): answer with [`Session::recipient`].
    Recipient(String),
    /// DATA is in order: answer with [`Session::begin`]; after an accepted one, data octets follow.
    Data,
    /// A BDAT chunk of that many octets follows (RFC 3030): for the first chunk of a message answer with
    /// [`Session::begin`] too (no reply is written for an accepted one); then data octets follow.
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
    /// A BDAT chunk that is not the last is complete; its reply is in `out`; commands follow.
    ChunkDone,
    /// End of data. `refused` is the session's own verdict on the message (bare newline, size), which beats delivery.
    /// Answer with [`Session::end`].
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

pub struct Session { _todo: () }

impl Session {
    pub fn new(_settings: Arc<Settings>, _peer: Peer) -> Self { todo!() }
    /// Appends the 220 banner.
    pub fn greet(&mut self, _out: &mut Vec<u8>) { todo!() }
    /// Uses command octets; returns how many were used and what is needed next. Replies are appended to `out`.
    /// Called again with the unused rest (and more) after each need has been met. A line that is not complete is left unused.
    pub fn feed(&mut self, _input: &[u8], _out: &mut Vec<u8>) -> (usize, Need) { todo!() }
    /// The verdict on the recipient asked about. A refusal counts towards `max_errors`.
    pub fn recipient(&mut self, _verdict: Result<(), Reply>, _out: &mut Vec<u8>) { todo!() }
    /// May the data come? For DATA, Ok writes 354. A refused DATA needs no data octets; a refused chunk is swallowed through [`Session::data`].
    pub fn begin(&mut self, _verdict: Result<(), Reply>, _out: &mut Vec<u8>) { todo!() }
    /// Un-stuffs data octets in place. `buf[..clean]` was clean before, `buf[clean..filled]` is what has been read since (the waiting
    /// octets of the last call first). Under `normalize_newlines`, `buf` must be at least `2 * filled - clean` long.
    pub fn data(&mut self, _buf: &mut [u8], _clean: usize, _filled: usize, _out: &mut Vec<u8>) -> Advance { todo!() }
    /// From now on nothing is kept (`clean` stays 0): the message is swallowed to its true end, then refused with this. For a budget or
    /// header limit that the driver finds while data flow. The first refusal wins.
    pub fn refuse_data(&mut self, _reply: Reply) { todo!() }
    /// At most so many more octets may be read before the next decision (a BDAT chunk's rest; `u64::MAX` in DATA).
    pub fn data_left(&self) -> u64 { todo!() }
    /// The envelope of the transaction whose data flow or have just ended.
    pub fn envelope(&self) -> Envelope { todo!() }
    /// The final reply to the end of data; the transaction is over.
    pub fn end(&mut self, _reply: &Reply, _out: &mut Vec<u8>) { todo!() }
    /// The handshake succeeded: the session starts afresh (RFC 3207 section 4.2).
    pub fn tls_started(&mut self, _tls: String) { todo!() }
}
