//! All routes' forwarders. A forwarder is a permit, not a thread: the message is POSTed by the task that received it, on its ring.
//! Only what would hold a ring up (hashing, large messages that are taken apart) goes to threads.

use super::answers::Answers;
use super::authorize::Question;
use super::clients::Clients;
use super::exchange::{self, Goes};
use super::job::{Completed, Job, NoAnswer};
use super::lane::{Came, Says, Settings};
use super::line::{Gate, Line, Place};
use super::pool::Pool;
use super::prepare::{self, Found, Unprepared};
use super::question::{Authorization, Authorized};
use super::refused::Refused;
use super::scan::Scanners;
use crate::config::{Config, Route, Target, Verify};
use crate::http::{Client, Response, retry_after};
use crate::message::Share;
use crate::stats::Stats;
use crate::verify::Verifier;
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const STOPPING: &str = "the daemon is stopping";

/// The bound over all forwarders, and a line for each route.
pub struct Forwarders {
    pub(super) lines: ArcSwap<HashMap<String, Arc<Line>>>,
    gate: Arc<Gate>,
    /// Threads for what would hold a ring up.
    pub(super) pool: Arc<Pool<prepare::Work>>,
    clients: Clients,
    answers: Mutex<Answers>,
    scanners: Scanners,
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
            lines: ArcSwap::default(),
            gate: Gate::new(config.forward.workers, stats),
            pool: Pool::new("forwarder", config.forward.workers, |work: prepare::Work| work()),
            clients: Clients::start(&config.dns, stats)?,
            answers: Mutex::default(),
            scanners: Scanners::default(),
            verifier,
            stats: Arc::clone(stats),
            draining: AtomicBool::new(false),
            aborted: watch::Sender::new(false),
        };
        forwarders.reload(config, None)?;
        Ok(Arc::new(forwarders))
    }

    /// Routes, limits and CAs of a re-read configuration, `before` the one in use; jobs under way finish with the route they carry. A line lives
    /// on under its route's name, with its queue, its breaker and what it has learned. Where only routes have changed, only those are looked at.
    ///
    /// # Errors
    /// As [`Forwarders::start`]; nothing has changed then.
    pub fn reload(&self, config: &Config, before: Option<&Config>) -> Result<(), String> {
        let old = self.lines.load();
        let client_before = |route: &Route| Some(old.get(&route.name)?.client());
        let only_routes = before.filter(|before| limits_alike(before, config)).and_then(|before| {
            let (gone, come) = config.changed(before);
            Some((gone, come, self.clients.for_changed(gone, come, client_before)?))
        });
        let (gone, come, clients) = match only_routes {
            Some(changed) => changed,
            None => (before.map_or(&[][..], |before| &before.routes), config.routes.as_slice(), self.clients_of_all(config, &old)?),
        };
        self.pool.set_max(config.forward.workers);
        self.gate.set_workers(config.forward.workers);
        let mut new: Vec<(&str, Arc<Line>)> = Vec::new();
        for (route, client) in come.iter().zip(clients) {
            let settings = settings(route, config);
            match old.get(&route.name) {
                Some(line) => line.configure(settings, client),
                None => new.push((&route.name, Line::new(&self.gate, &route.name, settings, client))),
            }
        }
        self.answers().forget();
        let stay: HashSet<&str> = come.iter().map(|route| route.name.as_str()).collect();
        let gone: HashSet<&str> = gone.iter().map(|route| route.name.as_str()).filter(|name| !stay.contains(name)).collect();
        if !gone.is_empty() || !new.is_empty() {
            let mut lines = HashMap::clone(&old);
            gone.iter().for_each(|name| drop(lines.remove(*name)));
            lines.extend(new.into_iter().map(|(name, line)| (name.to_owned(), line)));
            self.stats.drop_routes(&gone);
            self.lines.store(Arc::new(lines));
        }
        self.scanners.reload(&config.routes, config.forward.breaker);
        self.stats.forwarders.workers.set(u64::try_from(config.forward.workers).unwrap_or(u64::MAX));
        Ok(())
    }

    fn clients_of_all(&self, config: &Config, old: &HashMap<String, Arc<Line>>) -> Result<Vec<Arc<Client>>, String> {
        let before = |route: &Route| Some(old.get(&route.name)?.client());
        let clients = self.clients.for_routes(&config.routes, config.forward.proxy.as_ref(), before);
        let kept = |(client, route): (Result<Arc<Client>, String>, &Arc<Route>)| match (client, old.get(&route.name)) {
            (Ok(client), _) => Ok(client),
            // What a route trusts is gone or broken now: that is no reason for others to go without their reload.
            (Err(error), Some(line)) => {
                tracing::error!("what was trusted before stays: {error}");
                Ok(line.client())
            }
            (Err(error), None) => Err(error),
        };
        clients.into_iter().zip(&config.routes).map(kept).collect()
    }

    /// Looks at the files of client certificates: renewed ones are in use from now on. Says which, and when each ends (seconds since 1970).
    pub fn watch(&self) -> Vec<(String, i64)> {
        self.clients.watch()
    }

    /// Takes the job to its endpoint; on a ring. The body is freed when this returns.
    ///
    /// # Errors
    /// Why the job was not taken: nothing was asked.
    pub async fn forward(&self, mut job: Job) -> Result<Completed, Refused> {
        let mut found = Found::default();
        if job.route.scan.is_some() || job.route.verify != Verify::default() {
            // What would be told "later" now is told so before anybody is asked for it.
            self.open(&job.route, job.octets())?;
            let received = job.received;
            let mut aborted = self.aborted.subscribe();
            let spf = job.spf.take();
            // Boxed: the others need no room for it.
            let asked = Box::pin(async { tokio::join!(prepare::facts(&job, spf, &self.verifier, &self.pool), self.scan(&job)) });
            let (facts, spam) = tokio::select! {
                found = asked => found,
                _ = aborted.wait_for(|aborted| *aborted) => {
                    let answer = Err(NoAnswer::Broken(STOPPING.to_owned()));
                    return Ok(Completed { answer, queue_us: micros(Instant::now(), received), forward_us: None });
                }
            };
            found = Found { facts: facts?, spam };
        }
        let place = self.enter(&job)?;
        self.go(job, found, place).await
    }

    async fn scan(&self, job: &Job) -> Option<Value> {
        job.route.scan.as_ref()?;
        let client = self.lines.load().get(&job.route.name)?.client();
        self.scanners.ask(&client, job, &self.stats.scans).await
    }

    /// Would a message for this route be taken now? The share of the memory that it would count in; none where a reload took the route away.
    ///
    /// # Errors
    /// What it would be told.
    pub fn open(&self, route: &Route, octets: u64) -> Result<Option<Arc<Share>>, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        self.lines.load().get(&route.name).map(|line| line.open(octets)).transpose()
    }

    pub(super) fn enter(&self, job: &Job) -> Result<Place, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        // A route that a reload has just taken away: the sender's next attempt meets the new configuration.
        self.lines.load().get(&job.route.name).ok_or(Refused::Draining)?.enter(job.deadline(), job.octets())
    }

    pub(super) async fn go(&self, job: Job, found: Found, place: Place) -> Result<Completed, Refused> {
        let received = job.received;
        let mut begun = None;
        let mut aborted = self.aborted.subscribe();
        let answer = tokio::select! {
            answer = self.ask(job, found, place, &mut begun) => answer?,
            // Dropped, the exchange ends its connection.
            _ = aborted.wait_for(|aborted| *aborted) => Err(NoAnswer::Broken(STOPPING.to_owned())),
        };
        let now = Instant::now();
        let forward_us = begun.map(|begun| micros(now, begun));
        Ok(Completed { answer, queue_us: micros(begun.unwrap_or(now), received), forward_us })
    }

    async fn ask(&self, job: Job, found: Found, place: Place, begun: &mut Option<Instant>) -> Result<Result<Response, NoAnswer>, Refused> {
        let deadline = job.deadline();
        let mut permit = match place {
            Place::Permit(permit) => permit,
            Place::Queue(queued) => queued.permit(deadline).await?,
        };
        let granted = Instant::now();
        let (route, target, place, webhook_id) =
            (Arc::clone(&job.route), Arc::clone(&job.target), job.place.clone(), job.webhook_id.clone());
        let envelope = Arc::clone(&job.envelope);
        let prepared = match prepare::prepare(job, found, &envelope, &self.verifier, &self.pool).await {
            Ok(prepared) => prepared,
            Err(Unprepared::Refused(refused)) => return Err(refused),
            Err(Unprepared::NoAnswer(none)) => return Ok(Err(none)),
        };
        if !permit.still_in_time(deadline) {
            return Err(Refused::TooLate);
        }
        *begun = Some(granted);
        let client = permit.client();
        let asked = Instant::now();
        let mut waited = Duration::ZERO;
        // Boxed, as the call in it is.
        let goes = Goes { route: &route, target: &target, place: place.as_deref() };
        let answer = Box::pin(exchange::ask(&client, goes, prepared, &webhook_id, deadline, &mut waited)).await;
        permit.came(came(&answer, asked, waited, deadline), answer.as_ref().err());
        Ok(answer)
    }

    /// Asks the route's `authorize_url`, or knows what it said lately; takes no forwarder. With too many questions open the answer is not known.
    pub async fn authorize(&self, route: &Route, target: &Target, question: &Authorization) -> Authorized {
        let key = (route.name.clone(), question.from.clone(), question.to.clone());
        let generation = {
            let answers = self.answers();
            if let Some(known) = answers.get(&key, Instant::now()) {
                return known;
            }
            answers.generation
        };
        let open = self.lines.load().get(&route.name).and_then(Question::open);
        let Some(open) = open else { return Authorized::Unknown };
        let (answer, age) = open.ask(route, target, question).await;
        if let Some(age) = age.filter(|_| answer != Authorized::Unknown) {
            self.answers().keep(key, answer.clone(), age, generation, Instant::now());
        }
        answer
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What a lane is to know of an answer, or of there being none.
fn came(answer: &Result<Response, NoAnswer>, asked: Instant, waited: Duration, deadline: Instant) -> Came {
    let now = Instant::now();
    match answer {
        Ok(response) => {
            let pause = response.retry_after.as_deref().filter(|_| matches!(response.status, 429 | 503));
            // A date that is over asks for nothing.
            let long = pause.and_then(|value| retry_after::wait(value, jiff::Timestamp::now())).filter(|long| !long.is_zero());
            let says = match (long, response.status) {
                (Some(long), _) => Says::Pause(long),
                (None, 429 | 503) => Says::TooMuch,
                (None, _) => Says::Well,
            };
            Came::Answer { took: now.saturating_duration_since(asked), waited, says }
        }
        Err(NoAnswer::Broken(_)) if now >= deadline => Came::TooLate,
        Err(_) => Came::Nothing,
    }
}

/// What all lines have of the configuration is as it was.
fn limits_alike(before: &Config, config: &Config) -> bool {
    let limits = |config: &Config| (config.forward.workers, config.forward.queue, config.forward.breaker, config.routes.len() > 1);
    limits(before) == limits(config) && before.forward.proxy == config.forward.proxy
}

/// While other routes are configured one holds half of the forwarders at most.
fn settings(route: &Route, config: &Config) -> Settings {
    let workers = config.forward.workers;
    let most = if config.routes.len() > 1 { (workers / 2).max(1) } else { workers };
    Settings {
        timeout: route.timeout,
        most: if route.max_concurrency == 0 { most } else { route.max_concurrency.min(most) },
        adaptive: route.adaptive,
        queue: config.forward.queue,
        breaker: config.forward.breaker,
    }
}

fn micros(end: Instant, start: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
