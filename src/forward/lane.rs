//! One route's lane: its bounded queue, its permits (`max_concurrency`), its breaker. A route that hangs holds its own permits
//! and nobody else's.
//!
//! A *ticket* in the pool stands for one permit: the thread that gets it works the lane's queue off, job by job, and passes the
//! ticket on between two jobs when other lanes wait for a thread.

use super::breaker::Breaker;
use super::exchange;
use super::pool::Pool;
use super::{Completed, Job, NoAnswer, Refused, Response};
use crate::config::{self, Route};
use crate::stats::{RouteStats, Stats};
use crate::verify::Verifier;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;
use ureq::Agent;

pub(super) struct Lane {
    state: Mutex<State>,
    stats: Arc<Stats>,
    route_stats: Arc<RouteStats>,
    /// Authorization callbacks under way.
    pub(super) questions: AtomicUsize,
}

struct State {
    queue: VecDeque<Queued>,
    queue_max: usize,
    /// Permits that are out: each has a ticket in the pool or a thread at work.
    permits: usize,
    permits_max: usize,
    breaker: Breaker,
    agent: Agent,
}

struct Queued {
    job: Job,
    probe: bool,
    answer: oneshot::Sender<Result<Completed, Refused>>,
}

impl Lane {
    pub(super) fn new(route: &Route, stats: &Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_max: 0,
                permits: 0,
                permits_max: route.max_concurrency,
                breaker: Breaker::new(config::Breaker { failures: 0, cooldown: std::time::Duration::ZERO }),
                agent: Agent::new_with_defaults(),
            }),
            stats: Arc::clone(stats),
            route_stats: stats.route(&route.name),
            questions: AtomicUsize::new(0),
        })
    }

    pub(super) fn configure(&self, route: &Route, limits: &config::Forward, agent: Agent) {
        let mut state = self.state();
        state.queue_max = limits.queue;
        state.permits_max = route.max_concurrency;
        state.breaker.set_limits(limits.breaker);
        state.agent = agent;
        self.route_stats.set_breaker(state.breaker.shown());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn agent(&self) -> Agent {
        self.state().agent.clone()
    }

    /// Queues the job. True: a permit was free, so a ticket goes to the pool.
    #[expect(clippy::type_complexity, reason = "the receiver is the contract of Forwarders::submit")]
    pub(super) fn push(
        &self,
        job: Job,
    ) -> Result<(oneshot::Receiver<Result<Completed, Refused>>, bool), Refused> {
        let mut state = self.state();
        // A job that a permit will take at once does not count as waiting.
        let waiting = state.queue.len().saturating_sub(state.permits_max.saturating_sub(state.permits));
        if waiting >= state.queue_max && state.permits >= state.permits_max {
            return Err(Refused::QueueFull);
        }
        let Some(probe) = state.breaker.admit(Instant::now()) else { return Err(Refused::BreakerOpen) };
        if probe {
            self.route_stats.set_breaker(state.breaker.shown());
        }
        let (answer, receiver) = oneshot::channel();
        state.queue.push_back(Queued { job, probe, answer });
        let ticket = state.permits < state.permits_max;
        if ticket {
            state.permits += 1;
        }
        drop(state);
        self.route_stats.queued.add(1);
        self.stats.forwarders.queued.add(1);
        Ok((receiver, ticket))
    }

    /// The next job, or the permit goes back.
    fn pop(&self) -> Option<Queued> {
        let mut state = self.state();
        if state.permits > state.permits_max {
            // A reload has lowered the bound.
            state.permits -= 1;
            return None;
        }
        let Some(queued) = state.queue.pop_front() else {
            state.permits -= 1;
            return None;
        };
        drop(state);
        self.route_stats.queued.sub(1);
        self.stats.forwarders.queued.sub(1);
        Some(queued)
    }

    fn tell_breaker(&self, answer: Option<&Result<Response, NoAnswer>>, probe: bool) {
        let mut state = self.state();
        match answer {
            Some(Ok(_)) => state.breaker.answered(),
            Some(Err(_)) => state.breaker.not_answered(probe, Instant::now()),
            None => state.breaker.not_asked(probe, Instant::now()),
        }
        self.route_stats.set_breaker(state.breaker.shown());
    }

    fn forward(&self, queued: Queued, verifier: &Verifier) {
        let Queued { job, probe, answer } = queued;
        let begun = Instant::now();
        let queue_us = micros(begun, job.received);
        let mut busy = Busy { lane: self, probe, asked: false };
        self.route_stats.busy.add(1);
        self.stats.forwarders.busy.add(1);
        // The job, and with it the body, is gone when the exchange returns.
        let result = exchange::forward(job, &self.agent(), verifier).map(|answer| {
            busy.asked = true;
            self.tell_breaker(Some(&answer), probe);
            Completed { answer, queue_us, forward_us: micros(Instant::now(), begun) }
        });
        drop(busy);
        // The client's connection may have ended; the endpoint's answer then has nobody to hear it.
        drop(answer.send(result));
    }
}

/// A job in hand; ends also when its exchange panics.
struct Busy<'a> {
    lane: &'a Lane,
    probe: bool,
    asked: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.lane.route_stats.busy.sub(1);
        self.lane.stats.forwarders.busy.sub(1);
        if !self.asked {
            self.lane.tell_breaker(None, self.probe);
        }
    }
}

/// Gives the permit back when a panic takes the thread away from the lane.
struct Permit<'a>(Option<&'a Lane>);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.0 {
            let mut state = lane.state();
            state.permits = state.permits.saturating_sub(1);
        }
    }
}

/// Works with one permit: until the queue is empty, or other lanes wait.
pub(super) fn serve(lane: &Arc<Lane>, verifier: &Verifier, pool: &Pool<Arc<Lane>>) {
    while let Some(queued) = lane.pop() {
        let mut permit = Permit(Some(lane));
        lane.forward(queued, verifier);
        permit.0 = None;
        if pool.is_contended() {
            pool.requeue(Arc::clone(lane));
            return;
        }
    }
}

fn micros(end: Instant, start: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
