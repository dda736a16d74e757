//! The text of `/metrics` in OpenMetrics 1.0: counters, gauges, and histograms whose buckets are computed from the HDR
//! histograms since the start. Nothing here fails or logs.

use super::histogram::ROUTES_MAX;
use super::{BreakerState, Durations, RouteStats, Stage, Stats, Window};
use std::fmt::Display;

/// The content type of this text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the buckets: microseconds, and the same in seconds as the text shows them. Dense where an endpoint on the
/// same network and an fsync lie, then up to the longest route timeout and beyond it for sessions.
const BUCKETS: [(u64, &str); 20] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_500_000, "2.5"),
    (5_000_000, "5.0"),
    (10_000_000, "10.0"),
    (30_000_000, "30.0"),
    (60_000_000, "60.0"),
    (300_000_000, "300.0"),
    (1_800_000_000, "1800.0"),
];

/// What the process itself uses, read by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub resident_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    pub start_unix_seconds: Option<f64>,
}

impl Stats {
    /// The whole of `GET /metrics`.
    #[must_use]
    pub fn openmetrics(&self, process: Process) -> String {
        self.collect();
        let mut text = Text(String::with_capacity(32 * 1024));
        text.family("mailsluice_build", "info", "", "Version of the running daemon.");
        text.line("mailsluice_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.gauge(
            "mailsluice_uptime_seconds",
            "seconds",
            "Time since the start.",
            format_args!("{:.1}", self.started.elapsed().as_secs_f64()),
        );
        self.traffic(&mut text);
        self.capacity(&mut text);
        self.fleet(&mut text);
        self.per_route(&mut text);
        self.durations(&mut text);
        process.write(&mut text);
        text.0.push_str("# EOF\n");
        text.0
    }

    fn traffic(&self, text: &mut Text) {
        text.gauge("mailsluice_connections_open", "", "SMTP connections open now.", self.connections.open.get());
        text.family("mailsluice_connections_accepted", "counter", "", "SMTP connections accepted.");
        text.line("mailsluice_connections_accepted_total", &[], self.connections.accepted.get());
        let refused =
            [("total_limit", self.connections.refused_total_limit.get()), ("per_ip_limit", self.connections.refused_per_ip_limit.get())];
        text.by_label("mailsluice_connections_refused", "SMTP connections refused at a limit (421).", "reason", &refused);
        text.family("mailsluice_recipients_accepted", "counter", "", "Recipients accepted.");
        text.line("mailsluice_recipients_accepted_total", &[], self.recipients.accepted.get());
        let refused = [
            ("no_route", self.recipients.refused_no_route.get()),
            ("other_route", self.recipients.refused_other_route.get()),
            ("authorization", self.recipients.refused_authorization.get()),
        ];
        text.by_label("mailsluice_recipients_refused", "Recipients refused.", "reason", &refused);
        let outcomes = [
            ("delivered", self.messages.delivered.get()),
            ("rejected", self.messages.rejected.get()),
            ("deferred", self.messages.deferred.get()),
        ];
        text.by_label("mailsluice_messages", "Messages answered, by outcome.", "outcome", &outcomes);
        text.by_label("mailsluice_messages_refused", "Messages refused before an endpoint was asked.", "reason", &self.messages.refused());
        text.family("mailsluice_refusals", "counter", "", "Replies that refuse, by their code.");
        for (code, n) in self.refusals.by_code() {
            text.line("mailsluice_refusals_total", &[("reply", &code.to_string())], n);
        }
        text.family("mailsluice_tls_failures", "counter", "", "TLS handshakes that came to nothing.");
        for (reason, n) in self.tls_failures.by_reason() {
            text.line("mailsluice_tls_failures_total", &[("reason", reason)], n);
        }
        text.by_label("mailsluice_scans", "What came of asking Rspamd for its verdict.", "result", &self.scans.by_result());
        text.family("mailsluice_replies_lost", "counter", "", "Replies that the client did not wait for.");
        text.line("mailsluice_replies_lost_total", &[], self.messages.replies_lost.get());
        text.gauge("mailsluice_messages_undelivered", "", "Messages in the log without a final answer.", self.messages.undelivered.get());
        text.family("mailsluice_received_bytes", "counter", "bytes", "Octets of messages received.");
        text.line("mailsluice_received_bytes_total", &[], self.bytes_received.get());
    }

    fn capacity(&self, text: &mut Text) {
        text.gauge("mailsluice_forwarders_workers", "", "Forwarders there may be.", self.forwarders.workers.get());
        text.gauge("mailsluice_forwarders_started", "", "Forwarders started.", self.forwarders.started.get());
        text.gauge("mailsluice_forwarders_busy", "", "Forwarders with a message.", self.forwarders.busy.get());
        text.gauge("mailsluice_forwarders_queued", "", "Messages waiting for a forwarder.", self.forwarders.queued.get());
        text.gauge("mailsluice_memory_body_bytes", "bytes", "Memory held by message bodies and rendered requests.", self.body_bytes.get());
        text.gauge("mailsluice_memory_body_budget_bytes", "bytes", "Limit of that memory.", self.body_budget_bytes.get());
        text.gauge("mailsluice_store_records", "", "Records in the store.", self.store.records.get());
        text.gauge("mailsluice_store_file_bytes", "bytes", "Size of the store's file.", self.store.file_bytes.get());
        text.family("mailsluice_store_commits", "counter", "", "Commits of the store, one fsync each.");
        text.line("mailsluice_store_commits_total", &[], self.store.commits.get());
        text.gauge("mailsluice_store_degraded", "", "1 while nothing can be recorded and mail is deferred.", self.store.degraded.get());
        #[expect(clippy::cast_precision_loss, reason = "seconds for a graph")]
        let wait_seconds = self.store.wait_us.get() as f64 / 1e6;
        let help = "How long the oldest record has been waiting for the disk.";
        text.gauge("mailsluice_store_wait_seconds", "seconds", help, format_args!("{wait_seconds:.6}"));
        text.family(
            "mailsluice_log_lines_lost",
            "counter",
            "",
            "Log lines that could not be written: nobody reads the log, or too slowly.",
        );
        text.line("mailsluice_log_lines_lost_total", &[], self.log_lines_lost.get());
        text.family(
            "mailsluice_tls_certificate_not_after_seconds",
            "gauge",
            "seconds",
            "When a certificate in use ends, in seconds since 1970.",
        );
        for (file, end) in self.certificates.not_after() {
            text.line("mailsluice_tls_certificate_not_after_seconds", &[("file", &file)], end);
        }
        text.family("mailsluice_tls_reload_failures", "counter", "", "Changed certificate files that could not be used.");
        text.line("mailsluice_tls_reload_failures_total", &[], self.certificates.reload_failures.get());
        text.gauge(
            "mailsluice_ready",
            "",
            "1 while mail is taken.",
            u8::from(self.ready.state().reason().is_none() && self.store.degraded.get() == 0),
        );
    }

    /// Only of a box that has a fleet.
    fn fleet(&self, text: &mut Text) {
        let sinks = self.fleet.all();
        if sinks.is_empty() {
            return;
        }
        let behind = sinks.iter().map(|(_, sink)| sink.behind).max().unwrap_or(0);
        text.gauge("mailsluice_fleet_behind_records", "", "Records that the sink which is furthest behind has not got yet.", behind);
        text.family("mailsluice_fleet_lost", "counter", "", "Records that went before a sink had them.");
        text.line("mailsluice_fleet_lost_total", &[], sinks.iter().map(|(_, sink)| sink.lost).sum::<u64>());
        text.family("mailsluice_fleet_up", "gauge", "", "1 while a sink takes records.");
        for (name, sink) in &sinks {
            text.line("mailsluice_fleet_up", &[("sink", name)], u8::from(sink.up));
        }
        if let Some(undelivered) = self.fleet.undelivered() {
            let help = "Messages without a final answer of any box; the same on all of them.";
            text.gauge("mailsluice_fleet_messages_undelivered", "", help, undelivered);
        }
    }

    fn per_route(&self, text: &mut Text) {
        let routes = self.routes();
        let (own, rest) = routes.split_at_checked(ROUTES_MAX).unwrap_or((&routes, &[]));
        let each = |text: &mut Text, write: &mut Write<'_>| {
            for (name, route) in own {
                write(text, name, &|of| of(route));
            }
            if !rest.is_empty() {
                write(text, "", &|of| rest.iter().map(|(_, route)| of(route)).sum());
            }
        };
        text.family("mailsluice_route_messages", "counter", "", "Messages answered, by route and outcome.");
        each(text, &mut |text, name, sum| {
            let outcomes: [(&str, &Figure<'_>); 3] = [
                ("delivered", &|route| route.delivered.get()),
                ("rejected", &|route| route.rejected.get()),
                ("deferred", &|route| route.deferred.get()),
            ];
            for (outcome, of) in outcomes {
                text.line("mailsluice_route_messages_total", &[("route", name), ("outcome", outcome)], sum(of));
            }
        });
        text.family("mailsluice_route_busy", "gauge", "", "Forwarders a route holds.");
        each(text, &mut |text, name, sum| text.line("mailsluice_route_busy", &[("route", name)], sum(&|route| route.busy.get())));
        text.family("mailsluice_route_queued", "gauge", "", "Messages waiting in a route's queue.");
        each(text, &mut |text, name, sum| text.line("mailsluice_route_queued", &[("route", name)], sum(&|route| route.queued.get())));
        text.family("mailsluice_route_breaker", "gauge", "", "1 for the state a route's breaker is in.");
        each(text, &mut |text, name, sum| {
            for state in BreakerState::ALL {
                let labels = [("route", name), ("state", state.name())];
                text.line("mailsluice_route_breaker", &labels, sum(&|route| u64::from(route.breaker() == state)));
            }
        });
    }

    fn durations(&self, text: &mut Text) {
        text.family("mailsluice_stage_duration_seconds", "histogram", "seconds", "Time a stage took.");
        for stage in Stage::ALL {
            let durations = self.latency.stage(stage, Window::Total);
            text.histogram("mailsluice_stage_duration_seconds", ("stage", stage.name()), &durations);
        }
        text.family("mailsluice_route_forward_duration_seconds", "histogram", "seconds", "Time an endpoint took, by route.");
        let routes = self.routes();
        let rest = (routes.len() > ROUTES_MAX).then_some("");
        for name in routes.iter().take(ROUTES_MAX).map(|(name, _)| name.as_str()).chain(rest) {
            if let Some(durations) = self.latency.route(name, Stage::Forward, Window::Total) {
                text.histogram("mailsluice_route_forward_duration_seconds", ("route", name), &durations);
            }
        }
    }
}

impl Process {
    fn write(self, text: &mut Text) {
        if let Some(bytes) = self.resident_bytes {
            text.gauge("process_resident_memory_bytes", "bytes", "Resident memory.", bytes);
        }
        if let Some(seconds) = self.cpu_seconds {
            text.family("process_cpu_seconds", "counter", "seconds", "User and system time.");
            text.line("process_cpu_seconds_total", &[], format_args!("{seconds:.3}"));
        }
        if let Some(fds) = self.open_fds {
            text.gauge("process_open_fds", "", "Open file descriptors.", fds);
        }
        if let Some(seconds) = self.start_unix_seconds {
            text.gauge("process_start_time_seconds", "seconds", "Start, seconds since 1970.", format_args!("{seconds:.3}"));
        }
    }
}

/// The text as it grows.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        self.0.push_str(&format!("# TYPE {name} {kind}\n"));
        if !unit.is_empty() {
            self.0.push_str(&format!("# UNIT {name} {unit}\n"));
        }
        self.0.push_str(&format!("# HELP {name} {help}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(&format!("{label}=\"{}\"", escaped(text)));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push_str(&format!(" {value}\n"));
    }

    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", unit, help);
        self.line(name, &[], value);
    }

    fn by_label(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.family(name, "counter", "", help);
        for (text, n) in values {
            self.line(&format!("{name}_total"), &[(label, text)], n);
        }
    }

    fn histogram(&mut self, name: &str, label: (&str, &str), durations: &Durations<u64>) {
        let histogram = &durations.histogram;
        let bucket = format!("{name}_bucket");
        let mut recorded = histogram.iter_recorded().peekable();
        let mut count = 0;
        for (us, le) in BUCKETS {
            let end = histogram.highest_equivalent(us);
            while let Some(step) = recorded.next_if(|step| step.value_iterated_to() <= end) {
                count += step.count_at_value();
            }
            self.line(&bucket, &[label, ("le", le)], count);
        }
        self.line(&bucket, &[label, ("le", "+Inf")], histogram.len());
        self.line(&format!("{name}_count"), &[label], histogram.len());
        let (seconds, us) = (durations.sum_us / 1_000_000, durations.sum_us % 1_000_000);
        self.line(&format!("{name}_sum"), &[label], format_args!("{seconds}.{us:06}"));
    }
}

/// What is read of a route.
type Figure<'a> = dyn Fn(&RouteStats) -> u64 + 'a;
/// Writes the series of one name, given the way to sum a figure over what is behind it.
type Write<'a> = dyn FnMut(&mut Text, &str, &dyn Fn(&Figure<'_>) -> u64) + 'a;

/// A label's value: backslash, quote and line end escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_in_order_and_says_the_same_twice() {
        for (us, seconds) in BUCKETS {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let expected = us as f64 / 1e6;
            assert_eq!(seconds.parse::<f64>().unwrap(), expected);
        }
        assert!(BUCKETS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn buckets_count_what_was_recorded() {
        let stats = Stats::new();
        let recorder = stats.recorder();
        for us in [50, 100, 101, 900, 4_000, 2_000_000, 3_000_000_000] {
            recorder.record(Stage::Total, us);
        }
        let text = stats.openmetrics(Process::default());
        for line in [
            r#"mailsluice_stage_duration_seconds_bucket{stage="total",le="0.0001"} 2"#,
            r#"mailsluice_stage_duration_seconds_bucket{stage="total",le="0.001"} 4"#,
            r#"mailsluice_stage_duration_seconds_bucket{stage="total",le="0.005"} 5"#,
            r#"mailsluice_stage_duration_seconds_bucket{stage="total",le="1800.0"} 6"#,
            r#"mailsluice_stage_duration_seconds_bucket{stage="total",le="+Inf"} 7"#,
            r#"mailsluice_stage_duration_seconds_count{stage="total"} 7"#,
            r#"mailsluice_stage_duration_seconds_sum{stage="total"} 3002.005151"#,
            r#"mailsluice_stage_duration_seconds_count{stage="queue"} 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_route_name_cannot_break_out_of_its_label() {
        let stats = Stats::new();
        stats.route("a\"} 1\nevil{x=\"\\").delivered.add(3);
        let text = stats.openmetrics(Process::default());
        assert!(text.contains(r#"{route="a\"} 1\nevil{x=\"\\",outcome="delivered"} 3"#), "{text}");
        assert!(!text.contains("\nevil"));
    }
}
