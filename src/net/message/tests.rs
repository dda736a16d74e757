//! A message has one identity, however it came and whatever became of it.

use super::{Flow, Message};
use crate::config::{Config, Smtp};
use crate::envelope::{Envelope, Peer};
use crate::message::Budget;
use crate::net::stream::Stream;
use crate::ring::{self, Conn};
use crate::smtp::{Reply, reply};
use crate::stats::Stats;
use proptest::prelude::*;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// What a record says of a message, and what its endpoint gets.
#[derive(Debug, PartialEq)]
struct Seen {
    webhook_id: String,
    message_id: Option<String>,
    subject: Option<String>,
    size: u64,
    refusal: Option<Reply>,
    body: Option<Vec<u8>>,
}

impl Seen {
    /// What does not depend on what became of it.
    fn identity(&self) -> (&str, Option<&str>, Option<&str>, u64) {
        (&self.webhook_id, self.message_id.as_deref(), self.subject.as_deref(), self.size)
    }
}

struct Way<'a> {
    limits: Smtp,
    budget: u64,
    normalize: bool,
    /// Where the octets are cut.
    cuts: &'a [usize],
    /// Where the chunks end; `None`: DATA.
    chunks: Option<&'a [usize]>,
}

impl Way<'_> {
    fn open(&self, budget: &Arc<Budget>) -> Message {
        let envelope = Envelope {
            peer: Peer { ip: [192, 0, 2, 1].into(), port: 40_000 },
            helo: "client.test".into(),
            reverse_path: "a@sender.test".into(),
            recipients: vec!["b@example.test".into()],
            declared_size: None,
            smtputf8: false,
            tls: None,
        };
        let lease = budget.lease(&budget.share());
        Message::open(envelope, None, lease, &[7; 32], &self.limits, self.normalize).unwrap()
    }

    /// All that came with commands.
    fn walk(&self, message: &[u8]) -> Seen {
        let budget = Budget::new(self.budget, 1.0, 1.0);
        let stats = Stats::new();
        let mut open = self.open(&budget);
        match self.chunks {
            None => {
                let mut flow = Flow::Data;
                let wire = [stuffed(message), b"NOOP\r\n".to_vec()].concat();
                let (mut at, mut done) = (0, false);
                for piece in pieces(&wire, self.cuts) {
                    let (used, end) = open.take(piece, &mut flow, &stats);
                    at += used;
                    done = end;
                    if end {
                        break;
                    }
                    assert_eq!(used, piece.len());
                }
                assert!(done, "the end of data was not found");
                assert_eq!(&wire[at..], b"NOOP\r\n");
            }
            Some(ends) => {
                let chunks = pieces(message, ends);
                for (n, chunk) in chunks.iter().enumerate() {
                    let mut flow = Flow::Chunk { left: chunk.len() as u64, last: n + 1 == chunks.len() };
                    if !open.has_failed() {
                        open.announce(chunk.len() as u64);
                    }
                    let mut done = false;
                    for piece in pieces(chunk, self.cuts) {
                        let (used, end) = open.take(piece, &mut flow, &stats);
                        assert_eq!(used, piece.len());
                        done = end;
                    }
                    assert!(done || chunk.is_empty() && open.take(b"BDAT", &mut flow, &stats) == (0, true));
                    open.fails(&stats);
                }
            }
        }
        Self::seen(open, &budget, &stats)
    }

    /// All that is read from a connection.
    fn read(&self, message: &[u8]) -> Seen {
        let budget = Budget::new(self.budget, 1.0, 1.0);
        let stats = Stats::new();
        let mut open = self.open(&budget);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let server = listener.accept().unwrap().0;
        let wire = if self.chunks.is_none() { [stuffed(message), b"NOOP\r\n".to_vec()].concat() } else { message.to_vec() };
        std::thread::scope(|scope| {
            // What lies behind the end of data may find nobody any more.
            scope.spawn(move || pieces(&wire, self.cuts).into_iter().for_each(|piece| client.write_all(piece).unwrap_or_default()));
            let lengths = self.chunks.map(|ends| pieces(message, ends).iter().map(|chunk| chunk.len()).collect::<Vec<_>>());
            ring::run(async {
                let mut stream = Stream::new(Conn::from_std(server));
                let flows = match &lengths {
                    None => vec![Flow::Data],
                    Some(chunks) => chunks
                        .iter()
                        .enumerate()
                        .map(|(n, length)| Flow::Chunk { left: *length as u64, last: n + 1 == chunks.len() })
                        .collect(),
                };
                for mut flow in flows {
                    if let Flow::Chunk { left, .. } = flow
                        && !open.has_failed()
                    {
                        open.announce(left);
                    }
                    let (_, mut done) = open.take(&[], &mut flow, &stats);
                    while !done {
                        done = open.read(&mut stream, &mut flow, &stats).await.unwrap();
                    }
                    assert!(b"NOOP\r\n".starts_with(&open.rest(&flow).0));
                    if let Flow::Chunk { .. } = flow {
                        open.fails(&stats);
                    }
                }
            })
            .unwrap();
        });
        Self::seen(open, &budget, &stats)
    }

    fn seen(open: Message, budget: &Budget, stats: &Stats) -> Seen {
        let finished = open.finish(stats).unwrap();
        assert_eq!(finished.body.is_none(), finished.refusal.is_some());
        assert!(finished.body.is_some() || budget.held() == 0, "what is refused holds nothing");
        let body = finished.body.map(|body| body.octets().to_vec());
        assert_eq!(budget.held(), 0);
        assert!(body.as_ref().is_none_or(|body| body.len() as u64 == finished.size_octets));
        Seen {
            webhook_id: finished.webhook_id,
            message_id: finished.message_id,
            subject: finished.subject,
            size: finished.size_octets,
            refusal: finished.refusal,
            body,
        }
    }
}

fn pieces<'a>(octets: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let ends = cuts.into_iter().chain([octets.len()]);
    ends.map(|to| octets.get(std::mem::replace(&mut from, to)..to).unwrap()).collect()
}

fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (at, octet) in message.iter().enumerate() {
        if *octet == b'.' && (at == 0 || message[..at].ends_with(b"\r\n")) {
            wire.push(b'.');
        }
        wire.push(*octet);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

fn limits() -> Smtp {
    Config::load(None).unwrap().smtp
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "Subject: one\r\n", "Subject: =?utf-8?q?two?=\r\n three\r\n", "Message-ID: <a@b>\r\n", "Received: x\r\n", "X: y\r\n", "\r\n", "text\r\n",
            ".\r\n", "..\r\n", "\r\n.\r\n", "a", ".", "\r\n",
        ])
        .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\r", "\n", "\n.", "\r\r\n"]).prop_map(str::to_owned),
        1 => (1000_usize..9000).prop_map(|length| "x".repeat(length)),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| {
        let mut message = pieces.concat().into_bytes();
        // What DATA can carry.
        if !message.is_empty() && !message.ends_with(b"\r\n") {
            message.extend_from_slice(b"\r\n");
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_identity(message in message(), cuts in prop::collection::vec(any::<usize>(), 0..6), ends in prop::collection::vec(any::<usize>(), 0..4),
            normalize: bool, budget in 16_u64..200, size: prop::sample::Index, headers in (0_u64..3000, 0_u32..3)) {
        let way = |chunks: bool, cuts| Way { limits: limits(), budget: 1 << 30, normalize, cuts, chunks: chunks.then_some(&ends[..]) };
        let whole = way(false, &[]).walk(&message);
        let bare = message.iter().enumerate().any(|(at, octet)| match octet {
            b'\r' => message.get(at + 1) != Some(&b'\n'),
            b'\n' => at == 0 || message[at - 1] != b'\r',
            _ => false,
        });
        prop_assert_eq!(&whole.refusal, &(bare && !normalize).then_some(reply::BARE_NEWLINE));
        if !bare {
            prop_assert_eq!(whole.body.as_deref(), Some(&message[..]));
        }
        // The hash is of what is delivered, or would be.
        for chunks in [false, true] {
            for cuts in [&[][..], &cuts[..]] {
                prop_assert_eq!(&way(chunks, cuts).walk(&message), &whole);
                let starved = Way { budget: budget * 1024, ..way(chunks, cuts) }.walk(&message);
                prop_assert_eq!(starved.identity(), whole.identity());
                prop_assert!(starved.refusal == whole.refusal || starved.refusal == Some(reply::OUT_OF_MEMORY));
                let mut small = limits();
                small.max_message_size = size.index(message.len() + 1) as u64;
                let large = Way { limits: small, ..way(chunks, cuts) }.walk(&message);
                prop_assert_eq!(large.identity(), whole.identity());
                prop_assert_eq!(large.refusal == Some(reply::MESSAGE_TOO_LARGE), whole.size > size.index(message.len() + 1) as u64);
                let mut strict = limits();
                (strict.max_header_size, strict.max_received) = headers;
                let refused = Way { limits: strict, ..way(chunks, cuts) }.walk(&message);
                prop_assert_eq!(refused.identity(), whole.identity());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_identity_through_a_connection(message in message(), cuts in prop::collection::vec(any::<usize>(), 0..6), ends in prop::collection::vec(any::<usize>(), 0..4),
            normalize: bool, budget in 16_u64..200, size: prop::sample::Index) {
        let way = |chunks: bool| Way { limits: limits(), budget: 1 << 30, normalize, cuts: &cuts, chunks: chunks.then_some(&ends[..]) };
        let whole = way(false).walk(&message);
        for chunks in [false, true] {
            prop_assert_eq!(&way(chunks).read(&message), &whole);
            let starved = Way { budget: budget * 1024, ..way(chunks) }.read(&message);
            prop_assert_eq!(starved.identity(), whole.identity());
            prop_assert!(starved.refusal == whole.refusal || starved.refusal == Some(reply::OUT_OF_MEMORY));
            let mut small = limits();
            small.max_message_size = size.index(message.len() + 1) as u64;
            let large = Way { limits: small, ..way(chunks) }.read(&message);
            prop_assert_eq!(large.identity(), whole.identity());
        }
    }
}

#[test]
fn a_size_that_could_not_fit_now_is_refused_and_another_reserves_a_first_step() {
    let budget = Budget::new(40 << 20, 0.5, 1.0);
    let share = budget.share();
    let open = |size| {
        let envelope = Envelope {
            peer: Peer { ip: [192, 0, 2, 1].into(), port: 40_000 },
            helo: String::new(),
            reverse_path: String::new(),
            recipients: vec!["b@example.test".into()],
            declared_size: Some(size),
            smtputf8: false,
            tls: None,
        };
        Message::open(envelope, None, budget.lease(&share), &[7; 32], &limits(), false)
    };
    let many: Vec<_> = (0..100).map(|_| open(15 << 20).unwrap()).collect();
    assert!(budget.held() <= 100 * 64 * 1024, "{}", budget.held());
    assert!(open(20 << 20).is_err());
    drop(many);
    assert!(open(20 << 20).is_ok());
}
