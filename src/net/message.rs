//! One message while it comes: one object from its first octet to the verdict, over all its chunks. Size, hash, pace and the fields to
//! keep are its own, and each clean octet goes through them once, whether it is kept or not: a message has one identity, however it came
//! and whatever became of it.

use super::buffer;
use super::finished::Finished;
use super::pace::Pace;
use super::stream::{Ended, Limited, Stream, Tail};
use crate::config::Smtp;
use crate::delivery::{Destination, WebhookIdHasher};
use crate::envelope::Envelope;
use crate::message::header::{self, Scan};
use crate::message::{Body, Lease, OverBudget};
use crate::smtp::{Incoming, Pass, Refusal, Reply, reply};
use crate::stats::Stats;
use std::time::Instant;

/// What is read at once of a large message: a quarter of this costs a tenth more of processor time. What may lie behind its end is counted.
const READ_MAX: usize = 256 * 1024;
/// Room for the first read: most messages are small.
const FIRST_ROOM: usize = 8 * 1024;

/// Who sends so much at once has more of it.
const GOES_ON: usize = 64 * 1024;

/// What the next octets are.
pub(super) enum Flow {
    /// Up to the end of data.
    Data,
    Chunk {
        left: u64,
        last: bool,
    },
}

pub(super) struct Message {
    pub(super) began: Instant,
    pub(super) pace: Pace,
    incoming: Incoming,
    scan: Scan,
    /// `None`: a chunk that nobody wants, of no message.
    identity: Option<Identity>,
    octets: Octets,
    /// `octets[..clean]` are the message's, in a body; a few behind them may wait for their successors.
    clean: usize,
    out_of_memory: bool,
    max_header_size: u64,
    max_received: u32,
    /// The sender knows already: a chunk failed, and more of them may come.
    told: Option<Reply>,
}

enum Octets {
    Keeping(Body),
    /// It is refused, and comes to its end all the same: the buffer holds what has just come.
    Dropped(Vec<u8>),
    /// Only counted.
    Swallowing(Vec<u8>),
}

/// Whose message it is, and what makes its Webhook-Id.
struct Identity {
    envelope: Envelope,
    destination: Option<Box<Destination>>,
    key: [u8; 32],
    /// Of a long message, or one that is not kept: a small one is hashed in one go when all of it has come. Boxed: its 2 KiB of state would else be moved with every read.
    hasher: Option<Box<WebhookIdHasher>>,
    /// So many octets are in the hash.
    hashed: usize,
}

impl Message {
    /// Opens a message. One that declared its SIZE (RFC 1870) is refused at once where so much could not be had now; what is reserved is
    /// a first step all the same, since to declare costs nothing.
    pub(super) fn open(
        envelope: Envelope,
        destination: Option<Box<Destination>>,
        lease: Lease,
        key: &[u8; 32],
        limits: &Smtp,
        normalize: bool,
    ) -> Result<Self, OverBudget> {
        let of_route = destination.as_ref().and_then(|destination| destination.route.max_message_size);
        let size_max = of_route.unwrap_or(u64::MAX).min(limits.max_message_size);
        lease.check(envelope.declared_size.unwrap_or(0).min(size_max))?;
        let mut body = Body::new(lease);
        body.reserve(FIRST_ROOM)?;
        let identity = Identity { envelope, destination, key: *key, hasher: None, hashed: 0 };
        let incoming = Incoming::new(normalize, size_max);
        Ok(Self { identity: Some(identity), octets: Octets::Keeping(body), incoming, ..Self::swallowing(limits, normalize) })
    }

    /// Chunks out of order or refused.
    pub(super) fn swallowing(limits: &Smtp, normalize: bool) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            pace: Pace::new(limits, now),
            incoming: Incoming::new(normalize, limits.max_message_size),
            scan: Scan::default(),
            identity: None,
            octets: Octets::Swallowing(Vec::new()),
            clean: 0,
            out_of_memory: false,
            max_header_size: limits.max_header_size,
            max_received: limits.max_received,
            told: None,
        }
    }

    /// A chunk of that size is to come.
    pub(super) fn announce(&mut self, size: u64) {
        self.incoming.announce(size);
        self.drop_if_refused();
    }

    /// Takes octets that came with the commands; returns how many were its own, and whether all of the flow has come.
    pub(super) fn take(&mut self, octets: &[u8], flow: &mut Flow, stats: &Stats) -> (usize, bool) {
        if octets.is_empty() && flow.left() > 0 {
            return (0, false);
        }
        let octets = octets.get(..flow.left()).unwrap_or(octets);
        if let Octets::Keeping(body) = &mut self.octets
            && body.extend(octets).is_err()
        {
            self.over_budget();
        }
        if let Octets::Dropped(buffer) | Octets::Swallowing(buffer) = &mut self.octets {
            buffer.extend_from_slice(octets);
        }
        let done = self.step(octets.len(), flow, stats);
        // The rest is where it came from as well.
        let rest = if done { self.rest(flow).0.len() } else { 0 };
        (octets.len() - rest, done)
    }

    /// Reads more from the stream, no more than the flow can take. True: all of the flow has come; [`Message::rest`] lies behind it.
    pub(super) async fn read(&mut self, stream: &mut Stream, flow: &mut Flow, stats: &Stats) -> Result<bool, Ended> {
        let most = flow.left().min(READ_MAX);
        let deadline = self.pace.deadline();
        let (result, came) = match std::mem::replace(&mut self.octets, Octets::Swallowing(Vec::new())) {
            Octets::Keeping(mut body) => {
                let before = body.len();
                // As much again as has come, within bounds: a small message is not charged for a large one.
                let room = before.clamp(FIRST_ROOM, READ_MAX).min(most);
                if body.spare() < room.div_ceil(2) && body.reserve(room).is_err() && body.reserve(room.min(FIRST_ROOM)).is_err() {
                    self.octets = Octets::Keeping(body);
                    self.over_budget();
                    return Ok(false);
                }
                let (result, Limited { into: Tail(body), .. }) = stream.read(Limited { into: Tail(body), most }, deadline).await;
                let came = body.len() - before;
                if came >= GOES_ON {
                    stream.go_on();
                }
                self.octets = Octets::Keeping(body);
                (result, came)
            }
            Octets::Dropped(waiting) => {
                let before = waiting.len();
                let (result, buffer) = read_buffer(stream, waiting, most, deadline).await;
                let came = buffer.len() - before;
                self.octets = Octets::Dropped(buffer);
                (result, came)
            }
            Octets::Swallowing(_) => {
                let (result, buffer) = read_buffer(stream, Vec::new(), most, deadline).await;
                let came = buffer.len();
                self.octets = Octets::Swallowing(buffer);
                (result, came)
            }
        };
        match result {
            Ok(()) => Ok(self.step(came, flow, stats)),
            Err(Ended::TimedOut) if self.pace.is_good(Instant::now()) => Ok(false),
            Err(ended) => Err(ended),
        }
    }

    /// What has come goes through the protocol; what is clean then through scan and hash.
    fn step(&mut self, came: usize, flow: &mut Flow, stats: &Stats) -> bool {
        self.pace.came(came, Instant::now());
        flow.came(came);
        let before = self.incoming.size();
        let end = match self.octets {
            Octets::Keeping(_) => self.step_kept(flow),
            Octets::Dropped(_) => self.step_dropped(flow),
            Octets::Swallowing(_) => {
                self.octets = Octets::Swallowing(Vec::new());
                stats.bytes_received.add(u64::try_from(came).unwrap_or(0));
                false
            }
        };
        stats.bytes_received.add(self.incoming.size().saturating_sub(before));
        if !end {
            self.drop_if_refused();
        }
        end || matches!(flow, Flow::Chunk { left: 0, .. })
    }

    fn step_kept(&mut self, flow: &Flow) -> bool {
        let Octets::Keeping(body) = &mut self.octets else { return false };
        let before = self.clean;
        let filled = body.len();
        let mut pass = flow.judge(&mut self.incoming, body.octets_mut(), before, filled);
        let mut cramped = false;
        if pass.cramped {
            body.truncate(pass.filled);
            cramped = body.pad(pass.filled - pass.clean).is_err();
            if !cramped {
                pass = flow.judge(&mut self.incoming, body.octets_mut(), pass.clean, pass.filled);
            }
        }
        body.truncate(pass.filled);
        self.clean = pass.clean;
        let clean = body.octets().get(..pass.clean).unwrap_or_default();
        self.scan.feed(clean.get(before..).unwrap_or_default());
        if let Some(identity) = &mut self.identity {
            identity.hash_on(clean);
        }
        if cramped {
            // Normalising may double what has come; there is no memory for it.
            self.over_budget();
            return self.step_dropped(flow);
        }
        pass.end
    }

    fn step_dropped(&mut self, flow: &Flow) -> bool {
        let Octets::Dropped(buffer) = &mut self.octets else { return false };
        let filled = buffer.len();
        let mut pass = flow.judge(&mut self.incoming, buffer, 0, filled);
        if pass.cramped {
            buffer.resize(pass.room(), 0);
            pass = flow.judge(&mut self.incoming, buffer, pass.clean, pass.filled);
        }
        buffer.truncate(pass.filled);
        let clean = buffer.get(..pass.clean).unwrap_or_default();
        self.scan.feed(clean);
        if let Some(hasher) = self.identity.as_mut().and_then(|identity| identity.hasher.as_mut()) {
            hasher.update(clean);
        }
        buffer.drain(..pass.clean);
        if !pass.end {
            // What waits are a few octets.
            let waiting = buffer.to_vec();
            buffer::give(std::mem::replace(buffer, waiting));
        }
        pass.end
    }

    /// What came behind the end of data, taken off. Nothing is read behind a chunk.
    pub(super) fn rest(&mut self, flow: &Flow) -> (Vec<u8>, Option<Lease>) {
        if let Flow::Chunk { .. } = flow {
            return (Vec::new(), None);
        }
        match &mut self.octets {
            Octets::Keeping(body) => body.split_off(self.clean),
            Octets::Dropped(buffer) | Octets::Swallowing(buffer) => (std::mem::take(buffer), None),
        }
    }

    /// No memory for more: the rest is swallowed, the sender is told "later" at the true end.
    fn over_budget(&mut self) {
        self.out_of_memory = true;
        self.drop_body();
    }

    fn drop_if_refused(&mut self) {
        if matches!(self.octets, Octets::Keeping(_)) && self.verdict().is_some() {
            self.drop_body();
        }
    }

    /// Gives the body back, and keeps what the record needs.
    fn drop_body(&mut self) {
        let Octets::Keeping(body) = &self.octets else { return };
        let (clean, waiting) = body.octets().split_at_checked(self.clean).unwrap_or((body.octets(), &[]));
        self.scan.take_apart(clean);
        if let Some(identity) = &mut self.identity {
            identity.hash(clean);
        }
        self.octets = Octets::Dropped(waiting.to_vec());
        self.clean = 0;
    }

    /// Which refusal is met first depends on how the octets were cut, so the order is this: what is for good and plain first, then "later",
    /// then what only a second look shows.
    fn verdict(&self) -> Option<Reply> {
        match self.incoming.refusal() {
            Some(Refusal::Size) => Some(reply::MESSAGE_TOO_LARGE),
            _ if self.out_of_memory => Some(reply::OUT_OF_MEMORY),
            Some(Refusal::BareNewline) => Some(reply::BARE_NEWLINE),
            None if u64::try_from(self.scan.head().body).unwrap_or(u64::MAX) > self.max_header_size => Some(reply::HEADER_TOO_LARGE),
            None if self.scan.received() > self.max_received => Some(reply::MAIL_LOOP),
            None => None,
        }
    }

    /// A chunk has come: the message may fail with it, though it is not the last (RFC 3030 section 2). Other refusals wait for the end, so
    /// that the message is known by all of its octets.
    pub(super) fn fails(&mut self, stats: &Stats) -> Option<&Reply> {
        let words = match self.incoming.refusal()? {
            Refusal::Size => reply::MESSAGE_TOO_LARGE,
            Refusal::BareNewline => reply::BARE_NEWLINE,
        };
        count_refusal(&words, stats);
        Some(self.told.insert(words))
    }

    /// It has failed with a chunk, and its sender knows.
    pub(super) fn has_failed(&self) -> bool {
        self.told.is_some()
    }

    pub(super) fn receive_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// All of it has come. `None`: it was no message, so there is nothing to record.
    pub(super) fn finish(mut self, stats: &Stats) -> Option<Finished> {
        self.scan.end();
        let mut identity = self.identity.take()?;
        let verdict = self.verdict();
        if let (None, Some(words)) = (&self.told, &verdict) {
            count_refusal(words, stats);
        }
        let octets = match &self.octets {
            Octets::Keeping(body) => body.octets(),
            Octets::Dropped(_) | Octets::Swallowing(_) => &[],
        };
        let webhook_id = identity.webhook_id(octets);
        let message_id = self.scan.message_id(octets).map(header::message_id_text);
        let subject = self.scan.subject(octets).map(header::subject_text);
        let refusal = self.told.or(verdict);
        let body = match self.octets {
            Octets::Keeping(body) if refusal.is_none() => Some(body),
            Octets::Keeping(_) | Octets::Dropped(_) | Octets::Swallowing(_) => None,
        };
        Some(Finished {
            envelope: identity.envelope,
            destination: identity.destination,
            body,
            header_len: self.scan.head().body,
            message_id,
            subject,
            webhook_id,
            size_octets: self.incoming.size(),
            refusal,
        })
    }
}

fn count_refusal(words: &Reply, stats: &Stats) {
    let messages = &stats.messages;
    if *words == reply::OUT_OF_MEMORY {
        messages.refused_memory.add(1);
    } else if *words == reply::BARE_NEWLINE {
        messages.refused_bare_newline.add(1);
    } else if *words == reply::MAIL_LOOP {
        messages.refused_loop.add(1);
    } else {
        messages.refused_size.add(1);
    }
}

/// Reads behind the octets that wait into one of the thread's buffers.
async fn read_buffer(stream: &mut Stream, waiting: Vec<u8>, most: usize, deadline: Instant) -> (Result<(), Ended>, Vec<u8>) {
    let mut into = buffer::take();
    into.extend_from_slice(&waiting);
    let (result, Limited { into, .. }) = stream.read(Limited { into, most }, deadline).await;
    (result, into)
}

impl Flow {
    fn left(&self) -> usize {
        match self {
            Self::Data => usize::MAX,
            Self::Chunk { left, .. } => usize::try_from(*left).unwrap_or(usize::MAX),
        }
    }

    fn came(&mut self, octets: usize) {
        if let Self::Chunk { left, .. } = self {
            *left = left.saturating_sub(u64::try_from(octets).unwrap_or(u64::MAX));
        }
    }

    fn judge(&self, incoming: &mut Incoming, buf: &mut [u8], clean: usize, filled: usize) -> Pass {
        match *self {
            Self::Data => incoming.data(buf, clean, filled),
            Self::Chunk { left, last } => incoming.chunk(buf, clean, filled, last && left == 0),
        }
    }
}

impl Identity {
    /// More of a message that is kept: as much of it as is cheap to hash now.
    fn hash_on(&mut self, clean: &[u8]) {
        let waiting = clean.get(self.hashed..).unwrap_or_default();
        if waiting.len() >= WebhookIdHasher::STEP {
            self.hashed += self.hasher().update_steps(waiting);
        }
    }

    /// The message so far.
    fn hash(&mut self, clean: &[u8]) {
        let waiting = clean.get(self.hashed..).unwrap_or_default();
        self.hasher().update(waiting);
        self.hashed = clean.len();
    }

    fn hasher(&mut self) -> &mut WebhookIdHasher {
        let Envelope { reverse_path, recipients, .. } = &self.envelope;
        self.hasher.get_or_insert_with(|| Box::new(WebhookIdHasher::new(&self.key, reverse_path, recipients)))
    }

    /// Of the whole message: all that is kept of it is in `octets`.
    fn webhook_id(&mut self, octets: &[u8]) -> String {
        let Envelope { reverse_path, recipients, .. } = &self.envelope;
        match &mut self.hasher {
            Some(hasher) => {
                hasher.update(octets.get(self.hashed..).unwrap_or_default());
                hasher.finish()
            }
            None => WebhookIdHasher::of(&self.key, reverse_path, recipients, octets),
        }
    }
}

#[cfg(test)]
mod tests;
