//! The JSON of `/stats`: the contract's names, nesting and order. Reads atomics and copies of histograms; nothing fails.

use super::{Durations, Stage, Stats, Window};
use serde_json::{Map, Value, json};

impl Stats {
    /// The whole of `GET /stats`.
    #[must_use]
    pub fn snapshot(&self) -> Value {
        self.collect();
        let routes = self.routes().into_iter().map(|(name, route)| {
            let forward = self.forward_of(&name).histogram;
            let value = json!({
                "delivered": route.delivered.get(),
                "rejected": route.rejected.get(),
                "deferred": route.deferred.get(),
                "busy": route.busy.get(),
                "queued": route.queued.get(),
                "breaker": route.breaker().name(),
                "forward": { "p50_us": forward.value_at_quantile(0.5), "p99_us": forward.value_at_quantile(0.99) },
            });
            (name, value)
        });
        let refused: Map<String, Value> = self.messages.refused().into_iter().map(|(reason, n)| (reason.to_owned(), n.into())).collect();
        let latency: Map<String, Value> = Stage::ALL.into_iter().map(|stage| (stage.name().to_owned(), self.stage_json(stage))).collect();
        let mut snapshot = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "connections": {
                "open": self.connections.open.get(),
                "accepted": self.connections.accepted.get(),
                "refused": {
                    "total_limit": self.connections.refused_total_limit.get(),
                    "per_ip_limit": self.connections.refused_per_ip_limit.get(),
                },
            },
            "recipients": {
                "accepted": self.recipients.accepted.get(),
                "refused": {
                    "no_route": self.recipients.refused_no_route.get(),
                    "other_route": self.recipients.refused_other_route.get(),
                    "authorization": self.recipients.refused_authorization.get(),
                },
            },
            "messages": {
                "delivered": self.messages.delivered.get(),
                "rejected": self.messages.rejected.get(),
                "deferred": self.messages.deferred.get(),
                "undelivered": self.messages.undelivered.get(),
                "replies_lost": self.messages.replies_lost.get(),
                "refused": refused,
            },
            "bytes_received": self.bytes_received.get(),
            "forwarders": {
                "workers": self.forwarders.workers.get(),
                "started": self.forwarders.started.get(),
                "busy": self.forwarders.busy.get(),
                "queued": self.forwarders.queued.get(),
            },
            "routes": routes.collect::<Map<String, Value>>(),
            "memory": {
                "body_bytes": self.body_bytes.get(),
                "body_budget_bytes": self.body_budget_bytes.get(),
            },
            "store": {
                "records": self.store.records.get(),
                "file_bytes": self.store.file_bytes.get(),
                "commits": self.store.commits.get(),
                "degraded": self.store.degraded.get() != 0,
            },
            "latency": latency,
        });
        // Only of a box that has a fleet.
        let sinks = self.fleet.all();
        if let Some(snapshot) = snapshot.as_object_mut().filter(|_| !sinks.is_empty()) {
            let each =
                sinks.iter().map(|(name, sink)| ((*name).to_owned(), json!({ "up": sink.up, "behind": sink.behind, "lost": sink.lost })));
            snapshot.insert("fleet".to_owned(), Value::Object(each.collect()));
        }
        snapshot
    }

    fn stage_json(&self, stage: Stage) -> Value {
        json!({
            "1m": window_json(&self.latency.stage(stage, Window::Minute)),
            "total": window_json(&self.latency.stage(stage, Window::Total)),
        })
    }
}

/// The percentiles a plot needs and every counted value.
#[must_use]
pub fn histogram_json(stage: Stage, window: Window, durations: &Durations<u64>) -> Value {
    let histogram = &durations.histogram;
    let percentiles: Vec<Value> = super::hdr_text::percentiles(histogram)
        .into_iter()
        .map(|step| json!({ "percentile": step.percentile, "value_us": step.value, "count": step.count }))
        .collect();
    let counts: Vec<Value> = histogram
        .iter_recorded()
        .map(|step| json!([histogram.median_equivalent(step.value_iterated_to()), step.count_at_value()]))
        .collect();
    let mut value = json!({ "stage": stage.name(), "window": window.name(), "unit": "us", "significant_digits": histogram.sigfig() });
    if let (Value::Object(value), Value::Object(summary)) = (&mut value, window_json(durations)) {
        value.extend(summary);
        value.insert("min_us".into(), histogram.min().into());
        value.insert("stdev_us".into(), round(histogram.stdev()).into());
        value.insert("percentiles".into(), percentiles.into());
        value.insert("counts".into(), counts.into());
    }
    value
}

/// The seven numbers of one window.
fn window_json(durations: &Durations<u64>) -> Value {
    let histogram = &durations.histogram;
    json!({
        "count": histogram.len(),
        "mean_us": round(durations.mean_us()),
        "p50_us": histogram.value_at_quantile(0.5),
        "p90_us": histogram.value_at_quantile(0.9),
        "p99_us": histogram.value_at_quantile(0.99),
        "p999_us": histogram.value_at_quantile(0.999),
        "max_us": histogram.max(),
    })
}

/// To a tenth.
fn round(us: f64) -> f64 {
    (us * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in their order, depth first.
    fn shape(value: &Value, prefix: &str, into: &mut Vec<String>) {
        if let Value::Object(map) = value {
            for (key, value) in map {
                let path = format!("{prefix}{key}");
                into.push(path.clone());
                shape(value, &format!("{path}."), into);
            }
        }
    }

    #[test]
    fn the_shape_is_the_contracts() {
        let window =
            r#"{"count": 103, "mean_us": 1800.0, "p50_us": 1500, "p90_us": 2500, "p99_us": 6000, "p999_us": 9000, "max_us": 9100}"#;
        let stages: Vec<String> = ["total", "receive", "queue", "forward", "store", "tls_handshake", "session"]
            .iter()
            .map(|stage| format!(r#""{stage}": {{"1m": {window}, "total": {window}}}"#))
            .collect();
        let contract = format!(
            r#"{{ "version": "0.2.0", "uptime_seconds": 5.2,
            "connections": {{"open": 3, "accepted": 120, "refused": {{"total_limit": 0, "per_ip_limit": 0}}}},
            "recipients": {{"accepted": 110, "refused": {{"no_route": 1, "other_route": 0, "authorization": 0}}}},
            "messages": {{"delivered": 100, "rejected": 2, "deferred": 1, "undelivered": 0, "replies_lost": 0,
              "refused": {{"size": 0, "memory": 0, "queue": 0, "breaker": 0, "store": 0, "bare_newline": 0, "loop": 0}}}},
            "bytes_received": 123456,
            "forwarders": {{"workers": 512, "started": 8, "busy": 2, "queued": 0}},
            "routes": {{"tickets": {{"delivered": 100, "rejected": 2, "deferred": 1, "busy": 2, "queued": 0, "breaker": "closed",
              "forward": {{"p50_us": 1200, "p99_us": 5000}}}}}},
            "memory": {{"body_bytes": 0, "body_budget_bytes": 268435456}},
            "store": {{"records": 103, "file_bytes": 1589248, "commits": 40, "degraded": false}},
            "latency": {{ {} }} }}"#,
            stages.join(",")
        );
        let stats = Stats::new();
        stats.route("tickets").delivered.add(1);
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        shape(&serde_json::from_str(&contract).unwrap(), "", &mut expected);
        shape(&stats.snapshot(), "", &mut actual);
        assert_eq!(actual, expected);
    }

    #[test]
    fn what_was_recorded_is_read_at_once() {
        let stats = Stats::new();
        let recorder = stats.recorder();
        stats.route("tickets");
        for us in 1..=1000 {
            recorder.record(Stage::Total, us);
            recorder.record_of("tickets", Stage::Forward, us);
        }
        let snapshot = stats.snapshot();
        for window in ["1m", "total"] {
            let total = &snapshot["latency"]["total"][window];
            assert_eq!(total["count"], 1000);
            assert_eq!(total["mean_us"], 500.5);
            assert_eq!((&total["p50_us"], &total["p99_us"], &total["max_us"]), (&json!(500), &json!(990), &json!(1000)));
        }
        let p50 = snapshot["routes"]["tickets"]["forward"]["p50_us"].as_u64().unwrap();
        assert!((495..=505).contains(&p50), "{p50}");
        assert_eq!(snapshot["latency"]["store"]["1m"]["p99_us"], 0);
        let histogram = histogram_json(Stage::Total, Window::Minute, &stats.histogram(Stage::Total, Window::Minute));
        assert_eq!(histogram["counts"].as_array().unwrap().len(), 1000);
        assert_eq!(histogram["percentiles"].as_array().unwrap().last().unwrap()["value_us"], 1000);
    }
}
