//! The last hour, a point per minute, in memory: what the page plots over time. Nothing here fails or logs.

use super::{Connections, Counter, Durations, Messages, Stage};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

const POINTS: usize = 60;

/// Counters at one moment; a point is the difference of two.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    connections: u64,
    delivered: u64,
    rejected: u64,
    deferred: u64,
    /// Messages without a record: each is counted once, and a recipient or a connection is none.
    refused: u64,
    bytes: u64,
}

impl Counted {
    pub(super) fn read(connections: &Connections, messages: &Messages, bytes: &Counter) -> Self {
        Self {
            connections: connections.accepted.get(),
            delivered: messages.delivered.get(),
            rejected: messages.rejected.get(),
            deferred: messages.deferred.get(),
            refused: messages.unrecorded.get(),
            bytes: bytes.get(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            delivered: self.delivered.saturating_sub(before.delivered),
            rejected: self.rejected.saturating_sub(before.rejected),
            deferred: self.deferred.saturating_sub(before.deferred),
            refused: self.refused.saturating_sub(before.refused),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

struct Point {
    /// Whole minutes since the start at which it ended.
    minute: u64,
    counted: Counted,
    /// p50 and p99 per stage, microseconds.
    latency: [(u64, u64); Stage::ALL.len()],
}

/// Bounded: 60 points of about 200 octets.
#[derive(Default)]
pub(super) struct Series {
    points: VecDeque<Point>,
    before: Counted,
}

impl Series {
    /// A minute ended; `stages` are its durations in the order of [`Stage::ALL`].
    pub(super) fn minute(&mut self, minute: u64, now: Counted, stages: &[Durations<u64>]) {
        let mut latency = [(0, 0); Stage::ALL.len()];
        for (point, stage) in latency.iter_mut().zip(stages) {
            *point = (stage.histogram.value_at_quantile(0.5), stage.histogram.value_at_quantile(0.99));
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point { minute, counted: now.since(self.before), latency });
        self.before = now;
    }

    /// Oldest first. `age_minutes` says how long ago each minute ended.
    pub(super) fn json(&self, minutes_up: u64) -> Value {
        let points: Vec<Value> = self.points.iter().map(|point| point_json(point, minutes_up)).collect();
        json!({ "step_seconds": 60, "points": points })
    }
}

fn point_json(point: &Point, minutes_up: u64) -> Value {
    let latency: Map<String, Value> = Stage::ALL
        .into_iter()
        .zip(&point.latency)
        .map(|(stage, (p50, p99))| (stage.name().to_owned(), json!({ "p50_us": p50, "p99_us": p99 })))
        .collect();
    json!({
        "age_minutes": minutes_up.saturating_sub(point.minute),
        "connections": point.counted.connections,
        "delivered": point.counted.delivered,
        "rejected": point.counted.rejected,
        "deferred": point.counted.deferred,
        "refused": point.counted.refused,
        "bytes": point.counted.bytes,
        "latency": latency,
    })
}
