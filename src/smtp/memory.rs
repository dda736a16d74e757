//! A driver in memory: what `net` does with sockets, done with vectors. For tests.

use super::data::Incoming;
use super::{COMMAND_MAX, Need, Refusal, Reply, Session, Settings, reply};
use crate::envelope::{Envelope, Peer};
use std::sync::Arc;

/// A message at its end of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) envelope: Envelope,
    /// Also of a message that was refused.
    pub(super) octets: Vec<u8>,
    pub(super) size: u64,
    pub(super) refusal: Option<Refusal>,
}

/// What can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) out: Vec<u8>,
    pub(super) ended: Vec<Ended>,
    /// Every recipient that was asked about, accepted or not.
    pub(super) asked: Vec<String>,
    pub(super) wants_tls: bool,
    pub(super) closed: bool,
}

pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) seen: Seen,
    /// `*` in front stands for anything.
    pub(super) recipients: Vec<String>,
    /// The verdict on every message that is to begin.
    pub(super) begin: Result<(), Reply>,
    normalize: bool,
    size_max: u64,
    input: Vec<u8>,
    message: Option<Message>,
    flow: Option<Flow>,
}

struct Message {
    envelope: Envelope,
    incoming: Incoming,
    body: Vec<u8>,
    clean: usize,
}

/// What the next octets are.
enum Flow {
    Data,
    Chunk { left: u64, last: bool, wanted: bool },
}

pub(super) fn settings() -> Settings {
    Settings {
        hostname: "mx.test".into(),
        postmaster: "postmaster".into(),
        max_message_size: 25 << 20,
        max_recipients: 100,
        max_messages: 100,
        max_errors: 10,
        max_junk: 100,
        normalize_newlines: false,
        offer_starttls: false,
        require_tls: false,
    }
}

impl Connection {
    pub(super) fn new(settings: Settings) -> Self {
        let (normalize, size_max) = (settings.normalize_newlines, settings.max_message_size);
        let peer = Peer { ip: [192, 0, 2, 1].into(), port: 40_000 };
        Self {
            session: Session::new(Arc::new(settings), peer),
            seen: Seen::default(),
            recipients: vec!["*".into()],
            begin: Ok(()),
            normalize,
            size_max,
            input: Vec::new(),
            message: None,
            flow: None,
        }
    }

    /// Octets come from the client; everything that can be done is done.
    pub(super) fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.seen.closed && !self.seen.wants_tls {
            let done = if self.flow.is_some() { self.data() } else { self.commands() };
            if done {
                return;
            }
        }
        self.input.clear();
    }

    /// The client sends no more before it has read the replies.
    pub(super) fn wait(&mut self) {
        if self.flow.is_none() && !self.seen.closed && self.session.has_only_refused() {
            self.session.cut_off(&reply::TOO_MANY_ERRORS, &mut self.seen.out);
            self.seen.closed = true;
        }
    }

    pub(super) fn handshake(&mut self) {
        assert!(std::mem::take(&mut self.seen.wants_tls), "no STARTTLS before");
        self.session.tls_started("TLSv1.3 TLS_AES_256_GCM_SHA384".into());
    }

    /// All lines sent so far.
    pub(super) fn lines(&self) -> Vec<&str> {
        std::str::from_utf8(&self.seen.out).expect("replies are UTF-8").split_terminator("\r\n").collect()
    }

    /// The octets and only then the replies that they brought.
    pub(super) fn ask(&mut self, octets: impl AsRef<[u8]>) -> Vec<String> {
        let before = self.lines().len();
        self.send(octets.as_ref());
        self.wait();
        self.lines().into_iter().skip(before).map(str::to_owned).collect()
    }

    /// True: more octets are needed.
    fn commands(&mut self) -> bool {
        let out = &mut self.seen.out;
        let (used, need) = self.session.feed(&self.input, out);
        self.input.drain(..used);
        match need {
            Need::Input => {
                assert!(self.input.len() < COMMAND_MAX, "a buffer of {COMMAND_MAX} octets would be full");
                return true;
            }
            Need::Turn => {}
            Need::Recipient(mailbox) => {
                let known =
                    self.recipients.iter().any(|glob| glob.strip_prefix('*').map_or(*glob == mailbox, |end| mailbox.ends_with(end)));
                self.seen.asked.push(mailbox);
                self.session.recipient(if known { Ok(()) } else { Err(reply::NO_ROUTE) }, out);
            }
            Need::Message => {
                if self.begin.is_ok() {
                    let incoming = Incoming::new(self.normalize, self.size_max);
                    self.message = Some(Message { envelope: self.session.envelope(), incoming, body: Vec::new(), clean: 0 });
                }
                self.session.begin(self.begin.clone(), out);
            }
            Need::Data => self.flow = Some(Flow::Data),
            Need::Chunk { size, last, wanted } => {
                self.flow = Some(Flow::Chunk { left: size, last, wanted });
                if let Some(message) = self.message.as_mut().filter(|_| wanted) {
                    message.incoming.announce(size);
                }
            }
            Need::Tls => self.seen.wants_tls = true,
            Need::Close => self.seen.closed = true,
        }
        false
    }

    /// True: more octets are needed.
    fn data(&mut self) -> bool {
        match self.flow.as_mut().expect("data flow") {
            Flow::Data => {
                let message = self.message.as_mut().expect("a message has begun");
                message.body.append(&mut self.input);
                if !message.pass(None, self.normalize) {
                    return true;
                }
                self.input = message.body.split_off(message.clean);
                self.ended();
            }
            Flow::Chunk { left, last, wanted } => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= taken as u64;
                let (done, last, wanted) = (*left == 0, *last, *wanted);
                let octets: Vec<u8> = self.input.drain(..taken).collect();
                let mut refused = None;
                if let Some(message) = self.message.as_mut().filter(|_| wanted) {
                    message.body.extend(octets);
                    message.pass(Some(last && done), self.normalize);
                    refused = message.refusal();
                }
                if !done {
                    return true;
                }
                if last && wanted {
                    self.ended();
                } else {
                    self.session.chunk_done(refused.as_ref(), &mut self.seen.out);
                    if refused.is_some() {
                        self.note();
                    }
                }
            }
        }
        self.flow = None;
        false
    }

    fn ended(&mut self) {
        let reply = self.message.as_ref().and_then(Message::refusal);
        let reply = reply.unwrap_or_else(|| Reply::delivered("00000000000000000000000000"));
        self.note();
        self.session.end(&reply, &mut self.seen.out);
    }

    fn note(&mut self) {
        let Message { envelope, incoming, mut body, clean } = self.message.take().expect("a message");
        body.truncate(clean);
        self.seen.ended.push(Ended { envelope, octets: body, size: incoming.size(), refusal: incoming.refusal() });
    }
}

impl Message {
    /// `chunk`: the octets are a chunk's, and whether they are the last. True: the end of data.
    fn pass(&mut self, chunk: Option<bool>, normalize: bool) -> bool {
        let Self { incoming, body, clean, .. } = self;
        let mut judge = |body: &mut [u8], clean, filled| match chunk {
            None => incoming.data(body, clean, filled),
            Some(last) => incoming.chunk(body, clean, filled, last),
        };
        let filled = body.len();
        let mut pass = judge(body, *clean, filled);
        if pass.cramped {
            assert!(normalize, "only normalising needs room");
            body.resize(pass.room(), 0xaa);
            pass = judge(body, pass.clean, pass.filled);
            assert!(!pass.cramped, "the room that was asked for");
        }
        body.truncate(pass.filled);
        *clean = pass.clean;
        assert!(pass.end || body.len() - *clean <= 2, "only a few octets wait");
        assert_eq!(incoming.size(), *clean as u64);
        pass.end
    }

    fn refusal(&self) -> Option<Reply> {
        self.incoming.refusal().map(|refusal| match refusal {
            Refusal::Size => reply::MESSAGE_TOO_LARGE,
            Refusal::BareNewline => reply::BARE_NEWLINE,
        })
    }
}
