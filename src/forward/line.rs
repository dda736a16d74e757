//! Where jobs meet their route's lane: the lock around all lanes, gauges, and whoever waits for a permit.
//!
//! A job gets its [`Permit`] at once, or waits for it. A permit is given back when it is dropped, however its job ends.
//! Logs a breaker that opens or closes.

use super::job::NoAnswer;
use super::lane::{Arrival, Came, Flight, Key, Settings, Standing};
use super::lanes::{LaneId, Lanes, Told};
use super::refused::Refused;
use crate::http::Client;
use crate::message::Share;
use crate::ring;
use crate::stats::{RouteStats, Stats};
use arc_swap::ArcSwap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

/// A job in a queue, as its lane knows it.
struct Waiter {
    line: Arc<Line>,
    grant: oneshot::Sender<Result<Permit, Refused>>,
}

/// All routes' lines.
pub(super) struct Gate {
    lanes: Mutex<Lanes<Waiter>>,
    stats: Arc<Stats>,
}

/// One route's.
pub(super) struct Line {
    gate: Arc<Gate>,
    id: LaneId,
    name: String,
    route_stats: Arc<RouteStats>,
    client: ArcSwap<Client>,
    /// What bodies and requests for this route hold.
    memory: Arc<Share>,
    /// Authorization callbacks under way.
    pub(super) questions: AtomicUsize,
}

/// A job's place: at work, or waiting.
pub(super) enum Place {
    Permit(Permit),
    Queue(Queued),
}

impl Gate {
    pub(super) fn new(workers: usize, stats: &Arc<Stats>) -> Arc<Self> {
        Arc::new(Self { lanes: Mutex::new(Lanes::new(workers)), stats: Arc::clone(stats) })
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Waiter>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_workers(&self, workers: usize) {
        self.change(|lanes, told| lanes.set_workers(workers, Instant::now(), told));
    }

    /// What it does with the lanes, and then tells those who are to be told: never under the lock, since they may be on another ring.
    fn change<T>(&self, act: impl FnOnce(&mut Lanes<Waiter>, &mut Vec<Told<Waiter>>) -> T) -> T {
        let mut told = Vec::new();
        let mut lanes = self.lanes();
        let done = act(&mut lanes, &mut told);
        let busiest = lanes.busiest();
        drop(lanes);
        self.stats.forwarders.started.set(u64::try_from(busiest).unwrap_or(u64::MAX));
        for Told { job: Waiter { line, grant }, word } in told {
            line.dequeued();
            // Should the job have gone this instant, its permit comes back by being dropped.
            drop(grant.send(word.map(|flight| Permit::new(&line, flight))));
        }
        done
    }
}

impl Line {
    pub(super) fn new(gate: &Arc<Gate>, name: &str, settings: Settings, client: Arc<Client>) -> Arc<Self> {
        let line = Arc::new(Self {
            gate: Arc::clone(gate),
            id: gate.lanes().add(settings),
            name: name.to_owned(),
            route_stats: gate.stats.route(name),
            client: ArcSwap::new(client),
            memory: Arc::default(),
            questions: AtomicUsize::new(0),
        });
        line.show(settings);
        line.news(&mut gate.lanes());
        line
    }

    fn show(&self, settings: Settings) {
        self.route_stats.timeout_us.set(u64::try_from(settings.timeout.as_micros()).unwrap_or(u64::MAX));
    }

    /// New limits, also for the jobs that wait.
    pub(super) fn configure(&self, settings: Settings, client: Arc<Client>) {
        // Most lines of a reload are as they were.
        if !Arc::ptr_eq(&self.client.load(), &client) {
            self.client.store(client);
        }
        if self.gate.lanes().get(self.id).is_some_and(|lane| lane.settings() == settings) {
            return;
        }
        self.show(settings);
        let news = self.gate.change(|lanes, told| {
            lanes.configure(self.id, settings, Instant::now(), told);
            self.news(lanes)
        });
        self.say(news, "");
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.load_full()
    }

    /// Would a message be taken now? The share of the memory that it would count in.
    ///
    /// # Errors
    /// What it would be told.
    pub(super) fn open(&self, octets: u64) -> Result<Arc<Share>, Refused> {
        self.gate.lanes().get(self.id).map_or(Ok(()), |lane| lane.open(Instant::now(), octets))?;
        Ok(Arc::clone(&self.memory))
    }

    /// A place for a job.
    ///
    /// # Errors
    /// It is told "later" at once.
    pub(super) fn enter(self: &Arc<Self>, deadline: Instant, octets: u64) -> Result<Place, Refused> {
        let mut granted = None;
        let waiter = || {
            let (grant, receiver) = oneshot::channel();
            granted = Some(receiver);
            self.queued();
            Waiter { line: Arc::clone(self), grant }
        };
        let arrival = self.gate.change(|lanes, told| {
            let arrival = lanes.arrive(self.id, Instant::now(), deadline, octets, waiter, told);
            self.news(lanes);
            arrival
        })?;
        match (arrival, granted) {
            (Arrival::Go(flight), _) => Ok(Place::Permit(Permit::new(self, flight))),
            (Arrival::Wait(key), Some(granted)) => Ok(Place::Queue(Queued { line: Arc::clone(self), key, octets, granted })),
            // Who waits was made a waiter.
            (Arrival::Wait(_), None) => Err(Refused::Draining),
        }
    }

    fn queued(&self) {
        self.route_stats.queued.add(1);
        self.gate.stats.forwarders.queued.add(1);
    }

    fn dequeued(&self) {
        self.route_stats.queued.sub(1);
        self.gate.stats.forwarders.queued.sub(1);
    }

    /// Shows how the breaker stands; what is new about it. Under the lock, so that each change is seen once.
    fn news(&self, lanes: &mut Lanes<Waiter>) -> Option<News> {
        let Standing { breaker: state, opened, next_try, limit } = lanes.get(self.id)?.standing();
        let before = self.route_stats.breaker();
        self.route_stats.set_breaker(state, next_try);
        self.route_stats.limit.set(u64::try_from(limit).unwrap_or(u64::MAX));
        match (before.is_away(), state.is_away()) {
            (false, true) => Some(News::Opened),
            (true, false) => Some(News::Closed(opened)),
            (false, false) | (true, true) => None,
        }
    }

    fn say(&self, news: Option<News>, why: &str) {
        match news {
            Some(News::Opened) => {
                tracing::warn!(route = self.name, why, "breaker opened: the endpoint gives no answer, mail for it is told to come later");
            }
            Some(News::Closed(opened)) => {
                let open_s = opened.map_or(0, |opened| opened.elapsed().as_secs());
                tracing::info!(route = self.name, open_s, "breaker closed: the endpoint answers");
            }
            None => {}
        }
    }
}

/// A breaker that has opened or closed.
#[derive(Clone, Copy)]
enum News {
    Opened,
    /// It had opened then.
    Closed(Option<Instant>),
}

impl Drop for Line {
    fn drop(&mut self) {
        self.gate.lanes().remove(self.id);
    }
}

/// A job that waits. Dropped, it does so no longer.
pub(super) struct Queued {
    line: Arc<Line>,
    key: Key,
    octets: u64,
    granted: oneshot::Receiver<Result<Permit, Refused>>,
}

impl Queued {
    /// Waits for the permit.
    ///
    /// # Errors
    /// It waited in vain.
    pub(super) async fn permit(mut self, deadline: Instant) -> Result<Permit, Refused> {
        loop {
            // When the time gets short it is looked at again, whether anything else happens or not.
            let lane =
                |lanes: &mut Lanes<Waiter>| lanes.get(self.line.id).map(|lane| lane.look_again(Instant::now(), deadline, self.octets));
            let at = lane(&mut self.line.gate.lanes()).unwrap_or(deadline);
            match ring::timeout_at(at, &mut self.granted).await {
                Some(Ok(granted)) => return granted,
                // A line does not drop a job that waits.
                Some(Err(_)) => return Err(Refused::Draining),
                None if at >= deadline => return Err(Refused::TooLate),
                None => self.line.gate.change(|lanes, told| lanes.look_after(self.line.id, Instant::now(), told)),
            }
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.line.gate.change(|lanes, told| lanes.gone(self.line.id, self.key, Instant::now(), told)) {
            self.line.dequeued();
        }
    }
}

/// One forwarder at work for one job.
pub(super) struct Permit {
    line: Arc<Line>,
    flight: Flight,
    came: Came,
    why: String,
}

impl Permit {
    fn new(line: &Arc<Line>, flight: Flight) -> Self {
        line.route_stats.busy.add(1);
        line.gate.stats.forwarders.busy.add(1);
        Self { line: Arc::clone(line), flight, came: Came::NotAsked, why: String::new() }
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.line.client()
    }

    /// Whether the POST may be begun: what came before it took its time too.
    pub(super) fn still_in_time(&mut self, deadline: Instant) -> bool {
        let mut lanes = self.line.gate.lanes();
        lanes.get(self.line.id).is_some_and(|lane| lane.still_in_time(Instant::now(), deadline, &mut self.flight))
    }

    /// The endpoint was asked, and this came of it.
    pub(super) fn came(&mut self, came: Came, none: Option<&NoAnswer>) {
        self.came = came;
        if let Some(NoAnswer::NotReached(why) | NoAnswer::Broken(why)) = none {
            self.why.clone_from(why);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let line = &self.line;
        line.route_stats.busy.sub(1);
        line.gate.stats.forwarders.busy.sub(1);
        let news = line.gate.change(|lanes, told| {
            lanes.done(line.id, Instant::now(), &self.flight, self.came, told);
            line.news(lanes)
        });
        line.say(news, &self.why);
    }
}
