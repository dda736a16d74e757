//! A driver in memory: what `net` does with sockets, done with vectors. For tests.

use super::{COMMAND_MAX, Need, Progress, Refusal, Reply, Session, Settings};
use crate::envelope::{Envelope, Peer};
use std::sync::Arc;

/// A message at its end of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) envelope: Envelope,
    pub(super) octets: Vec<u8>,
    /// 0 where nothing was kept of a message that would have been normalised: only the octets that are written are counted exactly.
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
    /// Once a message has so many octets, it is refused as if the budget were used up.
    pub(super) budget: usize,
    normalize: bool,
    input: Vec<u8>,
    body: Vec<u8>,
    clean: usize,
    data_flow: bool,
}

pub(super) fn settings() -> Settings {
    Settings {
        hostname: "mx.test".into(),
        postmaster: "postmaster".into(),
        max_message_size: 25 << 20,
        max_recipients: 100,
        max_messages: 100,
        max_errors: 10,
        normalize_newlines: false,
        offer_starttls: false,
        require_tls: false,
    }
}

impl Connection {
    pub(super) fn new(settings: Settings) -> Self {
        let normalize = settings.normalize_newlines;
        let peer = Peer { ip: [192, 0, 2, 1].into(), port: 40_000 };
        Self {
            session: Session::new(Arc::new(settings), peer),
            seen: Seen::default(),
            recipients: vec!["*".into()],
            begin: Ok(()),
            budget: usize::MAX,
            normalize,
            input: Vec::new(),
            body: Vec::new(),
            clean: 0,
            data_flow: false,
        }
    }

    /// Octets come from the client; everything that can be done is done.
    pub(super) fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.seen.closed && !self.seen.wants_tls {
            let done = if self.data_flow { self.data() } else { self.commands() };
            if done {
                return;
            }
        }
        self.input.clear();
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
            Need::Recipient(mailbox) => {
                let known =
                    self.recipients.iter().any(|glob| glob.strip_prefix('*').map_or(*glob == mailbox, |end| mailbox.ends_with(end)));
                self.seen.asked.push(mailbox);
                self.session.recipient(if known { Ok(()) } else { Err(super::reply::NO_ROUTE) }, out);
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
        let left = self.session.data_left();
        let advance = self.session.data(&mut self.body, self.clean, filled, &mut self.seen.out);
        self.body.truncate(advance.filled);
        self.clean = advance.clean;
        if self.clean > self.budget {
            self.session.refuse_data(super::reply::OUT_OF_MEMORY);
        }
        match advance.progress {
            Progress::More => {
                assert!(advance.filled - advance.clean <= 2 && self.session.data_left() > 0 && left > 0);
                return true;
            }
            Progress::ChunkDone => {
                // What stays of a message that is then forgotten must not get into the next one; the session sees to it.
                self.input = self.body.split_off(self.clean);
            }
            Progress::End { refused } => {
                self.input = self.body.split_off(self.clean);
                self.clean = 0;
                self.seen.ended.push(Ended {
                    envelope: self.session.envelope(),
                    octets: std::mem::take(&mut self.body),
                    size: if self.normalize && refused.is_some() { 0 } else { self.session.message_size() },
                    refusal: self.session.refusal(),
                });
                let reply = refused.unwrap_or_else(|| Reply::delivered("00000000000000000000000000"));
                self.session.end(&reply, &mut self.seen.out);
            }
        }
        self.data_flow = false;
        false
    }
}
