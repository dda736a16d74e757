//! HTTP out: a bounded pool of forwarder threads, a bounded queue and a breaker per route.
//!
//! A ring thread hands a [`Job`] to its route's lane and never waits; a forwarder thread takes it from there, renders it,
//! POSTs it and answers through a oneshot. Logs certificate errors and panics of a forwarder (never their text).

mod agent;
mod authorize;
mod breaker;
mod connect;
mod exchange;
pub mod format;
mod keeper;
mod lane;
mod pool;
mod progress;
mod redirect;
mod request;
mod resolver;
#[cfg(test)]
mod tests;
mod transport;
pub mod webhook;

use crate::config::{Config, Route};
use crate::envelope::Envelope;
use crate::message::Body;
use crate::stats::Stats;
use crate::verify::{SpfResult, Verifier};
use agent::Agents;
use arc_swap::ArcSwap;
use keeper::Keeper;
use lane::Lane;
use pool::Pool;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

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

/// What the endpoint said: a complete status line and header; the body as far as it came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    /// First 2 KiB, lossy UTF-8.
    pub body: String,
    /// A redirect that was not followed (count, scheme, address): the status is the redirect's own.
    pub redirect_refused: Option<String>,
}

/// Why there was no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// DNS, connect or TLS: no octet of the request was sent.
    NotReached(String),
    /// Broken, malformed or timed out after that.
    Broken(String),
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

/// The pool, and a lane for each route.
pub struct Forwarders {
    lanes: ArcSwap<HashMap<String, Arc<Lane>>>,
    pool: Arc<Pool<Arc<Lane>>>,
    callbacks: Arc<Pool<authorize::Call>>,
    agents: Agents,
    keeper: Keeper,
    stats: Arc<Stats>,
    draining: AtomicBool,
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
        stats.forwarders.workers.set(u64::try_from(config.forward.workers).unwrap_or(u64::MAX));
        let gauges = Arc::clone(stats);
        let serve = move |lane: Arc<Lane>, pool: &Pool<Arc<Lane>>| lane::serve(lane, &verifier, pool);
        let count = move |threads| gauges.forwarders.started.set(u64::try_from(threads).unwrap_or(u64::MAX));
        let pool = Pool::new("forwarder", config.forward.workers, serve, count);
        let callbacks = Pool::new("callback", authorize::THREADS_MAX, |call: authorize::Call, _| call.ask(), |_| {});
        let forwarders = Self {
            lanes: ArcSwap::default(),
            pool,
            callbacks,
            agents: Agents::new(config.forward.workers),
            keeper: Keeper::start()?,
            stats: Arc::clone(stats),
            draining: AtomicBool::new(false),
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
        let agents = self.agents.for_routes(&config.routes)?;
        let old = self.lanes.load();
        self.pool.set_max(config.forward.workers);
        let lanes = config.routes.iter().zip(agents).map(|(route, agent)| {
            let lane = old.get(&route.name).map_or_else(
                || {
                    let lane = Lane::new(route, &self.stats, &agent);
                    self.keeper.watch(&lane);
                    lane
                },
                Arc::clone,
            );
            for _ in 0..lane.configure(route, &config.forward, agent) {
                self.pool.give(Arc::clone(&lane));
            }
            (route.name.clone(), lane)
        });
        self.lanes.store(Arc::new(lanes.collect()));
        self.stats.forwarders.workers.set(u64::try_from(config.forward.workers).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Never blocks: called on a ring thread. `Completed` comes through the receiver; a dropped sender means the job died (defer).
    ///
    /// # Errors
    /// Why the job was not taken. `Refused::OverBudget` may also come as the receiver's answer.
    pub fn submit(&self, job: Job) -> Result<oneshot::Receiver<Result<Completed, Refused>>, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        let lanes = self.lanes.load();
        // A route that a reload has just taken away: the sender's next attempt meets the new configuration.
        let lane = lanes.get(&job.route.name).ok_or(Refused::Draining)?;
        let (receiver, ticket) = lane.push(job)?;
        if !ticket || !self.pool.give(Arc::clone(lane)) {
            self.keeper.wake();
        }
        Ok(receiver)
    }

    /// Asks the route's `authorize_url`; never blocks, and never takes a forwarder.
    ///
    /// # Errors
    /// Too many questions of this route are open.
    pub fn authorize(&self, route: &Arc<Route>, question: Authorization) -> Result<oneshot::Receiver<Authorized>, Refused> {
        let lanes = self.lanes.load();
        let lane = lanes.get(&route.name).ok_or(Refused::Draining)?;
        let (call, receiver) = authorize::Call::new(route, lane, question)?;
        // Where no thread is free, it waits for one: each that is ahead of it ends within its own five seconds.
        self.callbacks.give(call);
        Ok(receiver)
    }

    /// No new job from now on (`Refused::Draining`).
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends calls in flight and jobs that wait: they answer `Broken` (one that is just connecting: within five seconds). Idle
    /// threads end.
    pub fn abort(&self) {
        self.drain();
        self.keeper.abandon_all();
        self.agents.shutdown();
        self.pool.end();
        self.callbacks.end();
    }
}
