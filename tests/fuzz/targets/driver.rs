//! A driver of the session in memory: what the daemon's does with a socket and an endpoint, done with vectors. Nothing of the octets
//! is known to it but what the session says.

use mailsluice::envelope::{Envelope, Peer};
use mailsluice::smtp::{COMMAND_MAX, Incoming, Need, Refusal, Reply, Session, Settings, reply};
use std::sync::Arc;

/// A message at its end of data.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub envelope: Envelope,
    /// Also of a message that was refused.
    pub octets: Vec<u8>,
    pub size: u64,
    pub refusal: Option<Refusal>,
}

/// Everything that can be seen from outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub out: Vec<u8>,
    pub ended: Vec<Ended>,
    pub asked: Vec<String>,
    pub wants_tls: bool,
    pub closed: bool,
}

pub struct Driver {
    pub session: Session,
    pub seen: Seen,
    /// The verdict on every message that is to begin.
    pub begin: Result<(), Reply>,
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

impl Driver {
    pub fn new(settings: Settings) -> Self {
        let (normalize, size_max) = (settings.normalize_newlines, settings.max_message_size);
        let peer = Peer { ip: [192, 0, 2, 1].into(), port: 40_000 };
        let mut driver = Self {
            session: Session::new(Arc::new(settings), peer),
            seen: Seen::default(),
            begin: Ok(()),
            normalize,
            size_max,
            input: Vec::new(),
            message: None,
            flow: None,
        };
        driver.session.greet(&mut driver.seen.out);
        driver
    }

    /// Octets come from the client; everything that can be done is done.
    pub fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.seen.closed && !self.seen.wants_tls {
            if if self.flow.is_some() { self.data() } else { self.commands() } {
                return;
            }
        }
        // Behind STARTTLS and behind the end, what has come is nobody's.
        self.input.clear();
    }

    pub fn handshake(&mut self) {
        self.seen.wants_tls = false;
        self.session.tls_started("TLSv1.3 TLS_AES_256_GCM_SHA384".to_owned());
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
                // By the mailbox alone, so that any run of the same octets gives the same verdict.
                let verdict = match mailbox.as_bytes().last() {
                    Some(b'x') => Err(reply::NO_ROUTE),
                    Some(b'y') => Err(reply::OTHER_ROUTE),
                    _ => Ok(()),
                };
                self.seen.asked.push(mailbox);
                self.session.recipient(verdict, out);
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
