//! Senders in a closed loop: each message with an id and a checksum of its own, each reply kept.

use super::client::Client;
use super::daemon::Daemon;
use super::endpoint::Request;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the senders do.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) senders: usize,
    /// Messages in all, unless stopped before.
    pub(crate) messages: u64,
    pub(crate) per_connection: u64,
    pub(crate) size: usize,
    pub(crate) recipient: String,
    /// Over a lost connection, connect again and go on with the next message.
    pub(crate) persistent: bool,
}

impl Load {
    pub(crate) fn new(to: SocketAddr, messages: u64) -> Self {
        Self { to, senders: 8, messages, per_connection: 20, size: 3000, recipient: "bob@example.test".into(), persistent: false }
    }
}

/// What became of each message, by its id; and how long each reply to an end of data took.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The reply's code; `None` where the connection broke before the reply.
    pub(crate) replies: BTreeMap<u64, Option<u16>>,
    pub(crate) times: Vec<Duration>,
    pub(crate) refused_connections: u64,
    pub(crate) broken_connections: u64,
    pub(crate) took: Duration,
}

impl Outcome {
    pub(crate) fn accepted(&self) -> impl Iterator<Item = u64> {
        self.replies.iter().filter(|(_, code)| **code == Some(250)).map(|(id, _)| *id)
    }

    pub(crate) fn count(&self, code: Option<u16>) -> usize {
        self.replies.values().filter(|&&c| c == code).count()
    }

    /// The time that this share of the replies came within.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        #[expect(clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index into a list of times")]
        let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
        times[at - 1]
    }
}

/// The message with this id: its id and the checksum of its text stand in its header.
pub(crate) fn message(id: u64, size: usize) -> Vec<u8> {
    let mut body = super::messages::of_size(&format!("load-{id}"), size.max(400));
    let text = body.split_off(body.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 2);
    body.extend_from_slice(format!("X-Load-Id: {id}\r\nX-Load-Sum: {}\r\n", blake3::hash(&text)).as_bytes());
    body.extend_from_slice(&text);
    body
}

/// The id of a message that came whole.
#[track_caller]
pub(crate) fn id_of(request: &Request) -> u64 {
    let body = &request.body;
    let at = body.windows(4).position(|w| w == b"\r\n\r\n").expect("a blank line") + 2;
    let (head, text) = body.split_at(at);
    let head = std::str::from_utf8(head).unwrap();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {head}"));
    assert_eq!(value("X-Load-Sum: "), blake3::hash(text).to_string(), "the message's text changed on its way");
    value("X-Load-Id: ").parse().unwrap()
}

/// The ids of all messages that have a record, whether in the store or, as promise 3 allows, in the log.
pub(crate) fn recorded(daemon: &Daemon) -> BTreeSet<u64> {
    let stored = daemon.admin.records("");
    let id = |record: &serde_json::Value| record["subject"].as_str()?.strip_prefix("load-")?.parse().ok();
    stored.iter().filter_map(id).chain(logged(&daemon.log())).collect()
}

/// The ids that a log speaks of.
pub(crate) fn logged(log: &str) -> BTreeSet<u64> {
    let ids = log.split("load-").skip(1).map(|part| part.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse());
    ids.flatten().collect()
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Runs until all messages are sent, or until `stop`, and the last replies are there.
pub(crate) fn run(load: &Load, stop: &AtomicBool) -> Outcome {
    let left = AtomicU64::new(load.messages);
    let outcome = Mutex::new(Outcome::default());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..load.senders {
            scope.spawn(|| sender(load, stop, &left, &outcome));
        }
    });
    let mut outcome = outcome.into_inner().unwrap();
    outcome.took = start.elapsed();
    outcome
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

fn sender(load: &Load, stop: &AtomicBool, left: &AtomicU64, outcome: &Mutex<Outcome>) {
    while !stop.load(Ordering::Relaxed) && left.load(Ordering::Relaxed) > 0 {
        let ended = connection(load, stop, left, outcome);
        if ended.is_err() && !load.persistent {
            return;
        }
    }
}

/// One connection with its messages.
fn connection(load: &Load, stop: &AtomicBool, left: &AtomicU64, outcome: &Mutex<Outcome>) -> std::io::Result<()> {
    let mut client = match Client::try_connect(load.to) {
        Ok(client) => client,
        Err(error) => {
            outcome.lock().unwrap().refused_connections += 1;
            super::wait::tick();
            return Err(error);
        }
    };
    let result = (|| {
        client.try_reply()?;
        client.try_send("EHLO load.test\r\n")?;
        client.try_reply()?;
        for _ in 0..load.per_connection {
            if stop.load(Ordering::Relaxed) || !take(left) {
                break;
            }
            let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
            let octets = super::client::stuffed(&message(id, load.size));
            client.try_send(format!("MAIL FROM:<load@sender.test>\r\nRCPT TO:<{}>\r\nDATA\r\n", load.recipient))?;
            let mut codes = [0; 3];
            for code in &mut codes {
                *code = client.try_reply()?.code;
            }
            if codes != [250, 250, 354] {
                outcome.lock().unwrap().replies.insert(id, codes.into_iter().find(|code| *code >= 400));
                continue;
            }
            outcome.lock().unwrap().replies.insert(id, None);
            client.try_send(&octets)?;
            let sent = Instant::now();
            let reply = client.try_reply()?;
            let mut outcome = outcome.lock().unwrap();
            outcome.times.push(sent.elapsed());
            outcome.replies.insert(id, Some(reply.code));
        }
        client.try_send("QUIT\r\n")?;
        client.try_reply().map(drop)
    })();
    if result.is_err() {
        outcome.lock().unwrap().broken_connections += 1;
    }
    result
}
