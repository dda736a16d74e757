//! HTTP out: a bounded pool of forwarders, a bounded queue and a breaker per route.
//!
//! A forwarder is a permit, not a thread: the message is POSTed by the task that received it, on its ring. Only what would hold
//! a ring up (verification, large messages that are taken apart) goes to threads. Logs certificate errors and panics of that
//! work (never their text).

mod authorize;
mod breaker;
mod clients;
mod exchange;
mod identity;
mod lane;
mod pool;
mod prepare;
#[cfg(test)]
mod tests;
pub mod webhook;
mod workers;

use crate::config::{Config, Route};
use crate::envelope::Envelope;
pub use crate::http::Response;
use crate::message::Body;
use crate::stats::Stats;
use crate::verify::{SpfResult, Verifier};
use arc_swap::ArcSwap;
use authorize::Question;
use clients::Clients;
use lane::{Lane, Place};
use pool::Pool;
use prepare::Unprepared;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{oneshot, watch};
use workers::Workers;

/// One message on its way to its endpoint. Owns the body: it is freed as soon as the answer is there.
pub struct Job {
    pub route: Arc<Route>,
    pub envelope: Arc<Envelope>,
    pub body: Body,
    /// Octets of the header block.
    pub header_len: usize,
    pub webhook_id: String,
    /// End of data.
    pub received: Instant,
    /// SPF asked for after MAIL FROM, if the route verifies it.
    pub spf: Option<oneshot::Receiver<SpfResult>>,
}

impl Job {
    fn deadline(&self) -> Instant {
        self.received + self.route.timeout
    }
}

/// Why there was no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// DNS, connect or TLS: no octet of the request was sent.
    NotReached(String),
    /// Broken, malformed or timed out after that.
    Broken(String),
}

impl From<crate::http::NoAnswer> for NoAnswer {
    fn from(none: crate::http::NoAnswer) -> Self {
        if none.phase.is_reached() { Self::Broken(none.to_string()) } else { Self::NotReached(none.to_string()) }
    }
}

/// A job done.
pub struct Completed {
    pub answer: Result<Response, NoAnswer>,
    pub queue_us: u64,
    pub forward_us: u64,
}

/// A job that was not taken; its body is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    QueueFull,
    BreakerOpen,
    Draining,
    /// The rendered request does not fit the memory budget.
    OverBudget,
}

/// A question to `authorize_url` at RCPT TO.
pub struct Authorization {
    pub to: String,
    pub from: String,
    pub size: Option<u64>,
    pub remote_ip: String,
    pub helo_domain: String,
    pub spf: Option<SpfResult>,
}

/// The callback's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorized {
    Yes,
    /// 4xx, with the text of a `text/plain` body.
    No(Option<String>),
    /// 5xx, silence, no capacity: defer.
    Unknown,
}

/// The bound over all forwarders, and a lane for each route.
pub struct Forwarders {
    lanes: ArcSwap<HashMap<String, Arc<Lane>>>,
    workers: Arc<Workers>,
    /// Threads for what would hold a ring up.
    pool: Arc<Pool<prepare::Work>>,
    clients: Clients,
    verifier: Arc<Verifier>,
    stats: Arc<Stats>,
    draining: AtomicBool,
    aborted: watch::Sender<bool>,
}

/// Threads end with what they work for.
impl Drop for Forwarders {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Forwarders {
    /// # Errors
    /// A route's `ca_certificate` cannot be used.
    pub fn start(config: &Config, stats: &Arc<Stats>, verifier: Arc<Verifier>) -> Result<Arc<Self>, String> {
        let forwarders = Self {
            lanes: ArcSwap::default(),
            workers: Workers::new(config.forward.workers, stats),
            pool: Pool::new("forwarder", config.forward.workers, |work: prepare::Work| work()),
            clients: Clients::start(&config.dns)?,
            verifier,
            stats: Arc::clone(stats),
            draining: AtomicBool::new(false),
            aborted: watch::Sender::new(false),
        };
        forwarders.reload(config)?;
        Ok(Arc::new(forwarders))
    }

    /// Routes, limits and CAs of a re-read configuration; jobs under way finish with the route they carry. A lane lives on
    /// under its route's name, with its queue and its breaker.
    ///
    /// # Errors
    /// As [`Forwarders::start`]; nothing has changed then.
    pub fn reload(&self, config: &Config) -> Result<(), String> {
        let clients = self.clients.for_routes(&config.routes)?;
        let old = self.lanes.load();
        self.pool.set_max(config.forward.workers);
        self.workers.set_max(config.forward.workers);
        let lanes = config.routes.iter().zip(clients).map(|(route, client)| {
            let lane = old.get(&route.name).map_or_else(|| Lane::new(route, &self.stats, &self.workers, &client), Arc::clone);
            lane.configure(route, &config.forward, client);
            (route.name.clone(), lane)
        });
        self.lanes.store(Arc::new(lanes.collect()));
        self.stats.forwarders.workers.set(u64::try_from(config.forward.workers).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Looks at the files of client certificates: renewed ones are in use from now on. Says which, and when each ends (seconds since 1970).
    pub fn watch(&self) -> Vec<(String, i64)> {
        self.clients.watch()
    }

    /// Takes the job to its endpoint; on a ring. The body is freed when this returns.
    ///
    /// # Errors
    /// Why the job was not taken: nothing was asked.
    pub async fn forward(&self, job: Job) -> Result<Completed, Refused> {
        let place = self.enter(&job)?;
        self.go(job, place).await
    }

    fn enter(&self, job: &Job) -> Result<Place, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        // A route that a reload has just taken away: the sender's next attempt meets the new configuration.
        self.lanes.load().get(&job.route.name).ok_or(Refused::Draining)?.enter()
    }

    async fn go(&self, job: Job, place: Place) -> Result<Completed, Refused> {
        let (received, deadline) = (job.received, job.deadline());
        let mut begun = None;
        let mut aborted = self.aborted.subscribe();
        let answer = tokio::select! {
            answer = self.ask(job, place, deadline, &mut begun) => answer?,
            // Dropped, the exchange ends its connection.
            _ = aborted.wait_for(|aborted| *aborted) => Err(NoAnswer::Broken("the daemon is stopping".to_owned())),
        };
        let now = Instant::now();
        let begun = begun.unwrap_or(now);
        Ok(Completed { answer, queue_us: micros(begun, received), forward_us: micros(now, begun) })
    }

    async fn ask(
        &self,
        job: Job,
        place: Place,
        deadline: Instant,
        begun: &mut Option<Instant>,
    ) -> Result<Result<Response, NoAnswer>, Refused> {
        let permit = match place {
            Place::Permit(permit) => Some(permit),
            Place::Queue(queued) => queued.permit(deadline).await?,
        };
        let Some(mut permit) = permit else {
            return Ok(Err(NoAnswer::Broken("timed out while waiting for a forwarder".to_owned())));
        };
        *begun = Some(Instant::now());
        let (route, webhook_id) = (Arc::clone(&job.route), job.webhook_id.clone());
        let envelope = Arc::clone(&job.envelope);
        let prepared = match prepare::prepare(job, &envelope, &self.verifier, &self.pool).await {
            Ok(prepared) => prepared,
            Err(Unprepared::Refused(refused)) => return Err(refused),
            Err(Unprepared::NoAnswer(none)) => return Ok(Err(none)),
        };
        let client = permit.client();
        // Boxed, as the call in it is.
        let answer = Box::pin(exchange::ask(&client, &route, prepared, &webhook_id, deadline)).await;
        permit.asked(&answer);
        Ok(answer)
    }

    /// Asks the route's `authorize_url`; takes no forwarder. With too many questions open the answer is not known.
    pub async fn authorize(&self, route: &Route, question: Authorization) -> Authorized {
        let open = self.lanes.load().get(&route.name).and_then(Question::open);
        let Some(open) = open else { return Authorized::Unknown };
        open.ask(route, question).await
    }

    /// No new job from now on (`Refused::Draining`).
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends calls in flight and jobs that wait: they answer `Broken`. Idle threads end.
    pub fn abort(&self) {
        self.drain();
        self.aborted.send_replace(true);
        self.pool.end();
    }
}

fn micros(end: Instant, start: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
