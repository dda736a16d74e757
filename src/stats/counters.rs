//! Counters and gauges: plain atomics, grouped as `/stats` shows them. Nothing here fails or logs.

use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
    /// Refused before there was a record; those with one are among the outcomes.
    pub unrecorded: Counter,
}

impl Messages {
    /// The refusals with the names they have in `/stats` and `/metrics`, in the contract's order.
    pub fn refused(&self) -> [(&'static str, u64); 7] {
        [
            ("size", self.refused_size.get()),
            ("memory", self.refused_memory.get()),
            ("queue", self.refused_queue.get()),
            ("breaker", self.refused_breaker.get()),
            ("store", self.refused_store.get()),
            ("bare_newline", self.refused_bare_newline.get()),
            ("loop", self.refused_loop.get()),
        ]
    }
}

/// What came of asking Rspamd.
#[derive(Default)]
pub struct Scans {
    pub verdict: Counter,
    pub no_answer: Counter,
    /// An answer that is no verdict.
    pub unreadable: Counter,
    /// Its breaker was open.
    pub not_asked: Counter,
}

impl Scans {
    pub fn by_result(&self) -> [(&'static str, u64); 4] {
        [
            ("verdict", self.verdict.get()),
            ("no_answer", self.no_answer.get()),
            ("unreadable", self.unreadable.get()),
            ("not_asked", self.not_asked.get()),
        ]
    }
}

/// Why a TLS handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// No version that both sides know.
    Version,
    /// No cipher suite, group or signature scheme that both sides know.
    NothingShared,
    /// The client did not take our certificate.
    Certificate,
    /// The client gave up with another alert.
    Alert,
    /// What came is no TLS.
    NotTls,
    /// The client left.
    BrokenOff,
    Timeout,
    Other,
}

impl TlsFailure {
    pub const ALL: [Self; 8] =
        [Self::Version, Self::NothingShared, Self::Certificate, Self::Alert, Self::NotTls, Self::BrokenOff, Self::Timeout, Self::Other];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::NothingShared => "nothing_shared",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::NotTls => "not_tls",
            Self::BrokenOff => "broken_off",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

#[derive(Default)]
pub struct TlsFailures([Counter; TlsFailure::ALL.len()]);

impl TlsFailures {
    pub fn count(&self, failure: TlsFailure) {
        if let Some(counter) = self.0.get(failure as usize) {
            counter.add(1);
        }
    }

    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TlsFailure::ALL.into_iter().zip(&self.0).map(|(failure, counter)| (failure.name(), counter.get()))
    }
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
    /// How long the disk has been keeping it waiting. Set on reading.
    pub wait_us: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BreakerState {
    #[default]
    Closed,
    HalfOpen,
    Open,
    /// As the endpoint asked for itself.
    Paused,
}

impl BreakerState {
    pub const ALL: [Self; 4] = [Self::Closed, Self::HalfOpen, Self::Open, Self::Paused];

    /// It gives no answer.
    #[must_use]
    pub fn is_away(self) -> bool {
        matches!(self, Self::HalfOpen | Self::Open)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
            Self::Paused => "paused",
        }
    }
}

/// One route's; lives over reloads by the route's name.
#[derive(Default)]
pub struct RouteStats {
    pub delivered: Counter,
    pub rejected: Counter,
    pub deferred: Counter,
    pub busy: Gauge,
    pub queued: Gauge,
    /// How many it may ask at once, now.
    pub limit: Gauge,
    /// Of the route, microseconds.
    pub timeout_us: Gauge,
    breaker: AtomicU64,
    away: ArcSwapOption<Away>,
}

/// An endpoint that is not asked.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    pub since: jiff::Timestamp,
    /// `None`: somebody asks it now.
    pub next_try: Option<Instant>,
}

impl RouteStats {
    /// `next_try`: when its endpoint is asked again.
    pub fn set_breaker(&self, state: BreakerState, next_try: Option<Instant>) {
        let before = self.breaker.swap(state as u64, Ordering::Relaxed);
        if state != BreakerState::Closed {
            let since = self.away().map_or_else(jiff::Timestamp::now, |away| away.since);
            self.away.store(Some(Arc::new(Away { since, next_try })));
        } else if before != BreakerState::Closed as u64 {
            // Nothing to write for each message while all is well.
            self.away.store(None);
        }
    }
    pub fn away(&self) -> Option<Away> {
        self.away.load().as_deref().copied()
    }
    pub fn breaker(&self) -> BreakerState {
        match self.breaker.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::HalfOpen,
            2 => BreakerState::Open,
            _ => BreakerState::Paused,
        }
    }
}
