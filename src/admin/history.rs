//! What became of messages over time, by route: the last minute, the last hour by minutes, the last day by quarters of an hour. It is all in
//! the records, so a restart loses nothing of it, and mail does no work for it.
//!
//! Records are read when somebody asks, each once, in the order of their commits. A reading that takes long gives what it has, says that it is
//! not complete, and goes on with the next question. Bounded: 1 000 routes, the others count only among all; 163 points of some 60 octets each.
//! Logs nothing.

use crate::record::{Outcome, Record};
use crate::store::{Store, StoreError};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a record has durations of.
const STAGES: [&str; 4] = ["total", "queue", "forward", "store"];
/// For a plot.
const DIGITS: u8 = 2;
const ROUTES_MAX: usize = 1000;
const PAGE: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(2);
/// After so long without a question it is shorter to look for the first record than to read those in between.
const IDLE: i64 = 600;

/// A span of time, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) name: &'static str,
    pub(super) step: i64,
    pub(super) steps: i64,
}

const MINUTE: Span = Span { name: "minute", step: 10, steps: 6 };
pub(super) const HOUR: Span = Span { name: "hour", step: 60, steps: 60 };
pub(super) const DAY: Span = Span { name: "day", step: 900, steps: 96 };

impl Span {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [HOUR, DAY].into_iter().find(|span| span.name == name)
    }

    /// The step that a second lies in; the running one ends it.
    fn step_of(self, second: i64) -> i64 {
        second.div_euclid(self.step)
    }

    fn first_step(self, now: i64) -> i64 {
        self.step_of(now) - self.steps + 1
    }
}

/// Nothing is read before it is asked for: the hour and the day by themselves, so that the hour does not wait for the day.
pub(super) struct History {
    hour: Mutex<Track>,
    day: Mutex<Track>,
}

impl Default for History {
    fn default() -> Self {
        Self { hour: Mutex::new(Track::new(&[HOUR, MINUTE])), day: Mutex::new(Track::new(&[DAY])) }
    }
}

impl History {
    /// Oldest first; steps without mail are left out. Blocking.
    pub(super) fn points(&self, store: &Store, span: Span, route: Option<&str>) -> Result<(Vec<Value>, bool), StoreError> {
        let now = Timestamp::now().as_second();
        let mut track = self.track(span);
        let complete = track.read(store, now)?;
        Ok((track.line(route).and_then(|line| line.ring(span)).map(|ring| ring.points(now)).unwrap_or_default(), complete))
    }

    /// Of each route what became of its mail in the last minute and the last hour. Blocking.
    pub(super) fn sums(&self, store: &Store, routes: &[String]) -> Result<(Vec<[Counts; 2]>, bool), StoreError> {
        let now = Timestamp::now().as_second();
        let mut track = self.track(HOUR);
        let complete = track.read(store, now)?;
        let sum = |line: Option<&Line>, span| line.and_then(|line| line.ring(span)).map(|ring| ring.sum(now)).unwrap_or_default();
        let sums = routes.iter().map(|route| track.line(Some(route))).map(|line| [sum(line, MINUTE), sum(line, HOUR)]);
        Ok((sums.collect(), complete))
    }

    fn track(&self, span: Span) -> MutexGuard<'_, Track> {
        let track = if span == DAY { &self.day } else { &self.hour };
        track.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of some messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) deferred: u64,
    pub(super) rejected: u64,
    bytes: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome, bytes: u64) {
        match outcome {
            Outcome::Delivered => self.delivered += 1,
            Outcome::Deferred => self.deferred += 1,
            Outcome::Rejected => self.rejected += 1,
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn plus(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            deferred: self.deferred + other.deferred,
            rejected: self.rejected + other.rejected,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(super) fn json(self) -> Value {
        json!({ "delivered": self.delivered, "deferred": self.deferred, "rejected": self.rejected })
    }
}

/// A record as far as it counts here.
struct Seen {
    /// When it was answered: in the order of commits.
    second: i64,
    outcome: Outcome,
    bytes: u64,
    /// In the order of [`STAGES`]; 0 where there was none.
    us: [u64; STAGES.len()],
}

impl Seen {
    fn of(record: &Record) -> Self {
        let us = [record.processing_time_us, record.queue_us, record.forward_us, record.store_us];
        Self { second: answered(record), outcome: record.outcome, bytes: record.size, us }
    }
}

fn answered(record: &Record) -> i64 {
    let took = i64::try_from(record.processing_time_us).unwrap_or(0);
    record.date.as_microsecond().saturating_add(took).div_euclid(1_000_000)
}

/// Records up to a number, over one or more spans.
struct Track {
    spans: &'static [Span],
    number: u64,
    asked: i64,
    all: Line,
    routes: HashMap<String, Line>,
}

impl Track {
    fn new(spans: &'static [Span]) -> Self {
        Self { spans, number: 0, asked: i64::MIN, all: Line::new(spans), routes: HashMap::new() }
    }

    fn line(&self, route: Option<&str>) -> Option<&Line> {
        route.map_or(Some(&self.all), |route| self.routes.get(route))
    }

    /// Takes in what has been recorded since; false: there is more.
    fn read(&mut self, store: &Store, now: i64) -> Result<bool, StoreError> {
        let begun = Instant::now();
        let since = self.spans.iter().map(|span| span.first_step(now) * span.step).min().unwrap_or(now);
        if now.saturating_sub(self.asked) > IDLE {
            self.number = first_since(store, self.number, since)?;
        }
        self.asked = now;
        loop {
            let page = store.records_after(self.number, PAGE)?;
            let Some(last) = page.last() else { break };
            self.number = last.number;
            for committed in page.iter().filter(|committed| answered(&committed.record) >= since) {
                self.take(&committed.record);
            }
            if begun.elapsed() > PATIENCE {
                return Ok(false);
            }
        }
        self.all.expire(now);
        self.routes.retain(|_, line| line.expire(now));
        Ok(true)
    }

    fn take(&mut self, record: &Record) {
        let seen = Seen::of(record);
        self.all.take(&seen);
        if let Some(line) = self.routes.get_mut(&record.route) {
            line.take(&seen);
        } else if self.routes.len() < ROUTES_MAX {
            let mut line = Line::new(self.spans);
            line.take(&seen);
            self.routes.insert(record.route.clone(), line);
        }
    }
}

/// The number behind which records were answered since then. Numbers and times rise together.
fn first_since(store: &Store, mut low: u64, since: i64) -> Result<u64, StoreError> {
    let mut high = store.newest();
    while low < high {
        let middle = low + (high - low) / 2;
        match store.records_after(middle, 1)?.first() {
            Some(next) if answered(&next.record) < since => low = next.number,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

/// One route's, or all of them together.
struct Line(Vec<Ring>);

impl Line {
    fn new(spans: &[Span]) -> Self {
        Self(spans.iter().map(|span| Ring { span: *span, ended: BTreeMap::new(), running: None }).collect())
    }

    fn ring(&self, span: Span) -> Option<&Ring> {
        self.0.iter().find(|ring| ring.span == span)
    }

    fn take(&mut self, seen: &Seen) {
        self.0.iter_mut().for_each(|ring| ring.take(seen));
    }

    /// Whether anything is left.
    fn expire(&mut self, now: i64) -> bool {
        // Of each, also behind one that has something left.
        self.0.iter_mut().filter_map(|ring| ring.expire(now).then_some(())).count() > 0
    }
}

/// A step that is over: p50 and p99 of each stage.
struct Point {
    counts: Counts,
    us: [(u64, u64); STAGES.len()],
}

/// The step that records come into.
struct Running {
    counts: Counts,
    us: [Histogram<u32>; STAGES.len()],
}

impl Running {
    fn point(&self) -> Point {
        let quantiles = |histogram: &Histogram<u32>| (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
        Point { counts: self.counts, us: self.us.each_ref().map(quantiles) }
    }
}

struct Ring {
    span: Span,
    ended: BTreeMap<i64, Point>,
    running: Option<(i64, Box<Running>)>,
}

impl Ring {
    fn take(&mut self, seen: &Seen) {
        let step = self.span.step_of(seen.second);
        if let Some((running, _)) = &self.running
            && step < *running
            && let Some(point) = self.ended.get_mut(&step)
        {
            // Committed behind one that was answered later.
            point.counts.add(seen.outcome, seen.bytes);
            return;
        }
        if self.running.as_ref().is_some_and(|(running, _)| step > *running) {
            self.end();
        }
        let (_, running) = self.running.get_or_insert_with(|| (step, Box::new(Running { counts: Counts::default(), us: histograms() })));
        running.counts.add(seen.outcome, seen.bytes);
        for (histogram, us) in running.us.iter_mut().zip(seen.us).filter(|(_, us)| *us > 0) {
            // It grows with what it is given.
            histogram.record(us).unwrap_or(());
        }
    }

    fn end(&mut self) {
        if let Some((step, running)) = self.running.take() {
            self.ended.insert(step, running.point());
        }
    }

    fn expire(&mut self, now: i64) -> bool {
        if self.running.as_ref().is_some_and(|(step, _)| *step < self.span.step_of(now)) {
            self.end();
        }
        self.ended = self.ended.split_off(&self.span.first_step(now));
        !self.ended.is_empty() || self.running.is_some()
    }

    fn all(&self, now: i64) -> impl Iterator<Item = (i64, Point)> {
        let ended = self.ended.iter().map(|(step, point)| (*step, Point { ..*point }));
        let running = self.running.iter().map(|(step, running)| (*step, running.point()));
        ended.chain(running).filter(move |(step, _)| *step >= self.span.first_step(now))
    }

    fn sum(&self, now: i64) -> Counts {
        self.all(now).fold(Counts::default(), |sum, (_, point)| sum.plus(point.counts))
    }

    fn points(&self, now: i64) -> Vec<Value> {
        self.all(now).map(|(step, point)| point_json(self.span.step_of(now) - step, &point)).collect()
    }
}

fn point_json(age: i64, point: &Point) -> Value {
    let mut value = point.counts.json();
    if let Some(value) = value.as_object_mut() {
        let latency = STAGES.iter().zip(point.us).map(|(stage, (p50, p99))| ((*stage).to_owned(), json!({ "p50_us": p50, "p99_us": p99 })));
        value.insert("age".into(), age.into());
        value.insert("bytes".into(), point.counts.bytes.into());
        value.insert("latency".into(), latency.collect::<Map<String, Value>>().into());
    }
    value
}

#[expect(clippy::expect_used, reason = "constant digits; a wrong constant fails every test")]
fn histograms() -> [Histogram<u32>; STAGES.len()] {
    STAGES.map(|_| Histogram::new(DIGITS).expect("valid digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(second: i64, outcome: Outcome, us: u64) -> Seen {
        Seen { second, outcome, bytes: 10, us: [us, 1, us, 1] }
    }

    #[test]
    fn each_step_has_its_own_and_the_running_one_is_there() {
        let mut line = Line::new(&[HOUR, MINUTE]);
        for minute in 0..100 {
            for second in 0..60 {
                line.take(&seen(minute * 60 + second, Outcome::Delivered, 1000 + 10 * u64::try_from(minute).unwrap()));
            }
        }
        line.take(&seen(98 * 60, Outcome::Rejected, 5));
        let now = 99 * 60 + 59;
        assert!(line.expire(now));
        let hour = line.ring(HOUR).unwrap().points(now);
        assert_eq!(hour.len(), 60);
        assert_eq!((&hour[0]["age"], &hour[59]["age"], &hour[58]["rejected"]), (&59.into(), &0.into(), &1.into()));
        assert_eq!((&hour[59]["delivered"], &hour[59]["bytes"]), (&60.into(), &600.into()));
        let p99 = hour[59]["latency"]["total"]["p99_us"].as_u64().unwrap();
        assert!((1980..=2000).contains(&p99), "{p99}");
        assert_eq!(line.ring(HOUR).unwrap().sum(now), Counts { delivered: 3600, deferred: 0, rejected: 1, bytes: 36_010 });
        assert!(line.ring(MINUTE).unwrap().ended.len() <= 6);
        assert!(!line.expire(now + 7200));
        assert_eq!(line.ring(HOUR).unwrap().points(now + 7200).len(), 0);
    }

    #[test]
    fn what_was_not_asked_is_no_duration_of_its_endpoint() {
        let mut line = Line::new(&[HOUR]);
        line.take(&Seen { second: 0, outcome: Outcome::Deferred, bytes: 1, us: [50, 50, 0, 1] });
        line.take(&seen(1, Outcome::Delivered, 1000));
        let points = line.ring(HOUR).unwrap().points(1);
        assert_eq!(points[0]["latency"]["forward"]["p50_us"], points[0]["latency"]["forward"]["p99_us"]);
        assert!(points[0]["latency"]["forward"]["p50_us"].as_u64() >= Some(1000));
    }
}
