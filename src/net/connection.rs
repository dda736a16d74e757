//! The driver of one connection: carries octets between the stream and the session, meets the session's needs, and keeps the deadlines.
//!
//! Whatever a peer has sent, a turn does a bounded piece of work: no more is read than can be used now, replies are written before
//! anything is waited for, and after some commands the ring goes round. An idle connection holds no buffer.
//!
//! Logs one debug line a connection; fails by closing.

use super::Shared;
use super::buffer;
use super::clocks::Clocks;
use super::input::Input;
use super::limits::Admission;
use super::message::{Flow, Message};
use super::present::{Present, RingState};
use super::stream::{Ended, Limited, Stream};
use super::tls::Tls;
use crate::config::{BareNewline, Route, Smtp};
use crate::delivery::Destination;
use crate::envelope::Peer;
use crate::message::{Lease, OverBudget};
use crate::ring::{self, Conn};
use crate::smtp::{Need, Reply, Session, TURN_OCTETS, reply};
use crate::stats::Stage;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A peer that does not take our replies is given this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The TLS handshake, start to end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of recipients beyond which they are counted in the budget: twice, as they are written and as they are compared.
const RECIPIENTS_FREE: usize = 4 * 1024;
/// What is unused of commands, at the most: with the replies of a turn it makes what a connection holds whose peer does not read.
const COMMANDS: usize = 8 * 1024;
/// So many needs of the session end a turn.
const TURN_NEEDS: usize = 64;

/// Recipients that were refused may have good ones behind them in what is on its way: octets that come within this, while none of the
/// replies has been written, were sent by somebody who does not wait for them.
const PIPELINED: Duration = Duration::from_secs(1);

/// Why a connection that waited has something to do.
enum Woken {
    /// Nothing came: at its start, or the daemon is draining.
    Unasked,
    /// The peer says something.
    Heard,
    /// A time is over.
    Late,
}

pub(super) struct Connection {
    stream: Stream,
    session: Session,
    admission: Admission,
    input: Input,
    out: Vec<u8>,
    /// Set by the first accepted recipient of a transaction.
    destination: Option<Box<Destination>>,
    /// For more recipients than a connection has room for.
    envelope: Option<Box<Lease>>,
    /// A message whose data have begun, between two chunks.
    message: Option<Box<Message>>,
    /// The reply to an end of data has been written, and nothing has come from the peer since.
    unheard: bool,
    /// When its last message was answered, the peer was there and had said more: it does not wait for all that it is told.
    is_ahead: bool,
    /// So far the stream was written with the last such reply: what comes behind it may have been pipelined.
    replied: Option<NonZeroU32>,
    clocks: Clocks,
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
            input: Input::new(input),
            out: Vec::new(),
            destination: None,
            envelope: None,
            message: None,
            unheard: false,
            is_ahead: false,
            replied: None,
            clocks: Clocks::new(now),
        })
    }

    /// Serves it to its end.
    pub(super) async fn serve(mut self: Box<Self>) {
        let ended = self.run().await;
        tracing::debug!(?ended, "connection over");
        Box::pin(self.end()).await;
    }

    async fn end(mut self: Box<Self>) {
        self.settle(true).await;
        let Self { stream, admission, clocks, unheard, is_ahead, replied, present, .. } = *self;
        let parting = stream.close(Instant::now() + WRITE_TIMEOUT).await;
        if replied.is_some_and(|written| parting.lost(written.get(), !unheard, is_ahead)) {
            present.ring().shared.stats.messages.replies_lost.add(1);
        }
        drop(admission);
        present.ring().desk.recorder.record(Stage::Session, u64::try_from(clocks.began().elapsed().as_micros()).unwrap_or(u64::MAX));
        drop(present);
    }

    /// An idle connection waits in here alone: what a turn needs is on the heap and goes with it.
    async fn run(&mut self) -> Result<(), Ended> {
        self.session.greet(&mut self.out);
        let mut woken = Woken::Unasked;
        while Box::pin(self.turn(woken)).await? {
            let deadline = self.deadline();
            let waited = if self.stream.has_news() { Ok(()) } else { self.stream.idle(deadline).await.map_err(Ended::from) };
            woken = match waited {
                Ok(()) => Woken::Heard,
                Err(Ended::Interrupted) => Woken::Unasked,
                Err(Ended::TimedOut) => Woken::Late,
                Err(ended) => return Err(ended),
            };
        }
        Ok(())
    }

    /// Until when the next command may come.
    fn deadline(&self) -> Instant {
        self.clocks.deadline(&self.shared().live.load().config.smtp, self.message.as_deref())
    }

    /// A deadline has passed: of a message's remaining chunks, of a window in which enough of it came, or of our patience with the peer.
    async fn late(&mut self) -> Result<bool, Ended> {
        let now = Instant::now();
        if self.clocks.no_more_chunks(self.message.as_deref(), now) {
            Box::pin(self.settle(true)).await;
            return self.rest().await;
        }
        let good = self.message.as_mut().is_some_and(|message| message.pace.goes_on(now));
        if good && now < self.deadline() { self.rest().await } else { self.last_words(reply::TIMEOUT).await }
    }

    /// Does what there is to do, until the peer has to say something. False: the connection is over, and the peer has been told.
    async fn turn(&mut self, woken: Woken) -> Result<bool, Ended> {
        match woken {
            Woken::Unasked => {}
            Woken::Heard => match self.hear(self.deadline()).await {
                Ok(true) => {}
                Ok(false) => return self.rest().await,
                Err(Ended::TimedOut) => return self.late().await,
                Err(ended) => return Err(ended),
            },
            Woken::Late => return self.late().await,
        }
        self.work().await
    }

    /// Takes what the peer says. False: under TLS it is not enough yet.
    async fn hear(&mut self, deadline: Instant) -> Result<bool, Ended> {
        let into = self.input.take_to_fill();
        let most = COMMANDS.saturating_sub(into.len());
        let (result, Limited { into, .. }) = self.stream.hear(Limited { into, most }, deadline).await;
        self.input.put(into);
        if let Ok(true) = result {
            self.unheard = false;
        }
        result
    }

    /// Has the peer said more, though none of the replies is written yet?
    async fn has_pipelined(&mut self) -> Result<bool, Ended> {
        let deadline = Instant::now() + PIPELINED;
        loop {
            if !self.stream.has_news() {
                match self.stream.idle(deadline).await.map_err(Ended::from) {
                    Ok(()) => {}
                    Err(Ended::Interrupted) => return Ok(true),
                    Err(Ended::TimedOut) => return Ok(false),
                    Err(ended) => return Err(ended),
                }
            }
            match self.hear(deadline).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(Ended::TimedOut) => return Ok(false),
                Err(ended) => return Err(ended),
            }
        }
    }

    async fn work(&mut self) -> Result<bool, Ended> {
        let mut needs = 0;
        loop {
            if self.ring().draining() && !self.session.message_open() {
                return self.last_words(reply::SHUTTING_DOWN).await;
            }
            self.lay_out();
            let (used, need) = self.session.feed(self.input.unused(), &mut self.out);
            self.input.mark_used(used);
            if self.message.is_some() {
                Box::pin(self.settle(false)).await;
            }
            if !self.session.has_recipients() {
                self.envelope = None;
            }
            match need {
                Need::Input if self.session.has_only_refused() => {
                    if !Box::pin(self.has_pipelined()).await? {
                        return self.last_words(reply::TOO_MANY_ERRORS).await;
                    }
                }
                Need::Input => return self.rest().await,
                Need::Turn => needs = TURN_NEEDS,
                Need::Recipient(mailbox) => Box::pin(self.recipient(&mailbox)).await?,
                Need::Message => {
                    self.tell_refused(None);
                    let verdict = self.begin();
                    self.session.begin(verdict, &mut self.out);
                    let route = self.destination.as_ref().map(|destination| Arc::clone(&destination.route));
                    self.tell_refused(route.as_deref());
                }
                Need::Data => {
                    let Some(message) = self.message.take() else { return Err(Ended::Gone) };
                    let message = self.flow(message, Flow::Data).await?;
                    Box::pin(self.finish(message)).await?;
                }
                Need::Chunk { size, last, wanted } => self.chunk(size, last, wanted).await?,
                Need::Tls => Box::pin(self.start_tls()).await?,
                Need::Close => {
                    self.flush_last().await?;
                    return Ok(false);
                }
            }
            needs += 1;
            if needs >= TURN_NEEDS || self.out.len() >= TURN_OCTETS {
                self.flush().await?;
                ring::turn().await;
                needs = 0;
            }
        }
    }

    /// Tells the peer what there is to tell and leaves nothing behind but what has to be kept.
    async fn rest(&mut self) -> Result<bool, Ended> {
        self.flush().await?;
        self.input.rest();
        buffer::give(std::mem::take(&mut self.out));
        Ok(true)
    }

    async fn last_words(&mut self, words: Reply) -> Result<bool, Ended> {
        self.session.cut_off(&words, &mut self.out);
        self.flush_last().await?;
        Ok(false)
    }

    /// Whatever is told to the peer passes here first: refusals are counted and logged. Those of a message with its route.
    fn tell_refused(&mut self, route: Option<&Route>) {
        for refused in self.session.take_refused() {
            self.shared().delivery.refused(refused, route);
        }
    }

    async fn flush_last(&mut self) -> Result<(), Ended> {
        self.tell_refused(None);
        self.stream.write_last(&mut self.out, Instant::now() + WRITE_TIMEOUT).await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.tell_refused(None);
        let now = Instant::now();
        let (result, told) = {
            let mut write = pin!(self.stream.write(&mut self.out, now + WRITE_TIMEOUT));
            match ring::at_once(write.as_mut()).await {
                Some(result) => (result, now),
                // A peer that does not read makes us wait: without the buffers that others could have.
                None => {
                    self.input.rest();
                    (write.await, Instant::now())
                }
            }
        };
        // A reply ends a command; the next one has the whole time, however its octets drip.
        self.clocks.command_ended(told);
        result
    }

    /// Whatever the verdict waits for (a callback, a look-up), the replies before it do not.
    async fn recipient(&mut self, mailbox: &str) -> Result<(), Ended> {
        let first = !self.session.has_recipients();
        if first {
            self.destination = None;
        }
        let octets = self.session.recipients_octets() + mailbox.len();
        if octets > RECIPIENTS_FREE && self.hold_envelope(2 * octets).is_err() {
            self.shared().stats.messages.refused_memory.add(1);
            self.session.recipient(Err(reply::OUT_OF_MEMORY), &mut self.out);
            return Ok(());
        }
        let delivery = Arc::clone(&self.shared().delivery);
        let mut destination = self.destination.take().map(|destination| *destination);
        let verdict = {
            let session = &self.session;
            let mut asked = pin!(delivery.recipient(mailbox, first, || session.envelope(), &mut destination));
            match ring::at_once(asked.as_mut()).await {
                Some(verdict) => verdict,
                None => {
                    self.stream.write(&mut self.out, Instant::now() + WRITE_TIMEOUT).await?;
                    asked.await
                }
            }
        };
        self.destination = destination.map(Box::new);
        self.lay_out();
        self.session.recipient(verdict, &mut self.out);
        Ok(())
    }

    fn hold_envelope(&mut self, octets: usize) -> Result<(), OverBudget> {
        let lease = || Box::new(self.present.ring().shared.budget.lease(self.admission.share()));
        self.envelope.get_or_insert_with(lease).resize(octets as u64)
    }

    /// May the message come? Opens it.
    fn begin(&mut self) -> Result<(), Reply> {
        let envelope = self.session.envelope();
        let of_route = self.shared().delivery.ready_for(self.destination.as_deref(), envelope.declared_size)?;
        let lease = self.shared().budget.lease(self.admission.share()).of_route(of_route.as_ref());
        let destination = self.destination.take();
        let live = self.shared().live.load();
        match Message::open(envelope, destination, lease, &self.shared().id_key, &live.config.smtp, normalizes(&live.config.smtp)) {
            Ok(message) => {
                self.message = Some(Box::new(message));
                Ok(())
            }
            Err(_) => {
                self.shared().stats.messages.refused_memory.add(1);
                Err(reply::OUT_OF_MEMORY)
            }
        }
    }

    /// One chunk, wanted or not, and its reply.
    async fn chunk(&mut self, size: u64, last: bool, wanted: bool) -> Result<(), Ended> {
        let mut message = match self.message.take() {
            Some(message) => message,
            None => {
                let live = self.shared().live.load();
                Box::new(Message::swallowing(&live.config.smtp, normalizes(&live.config.smtp)))
            }
        };
        if wanted {
            message.announce(size);
        }
        let mut message = self.flow(message, Flow::Chunk { left: size, last }).await?;
        self.lay_out();
        if last && wanted {
            return Box::pin(self.finish(message)).await;
        }
        if wanted {
            self.session.chunk_done(message.fails(&self.ring().shared.stats), &mut self.out);
            if message.has_failed() {
                self.clocks.transaction_ended(Instant::now());
            }
        } else {
            if last && message.has_failed() {
                // All of it has come, though its sender knew the end of it before.
                Box::pin(self.record(message)).await;
                self.session.chunk_done(None, &mut self.out);
                return Ok(());
            }
            self.session.chunk_done(None, &mut self.out);
        }
        if self.session.awaits_chunks() {
            self.message = Some(message);
        }
        Ok(())
    }

    /// A message whose remaining chunks will not come: it is forgotten, or recorded if its sender was told that it was refused.
    async fn settle(&mut self, over: bool) {
        if over || !self.session.awaits_chunks() {
            let Some(message) = self.message.take() else { return };
            if message.has_failed() {
                self.record(message).await;
            }
        }
    }

    /// Only for the record: its sender knows already. What there is to tell does not wait for the disk.
    async fn record(&mut self, message: Box<Message>) {
        // Whoever does not listen any more is recorded all the same.
        self.flush().await.ok();
        self.conclude(message).await;
        self.lay_out();
    }

    /// Takes octets until the flow ends, first those that have come with the commands.
    async fn flow(&mut self, mut message: Box<Message>, mut flow: Flow) -> Result<Box<Message>, Ended> {
        let now = Instant::now();
        if !message.pace.goes_on(now) {
            return self.too_late().await;
        }
        message.pace.block(now);
        let stats = Arc::clone(&self.shared().stats);
        let (used, mut done) = message.take(self.input.unused(), &mut flow, &stats);
        self.input.mark_used(used);
        while !done {
            // Data may come slowly: what there is to tell is told, and nothing else is held.
            self.rest().await?;
            done = match Box::pin(message.read(&mut self.stream, &mut flow, &stats)).await {
                Ok(done) => done,
                Err(Ended::TimedOut) => return self.too_late().await,
                Err(ended) => return Err(ended),
            };
            if done {
                let (rest, lease) = message.rest(&flow);
                self.input.put_counted(rest, lease);
            }
        }
        Ok(message)
    }

    async fn too_late(&mut self) -> Result<Box<Message>, Ended> {
        self.last_words(reply::TIMEOUT).await?;
        Err(Ended::TimedOut)
    }

    /// Room for replies: a buffer that nobody else needs at the moment.
    fn lay_out(&mut self) {
        if self.out.capacity() == 0 {
            self.out = buffer::take();
        }
    }

    /// The end of data has come: the message is delivered or refused, and the sender is told.
    async fn finish(&mut self, message: Box<Message>) -> Result<(), Ended> {
        // What came before it is answered before the endpoint is asked.
        self.flush().await?;
        let words = self.conclude(message).await;
        self.lay_out();
        self.session.end(&words, &mut self.out);
        self.is_ahead = !self.input.unused().is_empty() && self.stream.is_quiet();
        let written = self.flush().await;
        if written.is_err() {
            self.shared().stats.messages.replies_lost.add(1);
        } else {
            self.replied = NonZeroU32::new(self.stream.written());
        }
        self.unheard = written.is_ok();
        self.clocks.transaction_ended(Instant::now());
        written
    }

    /// Makes the verdict on a message: the reply to its end. One that has failed with a chunk is only recorded.
    async fn conclude(&mut self, message: Box<Message>) -> Reply {
        self.ring().desk.recorder.record(Stage::Receive, message.receive_us());
        // Nothing was taken where there is nothing to record: the session's refusal is all there is to say.
        let Some(finished) = message.finish(&self.shared().stats) else { return self.unrecorded(reply::NO_VALID_RECIPIENTS) };
        match finished.deliver(&self.shared().delivery, &self.ring().desk).await {
            Ok(words) => words,
            Err(words) => self.unrecorded(words),
        }
    }

    fn unrecorded(&self, words: Reply) -> Reply {
        self.shared().delivery.refused(self.session.refused_message(&words), None);
        words
    }

    /// STARTTLS (RFC 3207): what the client sent behind it in the clear is dropped, here and in the session.
    async fn start_tls(&mut self) -> Result<(), Ended> {
        self.flush().await?;
        self.settle(true).await;
        self.input.clear();
        self.destination = None;
        let Some(configs) = self.shared().tls.config() else { return Err(Ended::Gone) };
        let began = Instant::now();
        let Ok(tls) = Tls::new(&configs) else { return Err(Ended::Gone) };
        let description = match self.stream.start_tls(tls, began + HANDSHAKE_TIMEOUT).await {
            Ok(description) => description,
            Err((Ended::Interrupted, _)) => return Err(Ended::Interrupted),
            Err((ended, failure)) => {
                self.shared().delivery.handshake_failed(self.session.peer().ip, failure);
                return Err(ended);
            }
        };
        self.ring().desk.recorder.record(Stage::TlsHandshake, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.session.tls_started(description);
        // The next command has the whole time, whatever the handshake took.
        self.clocks.command_ended(Instant::now());
        Ok(())
    }

    fn ring(&self) -> &RingState {
        self.present.ring()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.ring().shared
    }
}

fn normalizes(limits: &Smtp) -> bool {
    limits.bare_newline == BareNewline::Normalize
}
