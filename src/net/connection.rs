//! The driver of one connection: carries octets between the stream and the session, meets the session's needs,
//! and keeps the deadlines. An idle connection holds no buffer.
//!
//! Logs one debug line a connection; fails by closing.

use super::Shared;
use super::acceptor::{Present, RingState};
use super::buffer;
use super::data::{Finished, Incoming, Pumped};
use super::limits::Admission;
use super::stream::{Ended, Stream};
use super::tls::Tls;
use crate::delivery::{Content, Destination, Received};
use crate::envelope::Peer;
use crate::ring::Conn;
use crate::smtp::{Need, Reply, Session, reply};
use crate::stats::Stage;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A peer that does not take our replies is given this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The TLS handshake, start to end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a connection that waited has something to do.
enum Woken {
    /// Nothing came: at its start, or the daemon is draining.
    Unasked,
    /// The peer says something.
    Heard,
    /// The command's time is over.
    Late,
}

pub(super) struct Connection {
    ring: Rc<RingState>,
    stream: Stream,
    session: Session,
    admission: Admission,
    /// Octets read and not yet used: `input[used..]`.
    input: Vec<u8>,
    used: usize,
    out: Vec<u8>,
    /// Set by the first accepted recipient of a transaction.
    destination: Option<Box<Destination>>,
    /// A message whose data have begun.
    incoming: Option<Box<Incoming>>,
    /// The reply to an end of data has been written, and nothing has come from the peer since.
    unheard: bool,
    began: Instant,
    /// When the present command was first waited for.
    command_began: Instant,
    /// Last: the ring waits for the connections that are there.
    present: Present,
}

impl Connection {
    /// On the heap once and for all: as an argument of a future it would lie there twice. `input` holds what came behind a PROXY header.
    pub(super) fn new(ring: &Rc<RingState>, conn: Conn, peer: Peer, admission: Admission, input: Vec<u8>) -> Box<Self> {
        let settings = Arc::clone(&ring.shared.live.load().settings);
        let now = Instant::now();
        Box::new(Self {
            present: Present::enter(ring, &conn),
            stream: Stream::new(conn),
            session: Session::new(settings, peer),
            admission,
            input,
            used: 0,
            out: Vec::new(),
            destination: None,
            incoming: None,
            unheard: false,
            began: now,
            command_began: now,
            ring: Rc::clone(ring),
        })
    }

    /// Serves it to its end.
    pub(super) async fn serve(mut self: Box<Self>) {
        let ended = self.run().await;
        if self.unheard && ended == Err(Ended::Reset) {
            self.shared().stats.messages.replies_lost.add(1);
        }
        tracing::debug!(?ended, "connection over");
        Box::pin(self.end()).await;
    }

    async fn end(self: Box<Self>) {
        let Self { stream, admission, ring, began, present, .. } = *self;
        stream.close(Instant::now() + WRITE_TIMEOUT).await;
        drop(admission);
        ring.recorder.record(Stage::Session, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        drop(present);
    }

    /// An idle connection waits in here alone: what a turn needs is on the heap and goes with it.
    async fn run(&mut self) -> Result<(), Ended> {
        self.session.greet(&mut self.out);
        let mut woken = Woken::Unasked;
        while Box::pin(self.turn(woken)).await? {
            let deadline = self.command_deadline();
            let waited = if self.stream.has_plain() { Ok(()) } else { self.stream.idle(deadline).await.map_err(Ended::from) };
            woken = match waited {
                Ok(()) => Woken::Heard,
                Err(Ended::Interrupted) => Woken::Unasked,
                Err(Ended::TimedOut) => Woken::Late,
                Err(ended) => return Err(ended),
            };
        }
        Ok(())
    }

    fn command_deadline(&self) -> Instant {
        self.command_began + self.shared().live.load().config.smtp.command_timeout
    }

    /// Does what there is to do, until the peer has to say something. False: the connection is over, and the peer has been told.
    async fn turn(&mut self, woken: Woken) -> Result<bool, Ended> {
        match woken {
            Woken::Unasked => {}
            Woken::Heard => {
                // Under TLS what came may not be a whole record yet.
                let deadline = self.command_deadline();
                match self.stream.read(&mut self.input, deadline).await {
                    Ok(()) => self.unheard = false,
                    Err(Ended::TimedOut) => return self.last_words(reply::TIMEOUT).await,
                    Err(ended) => return Err(ended),
                }
            }
            Woken::Late => return self.last_words(reply::TIMEOUT).await,
        }
        loop {
            self.lay_out();
            let unused = self.input.get(self.used..).unwrap_or_default();
            let (used, need) = self.session.feed(unused, &mut self.out);
            self.used += used;
            match need {
                Need::Input => return self.rest().await,
                Need::Recipient(mailbox) => Box::pin(self.recipient(&mailbox)).await,
                Need::Data => {
                    let verdict = self.begin();
                    let accepted = verdict.is_ok();
                    self.session.begin(verdict, &mut self.out);
                    if accepted {
                        self.message().await?;
                    }
                }
                Need::Chunk { first, .. } => {
                    if first {
                        let verdict = self.begin();
                        self.session.begin(verdict, &mut self.out);
                    }
                    self.message().await?;
                }
                Need::Tls => Box::pin(self.start_tls()).await?,
                Need::Close => {
                    self.flush_last().await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Tells the peer what there is to tell and leaves nothing behind but what has to be kept. False: the daemon is draining.
    async fn rest(&mut self) -> Result<bool, Ended> {
        if !self.out.is_empty() {
            // A reply ends a command; the next one has the whole time, however its octets drip.
            self.command_began = Instant::now();
        }
        self.flush().await?;
        if !self.session.message_open() {
            // RSET or a new greeting between two chunks: what had come is given back now, not later.
            self.incoming = None;
        }
        if self.ring.draining() {
            return self.last_words(reply::SHUTTING_DOWN).await;
        }
        self.tidy_buffers();
        Ok(true)
    }

    /// Unused octets move to the front; an idle connection keeps no buffer at all.
    fn tidy_buffers(&mut self) {
        if self.used >= self.input.len() {
            buffer::give(std::mem::take(&mut self.input));
        } else {
            self.input.drain(..self.used);
        }
        self.used = 0;
        buffer::give(std::mem::take(&mut self.out));
    }

    async fn last_words(&mut self, words: Reply) -> Result<bool, Ended> {
        self.session.cut_off(&words, &mut self.out);
        self.flush_last().await?;
        Ok(false)
    }

    /// Whatever is told to the peer passes here first: refusals are counted and logged.
    fn tell_refused(&mut self) {
        for refused in self.session.take_refused() {
            self.shared().delivery.refused(refused);
        }
    }

    async fn flush_last(&mut self) -> Result<(), Ended> {
        self.tell_refused();
        self.stream.write_last(&mut self.out, Instant::now() + WRITE_TIMEOUT).await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        self.tell_refused();
        self.stream.write(&mut self.out, Instant::now() + WRITE_TIMEOUT).await
    }

    async fn recipient(&mut self, mailbox: &str) {
        let first = !self.session.has_recipients();
        if first {
            self.destination = None;
        }
        let delivery = Arc::clone(&self.shared().delivery);
        let mut destination = self.destination.take().map(|destination| *destination);
        let verdict = delivery.recipient(mailbox, first, || self.session.envelope(), &mut destination).await;
        self.destination = destination.map(Box::new);
        self.session.recipient(verdict, &mut self.out);
    }

    /// May the message come? Opens its body, and reserves what the client declared.
    fn begin(&mut self) -> Result<(), Reply> {
        self.incoming = None;
        self.shared().delivery.ready()?;
        let envelope = self.session.envelope();
        let lease = self.shared().budget.lease(self.admission.share());
        match Incoming::open(envelope, lease, &self.shared().id_key, &self.shared().live.load().config.smtp) {
            Ok(incoming) => {
                self.incoming = Some(Box::new(incoming));
                Ok(())
            }
            Err(_) => {
                self.shared().stats.messages.refused_memory.add(1);
                Err(reply::OUT_OF_MEMORY)
            }
        }
    }

    /// Takes data until the chunk or the message ends; at its end, delivers it.
    async fn message(&mut self) -> Result<(), Ended> {
        match Box::pin(self.take_data()).await? {
            Some((incoming, refused)) => Box::pin(self.finish(incoming, refused)).await,
            None => Ok(()),
        }
    }

    /// `Some`: the message has come to its end.
    async fn take_data(&mut self) -> Result<Option<(Box<Incoming>, Option<Reply>)>, Ended> {
        let unused = self.input.split_off(self.used.min(self.input.len()));
        self.used = self.input.len();
        if self.out.is_empty() {
            // Data may come slowly, and the endpoint may take its time.
            buffer::give(std::mem::take(&mut self.out));
        }
        let swallow = || Box::new(Incoming::swallow(&self.ring.shared.live.load().config.smtp));
        let mut incoming = self.incoming.take().unwrap_or_else(swallow);
        let normalize = self.session.normalizes_newlines();
        let stats = Arc::clone(&self.shared().stats);
        let pumped = incoming.pump(&mut self.stream, &mut self.session, &mut self.out, unused, normalize, &stats).await;
        match pumped {
            Ok(Pumped::ChunkDone { rest }) => {
                self.take_back(rest);
                self.incoming = self.session.message_open().then_some(incoming);
                Ok(None)
            }
            Ok(Pumped::End { refused, rest }) => {
                self.take_back(rest);
                Ok(Some((incoming, refused)))
            }
            Err(Ended::TimedOut) => {
                self.last_words(reply::TIMEOUT).await?;
                Err(Ended::TimedOut)
            }
            Err(ended) => Err(ended),
        }
    }

    /// Room for replies: a buffer that nobody else needs at the moment.
    fn lay_out(&mut self) {
        if self.out.capacity() == 0 {
            self.out = buffer::take();
        }
    }

    /// Octets behind the data are commands again.
    fn take_back(&mut self, rest: Vec<u8>) {
        buffer::give(std::mem::replace(&mut self.input, rest));
        self.used = 0;
    }

    /// The end of data has come: the message is scanned, delivered or refused, and the sender is told.
    async fn finish(&mut self, incoming: Box<Incoming>, refused: Option<Reply>) -> Result<(), Ended> {
        let recorder = &self.ring.recorder;
        recorder.record(Stage::Receive, incoming.receive_us());
        let otherwise = refused.clone().unwrap_or(reply::NO_VALID_RECIPIENTS);
        let finished = incoming.finish(refused, &self.shared().live.load().config.smtp, &self.shared().stats);
        let (Some(finished), Some(destination)) = (finished, self.destination.take()) else {
            // Nothing was taken: the session's refusal is all there is to say.
            self.shared().delivery.refused(self.session.refused_message(&otherwise));
            self.session.end(&otherwise, &mut self.out);
            return Ok(());
        };
        let Finished { envelope, body, header_len, message_id, subject, webhook_id, refusal } = finished;
        let received = Received {
            envelope: Arc::new(envelope),
            route: destination.route,
            message_id,
            subject,
            webhook_id,
            size_octets: self.session.message_size(),
            ended: Instant::now(),
            date: jiff::Timestamp::now(),
        };
        let delivery = Arc::clone(&self.shared().delivery);
        let words = match (refusal, body) {
            (None, Some(body)) => {
                let content = Content { body, header_len, spf: destination.spf };
                delivery.deliver(received, content, &self.ring.recorder).await
            }
            (Some(refusal), _) => delivery.refuse(received, refusal, &self.ring.recorder).await,
            (None, None) => {
                delivery.refused(self.session.refused_message(&reply::OUT_OF_MEMORY));
                reply::OUT_OF_MEMORY
            }
        };
        self.lay_out();
        self.session.end(&words, &mut self.out);
        let written = self.flush().await;
        if written.is_err() {
            self.shared().stats.messages.replies_lost.add(1);
        }
        self.unheard = written.is_ok();
        self.command_began = Instant::now();
        written
    }

    /// STARTTLS (RFC 3207): what the client sent behind it in the clear is dropped, here and in the session.
    async fn start_tls(&mut self) -> Result<(), Ended> {
        self.flush().await?;
        self.input = Vec::new();
        self.used = 0;
        self.incoming = None;
        self.destination = None;
        let Some(config) = self.shared().tls.config() else { return Err(Ended::Gone) };
        let began = Instant::now();
        let Ok(tls) = Tls::new(config) else { return Err(Ended::Gone) };
        let description = match self.stream.start_tls(tls, began + HANDSHAKE_TIMEOUT).await {
            Ok(description) => description,
            Err((ended, failure)) => {
                self.shared().delivery.handshake_failed(self.session.peer().ip, failure);
                return Err(ended);
            }
        };
        self.ring.recorder.record(Stage::TlsHandshake, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.session.tls_started(description);
        // The next command has the whole time, whatever the handshake took.
        self.command_began = Instant::now();
        Ok(())
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.ring.shared
    }
}
