//! The only module that knows both sides. [`Delivery::deliver`] is promises 1 and 3 as straight-line code:
//! the endpoint's 2xx, then the durable record, then the `250`.

mod lines;
mod pace;
mod recipient;
mod verdict;

pub use crate::forward::webhook::WebhookIdHasher;
pub use recipient::{Destination, Spf};

use crate::config::{Config, Route, Target};
use crate::envelope::Envelope;
use crate::forward::{Forwarders, Job, Place};
use crate::message::{Body, Share};
use crate::record::{Outcome, Record};
use crate::route::Routes;
use crate::smtp::{Refused, Reply, What, reply};
use crate::stats::{Recorder, RouteStats, Stage, Stats, TlsFailure};
use crate::store::{Commit, Store};
use crate::verify::Verifier;
use arc_swap::ArcSwap;
use lines::Lines;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use verdict::Verdict;

/// A beat more than so long after its endpoint's answer a message is answered at the latest, whatever the disk does: within 10 s (promise 3).
const RECORD_PATIENCE: Duration = Duration::from_secs(8);

/// What a reload replaces.
struct Live {
    routes: Routes,
    hostname: Box<str>,
    route_stats: Arc<HashMap<String, Arc<RouteStats>>>,
}

/// What a delivery has of its ring.
pub struct Desk {
    pub recorder: Recorder,
    /// Each second, and oftener while the daemon drains: whoever waits for the disk looks whether it has waited for long enough. A timer
    /// for each message would wake the ring once more for each.
    pub beat: Notify,
}

pub struct Delivery {
    store: Arc<Store>,
    forwarders: Arc<Forwarders>,
    verifier: Arc<Verifier>,
    stats: Arc<Stats>,
    live: ArcSwap<Live>,
    lines: Lines,
    hurried: AtomicBool,
}

/// The logged fields of a message whose data have ended, and where it goes.
pub struct Received {
    pub envelope: Arc<Envelope>,
    pub route: Arc<Route>,
    pub message_id: Option<String>,
    pub subject: Option<String>,
    pub webhook_id: String,
    /// Octets as received, un-stuffed.
    pub size_octets: u64,
    /// End of data, on the two clocks.
    pub ended: Instant,
    pub date: jiff::Timestamp,
}

/// The message itself: only the forwarder gets it.
pub struct Content {
    pub body: Body,
    pub header_len: usize,
    pub target: Arc<Target>,
    /// Where the application has it go instead.
    pub place: Option<Arc<Place>>,
    pub spf: Spf,
}

/// Durations of the parts of one delivery, microseconds.
#[derive(Clone, Copy, Default)]
struct Spent {
    queue_us: u64,
    /// `None`: the endpoint was not asked.
    forward_us: Option<u64>,
}

impl Delivery {
    #[must_use]
    pub fn new(config: &Config, store: Arc<Store>, forwarders: Arc<Forwarders>, verifier: Arc<Verifier>, stats: Arc<Stats>) -> Arc<Self> {
        let live = ArcSwap::from_pointee(Live::of(config, &stats));
        let lines = Lines::new(config, &stats);
        Arc::new(Self { store, forwarders, verifier, stats, live, lines, hurried: AtomicBool::new(false) })
    }

    /// Recipients that come from now on are matched against the new routes; `before` is the configuration in use.
    pub fn reload(&self, config: &Config, before: &Config) {
        let live = self.live.load().again(config, before, &self.stats);
        self.live.store(Arc::new(live));
        self.lines.reload(config);
    }

    /// A refusal that no record has; each is told here once. Of a message its route is known.
    pub fn refused(&self, refused: Refused, route: Option<&Route>) {
        if refused.what == What::Message {
            self.stats.messages.unrecorded.add(1);
        }
        self.lines.refused(refused, route);
    }

    pub fn handshake_failed(&self, ip: IpAddr, failure: TlsFailure) {
        self.lines.handshake_failed(ip, failure);
    }

    /// Each second.
    pub fn tick(&self) {
        self.lines.tick();
    }

    /// When no mail comes any more.
    pub fn finish(&self) {
        self.lines.finish();
    }

    /// What `postmaster` without a domain stands for.
    #[must_use]
    pub fn postmaster(&self, hostname: &str) -> String {
        self.live.load().routes.postmaster(hostname)
    }

    /// May data be taken now?
    pub fn ready(&self) -> Result<(), Reply> {
        if self.store.writable() {
            return Ok(());
        }
        self.stats.messages.refused_store.add(1);
        Err(reply::STORE_DEGRADED)
    }

    /// May a message of that size be taken for this route? What would only be refused at its end is refused before it comes. The share
    /// of the memory that it counts in beside its sender's.
    pub fn ready_for(&self, destination: Option<&Destination>, octets: Option<u64>) -> Result<Option<Arc<Share>>, Reply> {
        self.ready()?;
        let Some(destination) = destination else { return Ok(None) };
        self.forwarders.open(&destination.route, octets.unwrap_or_default()).map_err(|refused| {
            self.count_refusal(refused);
            verdict::of_refusal(refused, None).reply
        })
    }

    /// The order of effects, here and nowhere else: forward, record, reply.
    pub async fn deliver(&self, received: Received, content: Content, desk: &Desk) -> Reply {
        // Nothing is sent that could not be recorded afterwards.
        if let Err(later) = self.ready() {
            self.not_recorded(&received, &later);
            return later;
        }
        let id = self.store.next_id();
        let job = Job {
            route: Arc::clone(&received.route),
            target: content.target,
            place: content.place,
            envelope: Arc::clone(&received.envelope),
            body: content.body,
            header_len: content.header_len,
            webhook_id: received.webhook_id.clone(),
            received: received.ended,
            spf: content.spf.into_receiver(),
        };
        let (verdict, spent) = self.forward(job, id, received.envelope.smtputf8).await;
        // Of what was not sent an outage would look quick.
        if let Some(us) = spent.forward_us {
            desk.recorder.record(Stage::Queue, spent.queue_us);
            desk.recorder.record_of(&received.route.name, Stage::Forward, us);
        }
        self.record(id, received, verdict, spent, desk).await
    }

    /// A message that the daemon itself refuses at its end: recorded, not forwarded.
    pub async fn refuse(&self, received: Received, refusal: Reply, desk: &Desk) -> Reply {
        if !self.store.writable() {
            self.not_recorded(&received, &refusal);
            return refusal;
        }
        let id = self.store.next_id();
        self.record(id, received, verdict::of_own_refusal(refusal), Spent::default(), desk).await
    }

    fn not_recorded(&self, received: &Received, reply: &Reply) {
        let envelope = &received.envelope;
        let refused = Refused {
            what: What::Message,
            ip: envelope.peer.ip,
            greeting: envelope.helo.clone(),
            sender: Some(envelope.reverse_path.clone()),
            recipient: envelope.recipients.first().cloned(),
            reply: reply.clone(),
        };
        self.refused(refused, Some(&received.route));
    }

    async fn forward(&self, job: Job, id: crate::record::RecordId, utf8: bool) -> (Verdict, Spent) {
        let (route, received) = (Arc::clone(&job.route), job.received);
        match self.forwarders.forward(job).await {
            Ok(done) => {
                let spent = Spent { queue_us: done.queue_us, forward_us: done.forward_us };
                (verdict::of_answer(done.answer, &route, id, utf8), spent)
            }
            Err(refused) => {
                self.count_refusal(refused);
                let open_since = self.live.load().route_stats.get(&route.name).and_then(|stats| stats.away()).map(|away| away.since);
                (verdict::of_refusal(refused, open_since), Spent { queue_us: micros(received.elapsed()), forward_us: None })
            }
        }
    }

    /// Makes the record durable, then gives the reply away.
    async fn record(&self, id: crate::record::RecordId, received: Received, verdict: Verdict, spent: Spent, desk: &Desk) -> Reply {
        let Verdict { outcome, reply, server_response } = verdict;
        let ended = received.ended;
        if reply.refuses() {
            self.stats.refusals.count(reply.code());
        }
        self.count_outcome(outcome, &received.route.name);
        // The forwarder has let go of it: nothing is copied.
        let envelope = Arc::unwrap_or_clone(received.envelope);
        let handed_over = Instant::now();
        let record = Record {
            id,
            date: received.date,
            sender_ip: envelope.peer.ip.to_string(),
            message_id: received.message_id,
            sender: envelope.reverse_path,
            recipients: envelope.recipients,
            subject: received.subject,
            server_response,
            processing_time_us: micros(handed_over - ended),
            queue_us: spent.queue_us,
            forward_us: spent.forward_us.unwrap_or_default(),
            store_us: 0,
            outcome,
            reply: reply.0.clone().into_owned(),
            size: received.size_octets,
            tls: envelope.tls,
            route: received.route.name.clone(),
            webhook_id: received.webhook_id,
        };
        let ip = envelope.peer.ip;
        let line = self.lines.of_message(&record);
        // A failed commit leaves the record in the store's log line (promise 3); the endpoint's word stands either way.
        self.durable(self.store.commit(record), handed_over + RECORD_PATIENCE, &desk.beat).await;
        let over = Instant::now();
        desk.recorder.record(Stage::Store, micros(over - handed_over));
        desk.recorder.record_of(&received.route.name, Stage::Total, micros(over - ended));
        if let Some(line) = line {
            self.lines.message(&line, ip, over - ended);
        }
        reply
    }

    /// Waits for a commit, but not for a disk that hangs: what is not durable by then has its log line.
    async fn durable(&self, mut commit: Commit, deadline: Instant, beat: &Notify) {
        loop {
            tokio::select! {
                biased;
                _ = &mut commit => return,
                () = beat.notified() => {}
            }
            if Instant::now() >= deadline || self.hurried.load(Ordering::Acquire) {
                return commit.give_up();
            }
        }
    }

    /// From now on nobody waits for the disk: the process is about to end.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
    }

    fn count_outcome(&self, outcome: Outcome, route: &str) {
        let live = self.live.load();
        let of_route = live.route_stats.get(route);
        let messages = &self.stats.messages;
        match outcome {
            Outcome::Delivered => {
                messages.delivered.add(1);
                of_route.inspect(|counters| counters.delivered.add(1));
            }
            Outcome::Rejected => {
                messages.rejected.add(1);
                of_route.inspect(|counters| counters.rejected.add(1));
            }
            Outcome::Deferred => {
                messages.deferred.add(1);
                of_route.inspect(|counters| counters.deferred.add(1));
            }
        }
    }

    fn count_refusal(&self, refused: crate::forward::Refused) {
        use crate::forward::Refused;
        let messages = &self.stats.messages;
        match refused {
            Refused::QueueFull | Refused::WaitTooLong | Refused::TooLate | Refused::Draining => messages.refused_queue.add(1),
            Refused::BreakerOpen | Refused::Paused => messages.refused_breaker.add(1),
            Refused::OverBudget => messages.refused_memory.add(1),
        }
    }
}

impl Live {
    fn of(config: &Config, stats: &Stats) -> Self {
        let route_stats = config.routes.iter().map(|route| (route.name.clone(), stats.route(&route.name))).collect();
        Self { routes: Routes::new(&config.routes), hostname: config.smtp.hostname.as_str().into(), route_stats: Arc::new(route_stats) }
    }

    /// With what has not changed.
    fn again(&self, config: &Config, before: &Config, stats: &Stats) -> Self {
        let (gone, come) = config.changed(before);
        let alike = |same: fn(&Route, &Route) -> bool| gone.len() == come.len() && gone.iter().zip(come).all(|(old, new)| same(old, new));
        let route_stats = if alike(|old, new| old.name == new.name) {
            Arc::clone(&self.route_stats)
        } else {
            let mut route_stats = HashMap::clone(&self.route_stats);
            gone.iter().for_each(|route| drop(route_stats.remove(&route.name)));
            route_stats.extend(come.iter().map(|route| (route.name.clone(), stats.route(&route.name))));
            Arc::new(route_stats)
        };
        let same_globs = alike(|old, new| old.recipients == new.recipients);
        let routes = if same_globs { self.routes.with(&config.routes) } else { Routes::new(&config.routes) };
        Self { routes, hostname: config.smtp.hostname.as_str().into(), route_stats }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
