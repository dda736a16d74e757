//! One route's lane: its bounded queue, its permits (`max_concurrency`), its breaker. A route that hangs holds its own permits
//! and nobody else's.
//!
//! A *ticket* in the pool stands for one permit: the thread that gets it works the lane's queue off, job by job, and passes the
//! ticket on between two jobs when other lanes wait for a thread.

use super::breaker::Breaker;
use super::exchange::{self, Asked};
use super::pool::Pool;
use super::{Completed, Job, NoAnswer, Refused};
use crate::config::{self, Route};
use crate::stats::{RouteStats, Stats};
use crate::verify::Verifier;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// Those of them that hold a job.
    at_work: usize,
    permits_max: usize,
    breaker: Breaker,
    agent: Arc<Agent>,
}

struct Queued {
    job: Job,
    probe: bool,
    answer: oneshot::Sender<Result<Completed, Refused>>,
}

impl Queued {
    fn deadline(&self) -> Instant {
        self.job.received + self.job.route.timeout
    }

    /// Ends it without having asked its endpoint; the body goes first.
    fn refuse(self, answer: Result<NoAnswer, Refused>) {
        let Self { job, answer: sender, .. } = self;
        let queue_us = micros(Instant::now(), job.received);
        drop(job);
        let done = answer.map(|none| Completed { answer: Err(none), queue_us, forward_us: 0 });
        // The client may be gone.
        drop(sender.send(done));
    }
}

impl Lane {
    pub(super) fn new(route: &Route, stats: &Arc<Stats>, agent: &Arc<Agent>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_max: 0,
                permits: 0,
                at_work: 0,
                permits_max: route.max_concurrency,
                breaker: Breaker::new(config::Breaker { failures: 0, cooldown: std::time::Duration::ZERO }),
                agent: Arc::clone(agent),
            }),
            stats: Arc::clone(stats),
            route_stats: stats.route(&route.name),
            questions: AtomicUsize::new(0),
        })
    }

    /// New limits; how many tickets they have set free for jobs that wait.
    pub(super) fn configure(&self, route: &Route, limits: &config::Forward, agent: Arc<Agent>) -> usize {
        let mut state = self.state();
        state.queue_max = limits.queue;
        state.permits_max = route.max_concurrency;
        state.breaker.set_limits(limits.breaker);
        state.agent = agent;
        self.route_stats.set_breaker(state.breaker.shown());
        let without_ticket = state.queue.len().saturating_sub(state.permits.saturating_sub(state.at_work));
        let tickets = without_ticket.min(state.permits_max.saturating_sub(state.permits));
        state.permits += tickets;
        tickets
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn agent(&self) -> Arc<Agent> {
        Arc::clone(&self.state().agent)
    }

    /// Queues the job. True: a permit was free, so a ticket goes to the pool.
    pub(super) fn push(&self, job: Job) -> Result<(oneshot::Receiver<Result<Completed, Refused>>, bool), Refused> {
        let mut state = self.state();
        // A job that a permit on its way to it stands for does not count as waiting.
        let waiting = state.queue.len().saturating_sub(state.permits.saturating_sub(state.at_work));
        if state.permits >= state.permits_max && waiting >= state.queue_max {
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
        loop {
            let mut state = self.state();
            if state.permits > state.permits_max {
                // A reload has lowered the bound.
                state.permits -= 1;
                return None;
            }
            let Some(mut queued) = state.queue.pop_front() else {
                state.permits -= 1;
                return None;
            };
            let now = Instant::now();
            // Nobody to hear the answer and to record it: nothing is sent.
            let wanted = !queued.answer.is_closed();
            let in_time = now < queued.deadline();
            let mut admitted = true;
            if wanted && in_time && !queued.probe {
                // The breaker may have opened while it waited, and may be due for a probe.
                let probe = state.breaker.admit(now);
                admitted = probe.is_some();
                queued.probe = probe.unwrap_or_default();
            } else if queued.probe && !(wanted && in_time) {
                state.breaker.not_asked(true, now);
            }
            self.route_stats.set_breaker(state.breaker.shown());
            if wanted && in_time && admitted {
                state.at_work += 1;
            }
            drop(state);
            self.dequeued(1);
            match (wanted, in_time, admitted) {
                (true, true, true) => return Some(queued),
                (true, true, false) => queued.refuse(Err(Refused::BreakerOpen)),
                (true, false, _) => queued.refuse(Ok(NoAnswer::Broken("timed out while waiting for a forwarder".to_owned()))),
                (false, ..) => drop(queued),
            }
        }
    }

    fn dequeued(&self, jobs: u64) {
        self.route_stats.queued.sub(jobs);
        self.stats.forwarders.queued.sub(jobs);
    }

    /// Answers the jobs that wait and whose deadline has passed (`None`: all of them). True: others still wait.
    pub(super) fn abandon(&self, late_at: Option<Instant>, why: &str) -> bool {
        let mut state = self.state();
        let late = |queued: &Queued| late_at.is_none_or(|now| queued.deadline() <= now);
        if !state.queue.iter().any(late) {
            return !state.queue.is_empty();
        }
        let (gone, kept): (VecDeque<Queued>, VecDeque<Queued>) = state.queue.drain(..).partition(late);
        state.queue = kept;
        if gone.iter().any(|queued| queued.probe) {
            state.breaker.not_asked(true, Instant::now());
            self.route_stats.set_breaker(state.breaker.shown());
        }
        let waiting = !state.queue.is_empty();
        drop(state);
        self.dequeued(u64::try_from(gone.len()).unwrap_or(u64::MAX));
        for queued in gone {
            queued.refuse(Ok(NoAnswer::Broken(why.to_owned())));
        }
        waiting
    }

    fn done(&self, asked: Option<&Asked>, probe: bool) {
        let mut state = self.state();
        state.at_work -= 1;
        match asked {
            Some(Asked::Answered(_)) => state.breaker.answered(),
            Some(Asked::InVain(_)) => state.breaker.not_answered(probe, Instant::now()),
            // The endpoint has nothing to do with it.
            Some(Asked::No(_)) | None => state.breaker.not_asked(probe, Instant::now()),
        }
        self.route_stats.set_breaker(state.breaker.shown());
    }

    fn forward(&self, queued: Queued, verifier: &Verifier) {
        let Queued { job, probe, answer } = queued;
        let begun = Instant::now();
        let queue_us = micros(begun, job.received);
        self.route_stats.busy.add(1);
        self.stats.forwarders.busy.add(1);
        let agent = self.agent();
        // The job, and with it the body, is gone when the exchange returns, or unwinds.
        let result = catch_unwind(AssertUnwindSafe(|| exchange::forward(job, &agent, verifier)));
        self.route_stats.busy.sub(1);
        self.stats.forwarders.busy.sub(1);
        let result = result.unwrap_or_else(|_| {
            tracing::error!("a forwarder's work ended by a panic");
            Ok(Asked::No(NoAnswer::Broken("the forwarder failed".to_owned())))
        });
        self.done(result.as_ref().ok(), probe);
        let forward_us = micros(Instant::now(), begun);
        // The client's connection may have ended; the endpoint's answer then has nobody to hear it.
        drop(answer.send(result.map(|asked| Completed { answer: asked.into_answer(), queue_us, forward_us })));
    }
}

/// Works with one permit: until the queue is empty, or other lanes wait.
pub(super) fn serve(lane: Arc<Lane>, verifier: &Verifier, pool: &Pool<Arc<Lane>>) {
    let mut ticket = lane;
    while let Some(queued) = ticket.pop() {
        ticket.forward(queued, verifier);
        ticket = match pool.give_way(ticket) {
            Ok(()) => return,
            Err(ticket) => ticket,
        };
    }
}

fn micros(end: Instant, start: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
