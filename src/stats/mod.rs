//! Counters, gauges and HDR histograms. Recording is an atomic add or a thread's own histogram; reading never holds up mail.
//! Nothing here fails or logs.

mod certificates;
mod counters;
mod fleet;
pub mod hdr;
mod hdr_text;
mod histogram;
mod notices;
mod openmetrics;
mod pulse;
mod ready;
mod refusals;
mod series;
mod snapshot;

pub use certificates::Certificates;
pub use counters::{
    Away, BreakerState, Connections, Counter, ForwarderGauges, Gauge, Messages, Recipients, RouteStats, Scans, StoreGauges, TlsFailure,
    TlsFailures,
};
pub use fleet::{Sink, Sinks};
pub use hdr::{Minute, Minutes};
pub use hdr_text::hgrm;
pub use histogram::{Durations, Recorder, Stage, Window};
pub use notices::{Notice, Notices};
pub use openmetrics::{CONTENT_TYPE as OPENMETRICS, Process};
pub use pulse::{BEAT_EVERY, Pulse, Pulses};
pub use ready::{Readiness, Ready};
pub use refusals::{Refusal, Refusals, Row as RefusalRow};
pub use snapshot::histogram_json;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// An endpoint that takes more than half of its timeout.
pub struct TooSlow {
    pub route: String,
    /// Of the last minute.
    pub p50_us: u64,
    pub timeout_us: u64,
}

/// Everything that is counted, for one daemon.
pub struct Stats {
    pub started: Instant,
    pub connections: Connections,
    pub recipients: Recipients,
    pub messages: Messages,
    pub refusals: Refusals,
    pub tls_failures: TlsFailures,
    pub scans: Scans,
    pub bytes_received: Counter,
    pub forwarders: ForwarderGauges,
    pub store: StoreGauges,
    pub fleet: Sinks,
    /// Latency that waits to be brought to the fleet.
    pub minutes: Minutes,
    /// Set by `admin` from the budget, on reading.
    pub body_bytes: Gauge,
    pub body_budget_bytes: Gauge,
    /// Set by `daemon`.
    pub log_lines_lost: Gauge,
    /// Set by `daemon`.
    pub ready: Arc<Ready>,
    /// The rings' heartbeats.
    pub pulses: Pulses,
    pub certificates: Certificates,
    pub notices: Notices,
    routes: Mutex<BTreeMap<String, Arc<RouteStats>>>,
    latency: histogram::Latency,
    series: Mutex<series::Series>,
}

impl Stats {
    #[must_use]
    pub fn new() -> Arc<Self> {
        let started = Instant::now();
        Arc::new(Self {
            started,
            connections: Connections::default(),
            recipients: Recipients::default(),
            messages: Messages::default(),
            refusals: Refusals::default(),
            tls_failures: TlsFailures::default(),
            scans: Scans::default(),
            bytes_received: Counter::default(),
            forwarders: ForwarderGauges::default(),
            store: StoreGauges::default(),
            fleet: Sinks::default(),
            minutes: Minutes::default(),
            body_bytes: Gauge::default(),
            body_budget_bytes: Gauge::default(),
            log_lines_lost: Gauge::default(),
            ready: Arc::default(),
            pulses: Pulses::default(),
            certificates: Certificates::default(),
            notices: Notices::default(),
            routes: Mutex::default(),
            latency: histogram::Latency::new(started),
            series: Mutex::default(),
        })
    }

    /// The counters of a route; made at its first use (start and reload, not per message).
    pub fn route(&self, name: &str) -> Arc<RouteStats> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(name.to_owned()).or_default())
    }

    /// Routes that a reload took away are no longer shown.
    pub fn drop_routes(&self, gone: &HashSet<&str>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        gone.iter().for_each(|name| drop(routes.remove(*name)));
        drop(routes);
        self.latency.drop_routes(gone);
    }

    /// A thread's own recorder of durations.
    pub fn recorder(self: &Arc<Self>) -> Recorder {
        self.latency.recorder()
    }

    /// Takes in what all threads recorded. Every reader does it first; the admin thread also each second, so that slots and
    /// minutes end in time when nobody reads.
    pub fn collect(&self) {
        self.collect_at(Instant::now());
    }

    fn collect_at(&self, now: Instant) {
        self.latency.collect(now, |minute, stages| {
            let counted = series::Counted::read(&self.connections, &self.messages, &self.bytes_received);
            self.series.lock().unwrap_or_else(PoisonError::into_inner).minute(minute, counted, stages);
            let now = jiff::Timestamp::now();
            let end = jiff::Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap_or(now);
            for (stage, durations) in Stage::ALL.into_iter().zip(stages) {
                self.minutes.push(end, stage.name(), durations);
            }
        });
    }

    /// One stage over one window.
    #[must_use]
    pub fn histogram(&self, stage: Stage, window: Window) -> Durations<u64> {
        self.collect();
        self.latency.stage(stage, window)
    }

    /// One stage of one route. `None`: not of this stage, or of no such route.
    #[must_use]
    pub fn route_histogram(&self, route: &str, stage: Stage, window: Window) -> Option<Durations<u64>> {
        self.collect();
        let is_known = self.routes.lock().unwrap_or_else(PoisonError::into_inner).contains_key(route);
        self.latency.route(route, stage, window).filter(|_| is_known)
    }

    /// The last hour, a point per minute.
    #[must_use]
    pub fn series_json(&self) -> serde_json::Value {
        self.collect();
        let minutes_up = self.started.elapsed().as_secs() / 60;
        self.series.lock().unwrap_or_else(PoisonError::into_inner).json(minutes_up)
    }

    /// Where endpoints took longest since the start, the slowest first: five routes at the most.
    #[must_use]
    pub fn slowest_routes(&self) -> Vec<serde_json::Value> {
        self.collect();
        let durations =
            |(name, _): (String, Arc<RouteStats>)| Some((self.latency.route(&name, Stage::Forward, Window::Total)?.histogram, name));
        let mut routes: Vec<_> =
            self.routes_asked().into_iter().filter_map(durations).filter(|(histogram, _)| !histogram.is_empty()).collect();
        routes.sort_by_key(|(histogram, _)| std::cmp::Reverse(histogram.value_at_quantile(0.99)));
        let too_slow: Vec<String> = self.too_slow().into_iter().map(|slow| slow.route).collect();
        let row = |(histogram, name): (hdrhistogram::Histogram<u64>, String)| {
            let [p50, p99] = [0.5, 0.99].map(|quantile| histogram.value_at_quantile(quantile));
            serde_json::json!({
                "route": name, "count": histogram.len(), "p50_us": p50, "p99_us": p99, "max_us": histogram.max(),
                "timeout_us": self.route(&name).timeout_us.get(), "over_half": too_slow.contains(&name),
            })
        };
        routes.into_iter().take(5).map(row).collect()
    }

    /// How long a route's endpoint took in the last minute, as of the last collection.
    #[must_use]
    pub fn forward_of(&self, route: &str) -> Durations<u64> {
        self.latency.route(route, Stage::Forward, Window::Minute).unwrap_or_default()
    }

    /// Routes whose endpoint has lately been taking more than half of its timeout: at overload it gets less than it could do, as what is
    /// begun is hardly known when it is too late.
    #[must_use]
    pub fn too_slow(&self) -> Vec<TooSlow> {
        /// Fewer say nothing.
        const LEAST: u64 = 3;
        let slow = |(route, stats): (String, Arc<RouteStats>)| {
            let durations = self.forward_of(&route).histogram;
            let (p50_us, timeout_us) = (durations.value_at_quantile(0.5), stats.timeout_us.get());
            (durations.len() >= LEAST && timeout_us > 0 && p50_us > timeout_us / 2).then_some(TooSlow { route, p50_us, timeout_us })
        };
        self.routes_asked().into_iter().filter_map(slow).collect()
    }

    /// Those whose endpoints were asked, of the routes that durations are kept of.
    fn routes_asked(&self) -> Vec<(String, Arc<RouteStats>)> {
        let asked = self.latency.routes_of(Stage::Forward);
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        asked.into_iter().filter_map(|name| routes.get(&name).map(Arc::clone).map(|stats| (name, stats))).collect()
    }

    /// How many routes get no answer, and how many there are.
    pub fn routes_away(&self) -> (usize, usize) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        (routes.values().filter(|route| route.breaker().is_away()).count(), routes.len())
    }

    /// All routes by name.
    fn routes(&self) -> Vec<(String, Arc<RouteStats>)> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(name, route)| (name.clone(), Arc::clone(route))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_endpoint_that_takes_most_of_its_timeout() {
        let stats = Stats::new();
        for (route, us) in [("slow", 600_000), ("quick", 400_000), ("rare", 900_000)] {
            stats.route(route).timeout_us.set(1_000_000);
            for _ in 0..if route == "rare" { 2 } else { 5 } {
                stats.recorder().record_of(route, Stage::Forward, us);
            }
        }
        stats.collect();
        let slow: Vec<_> = stats.too_slow().into_iter().map(|slow| slow.route).collect();
        assert_eq!(slow, ["slow"]);
        let rows = stats.slowest_routes();
        let over = |name: &str| rows.iter().find(|row| row["route"] == name).map(|row| row["over_half"].clone());
        assert_eq!((over("slow"), over("quick")), (Some(true.into()), Some(false.into())));
    }

    #[test]
    fn the_hour_is_bounded_and_counts_each_minute_once() {
        let stats = Stats::new();
        let recorder = stats.recorder();
        for second in 0..=(90 * 60) {
            stats.messages.delivered.add(2);
            stats.bytes_received.add(100);
            recorder.record(Stage::Total, 1500);
            stats.collect_at(stats.started + Duration::from_secs(second));
        }
        let series = stats.series_json();
        let points = series["points"].as_array().unwrap();
        assert_eq!(points.len(), 60);
        for point in points {
            assert_eq!(point["delivered"], 120);
            assert_eq!(point["bytes"], 6000);
            assert_eq!(point["latency"]["total"]["p99_us"], 1500);
            assert_eq!(point["latency"]["store"]["p50_us"], 0);
        }
    }
}
