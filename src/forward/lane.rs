//! One route's lane: its bounded queue, its permits (`max_concurrency`), its breaker. A route that hangs holds its own permits
//! and nobody else's.
//!
//! A job gets its [`Permit`] at once, or waits for it in the queue. A permit is given back when it is dropped, however its job
//! ends. Logs nothing.

use super::breaker::Breaker;
use super::workers::Workers;
use super::{NoAnswer, Refused};
use crate::config::{self, Route};
use crate::http::Client;
use crate::ring;
use crate::stats::{RouteStats, Stats};
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) struct Lane {
    state: Mutex<State>,
    workers: Arc<Workers>,
    stats: Arc<Stats>,
    route_stats: Arc<RouteStats>,
    /// Authorization callbacks under way.
    pub(super) questions: AtomicUsize,
}

struct State {
    queue: VecDeque<Waiting>,
    queue_max: usize,
    /// Names the next job that waits.
    number: u64,
    /// Permits that are out: with a job, or waiting for a forwarder (a ticket).
    permits: usize,
    /// Those of them that have a job.
    at_work: usize,
    permits_max: usize,
    breaker: Breaker,
    client: Arc<Client>,
}

impl State {
    /// Jobs in the queue that no ticket stands for.
    fn without_ticket(&self) -> usize {
        self.queue.len().saturating_sub(self.permits.saturating_sub(self.at_work))
    }
}

struct Waiting {
    number: u64,
    probe: bool,
    grant: oneshot::Sender<Result<Permit, Refused>>,
}

/// A job's place: at work, or in the queue.
pub(super) enum Place {
    Permit(Permit),
    Queue(Queued),
}

impl Lane {
    pub(super) fn new(route: &Route, stats: &Arc<Stats>, workers: &Arc<Workers>, client: &Arc<Client>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_max: 0,
                number: 0,
                permits: 0,
                at_work: 0,
                permits_max: route.max_concurrency,
                breaker: Breaker::new(config::Breaker { failures: 0, cooldown: Duration::ZERO }),
                client: Arc::clone(client),
            }),
            workers: Arc::clone(workers),
            stats: Arc::clone(stats),
            route_stats: stats.route(&route.name),
            questions: AtomicUsize::new(0),
        })
    }

    /// New limits, also for the jobs that wait.
    pub(super) fn configure(self: &Arc<Self>, route: &Route, limits: &config::Forward, client: Arc<Client>) {
        let mut state = self.state();
        state.queue_max = limits.queue;
        state.permits_max = route.max_concurrency;
        state.breaker.set_limits(limits.breaker);
        state.client = client;
        self.route_stats.set_breaker(state.breaker.shown());
        let tickets = state.without_ticket().min(state.permits_max.saturating_sub(state.permits));
        state.permits += tickets;
        drop(state);
        for _ in 0..tickets {
            self.workers.wait(Arc::clone(self));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.state().client)
    }

    /// A place for a job.
    ///
    /// # Errors
    /// The queue is full, or the breaker is open.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Place, Refused> {
        let mut state = self.state();
        if state.permits >= state.permits_max && state.without_ticket() >= state.queue_max {
            return Err(Refused::QueueFull);
        }
        let Some(probe) = state.breaker.admit(Instant::now()) else { return Err(Refused::BreakerOpen) };
        if probe {
            self.route_stats.set_breaker(state.breaker.shown());
        }
        let permitted = state.permits < state.permits_max;
        if permitted {
            state.permits += 1;
            if self.workers.take() {
                state.at_work += 1;
                drop(state);
                return Ok(Place::Permit(Permit::new(self, probe)));
            }
        }
        let (grant, granted) = oneshot::channel();
        let number = state.number;
        state.number += 1;
        state.queue.push_back(Waiting { number, probe, grant });
        drop(state);
        self.queued(1);
        if permitted {
            self.workers.wait(Arc::clone(self));
        }
        Ok(Place::Queue(Queued { lane: Arc::clone(self), number, granted }))
    }

    fn queued(&self, jobs: u64) {
        self.route_stats.queued.add(jobs);
        self.stats.forwarders.queued.add(jobs);
    }

    fn dequeued(&self, jobs: u64) {
        self.route_stats.queued.sub(jobs);
        self.stats.forwarders.queued.sub(jobs);
    }

    /// A ticket's turn has come: its forwarder works for the next job. False: there is none, and the permit went back.
    pub(super) fn engage_next(self: &Arc<Self>) -> bool {
        loop {
            let mut state = self.state();
            // A reload may have lowered the bound.
            let next = if state.permits > state.permits_max { None } else { state.queue.pop_front() };
            let Some(Waiting { mut probe, grant, .. }) = next else {
                state.permits -= 1;
                return false;
            };
            let wanted = !grant.is_closed();
            let now = Instant::now();
            let mut admitted = wanted;
            if !wanted && probe {
                state.breaker.not_asked(true, now);
            } else if wanted && !probe {
                // The breaker may have opened while the job waited, and may be due for a probe.
                let admission = state.breaker.admit(now);
                admitted = admission.is_some();
                probe = admission.unwrap_or_default();
            }
            if admitted {
                state.at_work += 1;
            }
            self.route_stats.set_breaker(state.breaker.shown());
            drop(state);
            self.dequeued(1);
            if admitted {
                // Should the job have gone this instant, its permit comes back by being dropped.
                drop(grant.send(Ok(Permit::new(self, probe))));
                return true;
            }
            drop(grant.send(Err(Refused::BreakerOpen)));
        }
    }

    /// A job that waits does not wait any longer; nothing happens if it has its permit already.
    fn leave(&self, number: u64) {
        let mut state = self.state();
        let Some(at) = state.queue.iter().position(|waiting| waiting.number == number) else { return };
        let left = state.queue.remove(at);
        if left.is_some_and(|waiting| waiting.probe) {
            state.breaker.not_asked(true, Instant::now());
            self.route_stats.set_breaker(state.breaker.shown());
        }
        drop(state);
        self.dequeued(1);
    }
}

/// A job in the queue. Dropped, it leaves the queue.
pub(super) struct Queued {
    lane: Arc<Lane>,
    number: u64,
    granted: oneshot::Receiver<Result<Permit, Refused>>,
}

impl Queued {
    /// Waits for the permit; `Ok(None)` at the deadline.
    ///
    /// # Errors
    /// The breaker has opened meanwhile.
    pub(super) async fn permit(mut self, deadline: Instant) -> Result<Option<Permit>, Refused> {
        match ring::timeout_at(deadline, &mut self.granted).await {
            Some(Ok(granted)) => granted.map(Some),
            // The lane does not drop a job that waits.
            Some(Err(_)) => Err(Refused::Draining),
            None => Ok(None),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.lane.leave(self.number);
    }
}

/// What came of asking the endpoint, as the breaker sees it.
#[derive(Clone, Copy)]
enum Asked {
    Answered,
    InVain,
    /// The endpoint has nothing to do with it.
    No,
}

/// One forwarder at work for one job of a lane.
pub(super) struct Permit {
    lane: Arc<Lane>,
    probe: bool,
    asked: Asked,
}

impl Permit {
    fn new(lane: &Arc<Lane>, probe: bool) -> Self {
        lane.route_stats.busy.add(1);
        lane.stats.forwarders.busy.add(1);
        Self { lane: Arc::clone(lane), probe, asked: Asked::No }
    }

    /// The endpoint was asked, and this came of it.
    pub(super) fn asked<T>(&mut self, answer: &Result<T, NoAnswer>) {
        self.asked = if answer.is_ok() { Asked::Answered } else { Asked::InVain };
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.lane.client()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let lane = &self.lane;
        lane.route_stats.busy.sub(1);
        lane.stats.forwarders.busy.sub(1);
        let mut state = lane.state();
        // With jobs waiting the permit becomes a ticket, behind those of other lanes.
        let goes_on = state.without_ticket() > 0 && state.permits <= state.permits_max;
        state.at_work -= 1;
        match self.asked {
            Asked::Answered => state.breaker.answered(),
            Asked::InVain => state.breaker.not_answered(self.probe, Instant::now()),
            Asked::No => state.breaker.not_asked(self.probe, Instant::now()),
        }
        lane.route_stats.set_breaker(state.breaker.shown());
        if !goes_on {
            state.permits -= 1;
        }
        drop(state);
        if goes_on {
            lane.workers.wait(Arc::clone(lane));
        }
        lane.workers.release();
    }
}
