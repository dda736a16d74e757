//! A driver of the session in memory: what the daemon's does with a socket and an endpoint, done with vectors. Nothing of the octets
//! is known to it but what the session says.

use mailsluice::envelope::{Envelope, Peer};
use mailsluice::smtp::{COMMAND_MAX, Need, Progress, Refusal, Reply, Session, Settings, reply};
use std::sync::Arc;

/// A message at its end of data.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub envelope: Envelope,
    pub octets: Vec<u8>,
    /// `None` for one that was refused while it would have been normalised: what is not kept is counted as it came.
    pub size: Option<u64>,
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
    input: Vec<u8>,
    body: Vec<u8>,
    clean: usize,
    data_flow: bool,
}

impl Driver {
    pub fn new(settings: Settings) -> Self {
        let normalize = settings.normalize_newlines;
        let peer = Peer { ip: [192, 0, 2, 1].into(), port: 40_000 };
        let mut driver = Self {
            session: Session::new(Arc::new(settings), peer),
            seen: Seen::default(),
            begin: Ok(()),
            normalize,
            input: Vec::new(),
            body: Vec::new(),
            clean: 0,
            data_flow: false,
        };
        driver.session.greet(&mut driver.seen.out);
        driver
    }

    /// Octets come from the client; everything that can be done is done.
    pub fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.seen.closed && !self.seen.wants_tls {
            if if self.data_flow { self.data() } else { self.commands() } {
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
            Need::Data => {
                self.session.begin(self.begin.clone(), out);
                self.data_flow = self.begin.is_ok();
            }
            Need::Chunk { first, .. } => {
                if first {
                    self.session.begin(self.begin.clone(), out);
                }
                self.data_flow = true;
            }
            Need::Tls => self.seen.wants_tls = true,
            Need::Close => self.seen.closed = true,
        }
        false
    }

    fn data(&mut self) -> bool {
        self.body.append(&mut self.input);
        let filled = self.body.len();
        if self.normalize {
            self.body.resize(2 * filled - self.clean, 0xaa);
        }
        let advance = self.session.data(&mut self.body, self.clean, filled, &mut self.seen.out);
        assert!(advance.clean <= advance.filled && advance.filled <= self.body.len(), "{advance:?} of {}", self.body.len());
        self.body.truncate(advance.filled);
        self.clean = advance.clean;
        match advance.progress {
            Progress::More => {
                assert!(advance.filled - advance.clean <= 2, "only CR or dot and CR may wait");
                assert!(self.session.data_left() > 0, "more is asked for, but none is left");
                return true;
            }
            Progress::ChunkDone => self.input = self.body.split_off(self.clean),
            Progress::End { refused } => {
                self.input = self.body.split_off(self.clean);
                self.clean = 0;
                let size = (!self.normalize || refused.is_none()).then(|| self.session.message_size());
                let octets = std::mem::take(&mut self.body);
                self.seen.ended.push(Ended { envelope: self.session.envelope(), octets, size, refusal: self.session.refusal() });
                let reply = refused.unwrap_or_else(|| Reply::delivered("00000000000000000000000000"));
                self.session.end(&reply, &mut self.seen.out);
            }
        }
        self.data_flow = false;
        false
    }
}
