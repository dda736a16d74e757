//! One message while it arrives: octets into the body, un-stuffed in place, hashed, counted, paced.

use super::stream::{Ended, Stream};
use crate::config::Smtp;
use crate::delivery::WebhookIdHasher;
use crate::envelope::Envelope;
use crate::message::{Body, Lease, OverBudget, header};
use crate::smtp::{Progress, Refusal, Reply, Session, reply};
use crate::stats::Stats;
use std::time::{Duration, Instant};

/// Room that is made in the body before a read, at most.
const READ_ROOM: usize = 64 * 1024;
/// Room for the first read: most messages are small.
const FIRST_ROOM: usize = 8 * 1024;
/// A message up to here is hashed when all of it has come: in one go that takes half of the time.
const HASHED_AT_END: usize = 16 * 1024;
/// What is read at once of a message that is only swallowed.
const SWALLOW_OCTETS: usize = 16 * 1024;
/// `min_data_rate` is averaged over this.
const PACE_WINDOW: Duration = Duration::from_secs(60);

pub(super) struct Incoming {
    began: Instant,
    pace: Pace,
    kept: Option<Kept>,
    /// What is known of a message that was kept until it was refused.
    dropped: Option<Dropped>,
}

/// A message that is being kept.
struct Kept {
    envelope: Envelope,
    body: Body,
    /// `body[..clean]` are message octets; a few behind them may wait for their successors.
    clean: usize,
    /// Of a message that is longer than [`HASHED_AT_END`]. Boxed: its 2 KiB of state would else be moved with every read.
    hasher: Option<Box<WebhookIdHasher>>,
    id_key: [u8; 32],
    /// `body[..hashed]` is in the hash: all that is clean, but under `normalize`, where the last clean octet may still change.
    hashed: usize,
    /// `max_message_size`: beyond it the session drops what is in the body.
    size_max: usize,
    /// Taken just before that.
    fields: Option<Fields>,
}

/// A message whose body has been given back.
struct Dropped {
    envelope: Envelope,
    fields: Fields,
}

/// The logged fields of a message that is refused while it comes.
struct Fields {
    message_id: Option<String>,
    subject: Option<String>,
    webhook_id: String,
}

pub(super) enum Pumped {
    ChunkDone { rest: Vec<u8> },
    End { refused: Option<Reply>, rest: Vec<u8> },
}

/// A message whose end of data has come, scanned. `body` is there unless it was refused while it came.
pub(super) struct Finished {
    pub(super) envelope: Envelope,
    pub(super) body: Option<Body>,
    pub(super) header_len: usize,
    pub(super) message_id: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) webhook_id: String,
    pub(super) refusal: Option<Reply>,
}

impl Incoming {
    /// Opens a message; one that declared its SIZE reserves it now (RFC 1870).
    pub(super) fn open(envelope: Envelope, lease: Lease, id_key: &[u8; 32], limits: &Smtp) -> Result<Self, OverBudget> {
        let mut body = Body::new(lease);
        let declared = envelope.declared_size.unwrap_or(0).min(limits.max_message_size);
        body.reserve(usize::try_from(declared).unwrap_or(usize::MAX).saturating_add(FIRST_ROOM))?;
        Ok(Self {
            began: Instant::now(),
            pace: Pace::new(limits),
            kept: Some(Kept {
                envelope,
                body,
                clean: 0,
                hasher: None,
                id_key: *id_key,
                hashed: 0,
                size_max: usize::try_from(limits.max_message_size).unwrap_or(usize::MAX),
                fields: None,
            }),
            dropped: None,
        })
    }

    /// Data that nobody wants: a chunk out of order or refused.
    pub(super) fn swallow(limits: &Smtp) -> Self {
        Self { began: Instant::now(), pace: Pace::new(limits), kept: None, dropped: None }
    }

    pub(super) fn receive_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Moves data from the stream into the body until the chunk or the message ends. `unused` came with the commands.
    pub(super) async fn pump(
        &mut self,
        stream: &mut Stream,
        session: &mut Session,
        out: &mut Vec<u8>,
        unused: Vec<u8>,
        normalize: bool,
        stats: &Stats,
    ) -> Result<Pumped, Ended> {
        if let Some(kept) = &mut self.kept
            && kept.body.extend(&unused).is_err()
        {
            self.over_budget(session, stats);
        }
        let mut swallowed = if self.kept.is_some() { Vec::new() } else { unused };
        loop {
            let (progress, rest) = match &mut self.kept {
                Some(kept) => kept.step(session, out, normalize, stats),
                None => swallow_step(&mut swallowed, session, out, normalize, stats),
            };
            match progress {
                Progress::ChunkDone => return Ok(Pumped::ChunkDone { rest }),
                Progress::End { refused } => {
                    count_refusal(session.refusal(), stats);
                    return Ok(Pumped::End { refused, rest });
                }
                Progress::More => {}
            }
            if session.refusal().is_some() && self.kept.is_some() {
                swallowed = self.drop_body();
                // What waited may be all that comes: it is looked at before more is read.
                continue;
            }
            if !out.is_empty() {
                stream.write(out, self.pace.deadline()).await?;
            }
            match self.read(stream, &mut swallowed).await {
                Ok(()) => {}
                Err(Ended::OverBudget) => swallowed = self.over_budget(session, stats),
                Err(Ended::TimedOut) if self.pace.still_good() => {}
                Err(ended) => return Err(ended),
            }
        }
    }

    async fn read(&mut self, stream: &mut Stream, swallowed: &mut Vec<u8>) -> Result<(), Ended> {
        let deadline = self.pace.deadline();
        let before;
        let (result, after) = match self.kept.take() {
            Some(mut kept) => {
                before = kept.body.len();
                // As much again as has come, within bounds: a message without SIZE is not charged for a large one.
                let room = before.clamp(FIRST_ROOM, READ_ROOM);
                let reserved = if kept.body.spare() >= FIRST_ROOM { Ok(()) } else { kept.body.reserve(room) };
                let (result, body) = match reserved {
                    Ok(()) => stream.read_body(kept.body, deadline).await,
                    Err(OverBudget) => (Err(Ended::OverBudget), kept.body),
                };
                let after = body.len();
                self.kept = Some(Kept { body, ..kept });
                (result, after)
            }
            None => {
                before = swallowed.len();
                swallowed.reserve(SWALLOW_OCTETS);
                let result = stream.read(swallowed, deadline).await;
                (result, swallowed.len())
            }
        };
        self.pace.came(after.saturating_sub(before));
        result
    }

    /// No memory for more: the rest is swallowed, the sender is told "later" at the true end.
    fn over_budget(&mut self, session: &mut Session, stats: &Stats) -> Vec<u8> {
        stats.messages.refused_memory.add(1);
        session.refuse_data(reply::OUT_OF_MEMORY);
        self.drop_body()
    }

    /// Gives the body back and keeps what the record needs; returns the octets that were not clean yet.
    fn drop_body(&mut self) -> Vec<u8> {
        let Some(mut kept) = self.kept.take() else { return Vec::new() };
        let fields = kept.fields.take().unwrap_or_else(|| kept.fields());
        let waiting = kept.body.octets().get(kept.clean..).unwrap_or_default().to_vec();
        self.dropped = Some(Dropped { envelope: kept.envelope, fields });
        waiting
    }

    /// Scans the message; the first refusal wins: the session's, then the header block's size, then a loop.
    /// `None`: the message was never taken, so there is nothing to record.
    pub(super) fn finish(mut self, refused: Option<Reply>, limits: &Smtp, stats: &Stats) -> Option<Finished> {
        if let Some(dropped) = self.dropped.take() {
            let Dropped { envelope, fields: Fields { message_id, subject, webhook_id } } = dropped;
            let refusal = Some(refused.unwrap_or(reply::OUT_OF_MEMORY));
            return Some(Finished { envelope, body: None, header_len: 0, message_id, subject, webhook_id, refusal });
        }
        let mut kept = self.kept.take()?;
        if let (Some(refusal), Some(Fields { message_id, subject, webhook_id })) = (&refused, kept.fields.take()) {
            let refusal = Some(refusal.clone());
            return Some(Finished { envelope: kept.envelope, body: None, header_len: 0, message_id, subject, webhook_id, refusal });
        }
        let webhook_id = kept.webhook_id();
        let block = header::scan(kept.body.octets());
        let mut refusal = refused;
        if refusal.is_none() {
            if u64::try_from(block.len).unwrap_or(u64::MAX) > limits.max_header_size {
                stats.messages.refused_size.add(1);
                refusal = Some(reply::HEADER_TOO_LARGE);
            } else if block.received > limits.max_received {
                stats.messages.refused_loop.add(1);
                refusal = Some(reply::MAIL_LOOP);
            }
        }
        Some(Finished {
            header_len: block.len,
            message_id: block.message_id.map(header::message_id_text),
            subject: block.subject.map(header::subject_text),
            webhook_id,
            envelope: kept.envelope,
            body: Some(kept.body),
            refusal,
        })
    }
}

impl Kept {
    /// The fields as far as the header block has come. The octets that come of a refused message differ from attempt to attempt:
    /// the header block stands for it in the Webhook-Id.
    fn fields(&self) -> Fields {
        let octets = self.body.octets();
        let block = header::scan(octets);
        Fields {
            message_id: block.message_id.map(header::message_id_text),
            subject: block.subject.map(header::subject_text),
            webhook_id: self.hasher(octets.get(..block.len).unwrap_or_default()).finish(),
        }
    }

    fn hasher(&self, start: &[u8]) -> WebhookIdHasher {
        WebhookIdHasher::new(&self.id_key, &self.envelope.reverse_path, &self.envelope.recipients, start)
    }

    fn hash(&mut self, all_but_one: bool) {
        let end = self.clean.saturating_sub(usize::from(all_but_one));
        if end <= HASHED_AT_END {
            return;
        }
        let Some(octets) = self.body.octets().get(self.hashed..end) else { return };
        match &mut self.hasher {
            Some(hasher) => hasher.update(octets),
            None => self.hasher = Some(Box::new(self.hasher(octets))),
        }
        self.hashed = end;
    }

    /// Of the whole message.
    fn webhook_id(&mut self) -> String {
        self.hash(false);
        match &self.hasher {
            Some(hasher) => hasher.finish(),
            None => {
                let Envelope { reverse_path, recipients, .. } = &self.envelope;
                WebhookIdHasher::of(&self.id_key, reverse_path, recipients, self.body.octets().get(..self.clean).unwrap_or_default())
            }
        }
    }

    /// Lets the session un-stuff what has come; returns the octets behind the data, if they ended.
    fn step(&mut self, session: &mut Session, out: &mut Vec<u8>, normalize: bool, stats: &Stats) -> (Progress, Vec<u8>) {
        let (clean, filled) = (self.clean, self.body.len());
        if normalize && self.body.extend(&vec![0; filled - clean]).is_err() {
            // Normalising may double what has come; without the room for it the message is refused.
            stats.messages.refused_memory.add(1);
            session.refuse_data(reply::OUT_OF_MEMORY);
            return (Progress::More, Vec::new());
        }
        if filled > self.size_max && self.fields.is_none() {
            self.fields = Some(self.fields());
        }
        let advance = session.data(self.body.octets_mut(), clean, filled, out);
        stats.bytes_received.add(u64::try_from(advance.clean.saturating_sub(clean)).unwrap_or(0));
        self.clean = advance.clean;
        self.hash(normalize && advance.progress == Progress::More);
        let octets = self.body.octets();
        if advance.progress == Progress::More {
            self.body.truncate(advance.filled);
            return (Progress::More, Vec::new());
        }
        let rest = octets.get(advance.clean..advance.filled).unwrap_or_default().to_vec();
        self.body.truncate(advance.clean);
        (advance.progress, rest)
    }
}

fn count_refusal(refusal: Option<Refusal>, stats: &Stats) {
    match refusal {
        Some(Refusal::Size) => stats.messages.refused_size.add(1),
        Some(Refusal::BareNewline) => stats.messages.refused_bare_newline.add(1),
        Some(Refusal::Other) | None => {}
    }
}

fn swallow_step(swallowed: &mut Vec<u8>, session: &mut Session, out: &mut Vec<u8>, normalize: bool, stats: &Stats) -> (Progress, Vec<u8>) {
    let filled = swallowed.len();
    if normalize {
        swallowed.resize(filled * 2, 0);
    }
    let advance = session.data(swallowed, 0, filled, out);
    stats.bytes_received.add(u64::try_from(filled.saturating_sub(advance.filled)).unwrap_or(0));
    swallowed.truncate(advance.filled);
    let rest = swallowed.split_off(advance.clean.min(swallowed.len()));
    if advance.progress == Progress::More {
        *swallowed = rest;
        return (Progress::More, Vec::new());
    }
    swallowed.clear();
    (advance.progress, rest)
}

/// The three clocks of arriving data: a block's, the whole message's, and the least rate (RFC 5321 section 4.5.3.2).
struct Pace {
    data_timeout: Duration,
    message_deadline: Instant,
    window_end: Instant,
    window_octets: u64,
    window_octets_min: u64,
    block_deadline: Instant,
}

impl Pace {
    fn new(limits: &Smtp) -> Self {
        let now = Instant::now();
        Self {
            data_timeout: limits.data_timeout,
            message_deadline: now + limits.message_timeout,
            window_end: now + PACE_WINDOW,
            window_octets: 0,
            window_octets_min: limits.min_data_rate.saturating_mul(PACE_WINDOW.as_secs()),
            block_deadline: now + limits.data_timeout,
        }
    }

    fn deadline(&self) -> Instant {
        self.block_deadline.min(self.message_deadline).min(self.window_end)
    }

    fn came(&mut self, octets: usize) {
        if octets > 0 {
            self.window_octets = self.window_octets.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
            self.block_deadline = Instant::now() + self.data_timeout;
        }
    }

    /// A deadline has passed: true if it was only the end of a window in which enough came.
    fn still_good(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.message_deadline || now >= self.block_deadline || self.window_octets < self.window_octets_min {
            return false;
        }
        self.window_end = now + PACE_WINDOW;
        self.window_octets = 0;
        true
    }
}
