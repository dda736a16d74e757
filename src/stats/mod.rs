//! Counters, gauges and HDR histograms. Recording is an atomic add or a thread's own histogram; reading never holds up mail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A number that only rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stage of the contract; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Total,
    Receive,
    Queue,
    Forward,
    Store,
    TlsHandshake,
    Session,
}

#[derive(Default)]
pub struct Connections {
    pub open: Gauge,
    pub accepted: Counter,
    pub refused_total_limit: Counter,
    pub refused_per_ip_limit: Counter,
}

#[derive(Default)]
pub struct Recipients {
    pub accepted: Counter,
    pub refused_no_route: Counter,
    pub refused_other_route: Counter,
    pub refused_authorization: Counter,
}

#[derive(Default)]
pub struct Messages {
    pub delivered: Counter,
    pub rejected: Counter,
    pub deferred: Counter,
    /// Set by the store.
    pub undelivered: Gauge,
    pub replies_lost: Counter,
    pub refused_size: Counter,
    pub refused_memory: Counter,
    pub refused_queue: Counter,
    pub refused_breaker: Counter,
    pub refused_store: Counter,
    pub refused_bare_newline: Counter,
    pub refused_loop: Counter,
}

/// Set by `forward`.
#[derive(Default)]
pub struct ForwarderGauges {
    pub workers: Gauge,
    pub started: Gauge,
    pub busy: Gauge,
    pub queued: Gauge,
}

/// Set by `store`.
#[derive(Default)]
pub struct StoreGauges {
    pub records: Gauge,
    pub file_bytes: Gauge,
    pub commits: Counter,
    pub degraded: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BreakerState {
    #[default]
    Closed,
    HalfOpen,
    Open,
}

/// One route's; lives over reloads by the route's name.
#[derive(Default)]
pub struct RouteStats {
    pub delivered: Counter,
    pub rejected: Counter,
    pub deferred: Counter,
    pub busy: Gauge,
    pub queued: Gauge,
    breaker: AtomicU64,
}

impl RouteStats {
    pub fn set_breaker(&self, state: BreakerState) {
        self.breaker.store(state as u64, Ordering::Relaxed);
    }
    pub fn breaker(&self) -> BreakerState {
        match self.breaker.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }
}

/// Everything that is counted, for one daemon.
pub struct Stats {
    pub started: std::time::Instant,
    pub connections: Connections,
    pub recipients: Recipients,
    pub messages: Messages,
    pub bytes_received: Counter,
    pub forwarders: ForwarderGauges,
    pub store: StoreGauges,
    /// Set by `daemon` from the budget, on reading.
    pub body_bytes: Gauge,
    pub body_budget_bytes: Gauge,
    routes: Mutex<BTreeMap<String, Arc<RouteStats>>>,
}

impl Stats {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: std::time::Instant::now(),
            connections: Connections::default(),
            recipients: Recipients::default(),
            messages: Messages::default(),
            bytes_received: Counter::default(),
            forwarders: ForwarderGauges::default(),
            store: StoreGauges::default(),
            body_bytes: Gauge::default(),
            body_budget_bytes: Gauge::default(),
            routes: Mutex::default(),
        })
    }
    /// The counters of a route; made at its first use (start and reload, not per message).
    pub fn route(&self, name: &str) -> Arc<RouteStats> {
        let mut routes = self.routes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(routes.entry(name.to_owned()).or_default())
    }
    /// A thread's own recorder of durations.
    pub fn recorder(self: &Arc<Self>) -> Recorder { todo!() }
}

/// Records durations for one thread; cheap, never waits for a reader.
pub struct Recorder { _todo: () }

impl Recorder {
    pub fn record(&self, _stage: Stage, _us: u64) { todo!() }
    /// The forward stage of one route as well.
    pub fn record_forward(&self, _route: &str, _us: u64) { todo!() }
}
