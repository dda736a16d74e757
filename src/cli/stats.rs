//! `mailsluice stats`: the daemon's counters, gauges and latency percentiles to read, or its JSON; with `--watch` once a
//! second, with the rate of messages over the last minute.

mod merge;
mod watch;
mod wrong;

use super::args::Stats;
use super::choice::Choice;
use super::client::Client;
use super::table::{Align, Column, Table, octets, time_us};
use super::terminal::Paint;
use super::{Failure, print};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

const REFRESH: Duration = Duration::from_secs(1);
/// Rates kept for the plot: a minute.
const HISTORY: usize = 60;
const BAR: u64 = 30;
/// Routes that are shown at once.
const ROUTES_MAX: usize = 30;
/// Columns of the percentile plot, from 10 µs to 100 s: six a decade, seven decades.
const PLOT_FROM_US: f64 = 10.0;
const PLOT_COLUMNS_PER_DECADE: f64 = 6.0;
const PLOT_COLUMNS: usize = 42;
const STAGES: [&str; 7] = ["total", "receive", "queue", "forward", "store", "tls_handshake", "session"];

pub(super) fn run(config: &Choice, options: &Stats) -> Result<(), Failure> {
    if !options.merge.is_empty() {
        return merge::of_several(config, options);
    }
    let client = Client::new(config, &options.admin)?;
    if options.fleet {
        return merge::of_fleet(&client, options);
    }
    let terminal = std::io::stdout().is_terminal();
    let paint = Paint::of_stdout();
    if options.watch && terminal && !options.json {
        return watch::run(&client, options.route.as_deref(), paint);
    }
    let mut rates = Rates::default();
    loop {
        let answer = client.get("/stats")?;
        if options.json {
            print(&format!("{}\n", answer.trim_end()))?;
        } else {
            let stats: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
            rates.take(&stats, Instant::now());
            print(&render(&stats, &wrong::ask(&client), options.route.as_deref(), &rates, paint))?;
        }
        if !options.watch {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "nothing is waited for: a refresh a second is what was asked for")]
        std::thread::sleep(REFRESH);
    }
}

/// Messages a second between two answers.
#[derive(Default)]
struct Rates {
    last: Option<(Instant, u64)>,
    per_second: VecDeque<f64>,
}

impl Rates {
    fn take(&mut self, stats: &Value, now: Instant) {
        let messages = ["delivered", "rejected", "deferred"].iter().map(|outcome| number(stats, &["messages", outcome])).sum::<u64>();
        if let Some((then, before)) = self.last {
            let seconds = now.duration_since(then).as_secs_f64();
            // A restarted daemon counts from 0 again.
            let grown = messages.checked_sub(before).unwrap_or(messages);
            if seconds > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
                self.per_second.push_back(grown as f64 / seconds);
            }
        }
        self.last = Some((now, messages));
        while self.per_second.len() > HISTORY {
            self.per_second.pop_front();
        }
    }

    fn sparkline(&self) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let top = self.per_second.iter().copied().fold(0.0, f64::max);
        let level = |rate: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
            let level = if top > 0.0 { (rate / top * 7.0).round() as usize } else { 0 };
            LEVELS.get(level).copied().unwrap_or('█')
        };
        self.per_second.iter().map(|&rate| level(rate)).collect()
    }
}

fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn number(value: &Value, path: &[&str]) -> u64 {
    at(value, path).and_then(Value::as_u64).unwrap_or_default()
}

fn entries<'v>(value: &'v Value, path: &[&str]) -> impl Iterator<Item = (&'v String, &'v Value)> {
    at(value, path).and_then(Value::as_object).into_iter().flatten()
}

fn render(stats: &Value, notices: &Value, sought: Option<&str>, rates: &Rates, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    _ = write_summary(&mut text, stats, notices, rates, paint);
    routes(&mut text, stats, sought, paint);
    latency(&mut text, stats, paint);
    text
}

fn write_summary(text: &mut String, stats: &Value, notices: &Value, rates: &Rates, paint: Paint) -> std::fmt::Result {
    let version = at(stats, &["version"]).and_then(Value::as_str).unwrap_or("?");
    let uptime = at(stats, &["uptime_seconds"]).and_then(Value::as_f64).unwrap_or_default();
    let (state, wrong) = wrong::standing(stats, notices, paint);
    let name = paint.bold(&format!("mailsluice {}", crate::log::escaped(version)));
    writeln!(text, "{name}  up {}  {state}", uptime_text(uptime))?;
    text.push_str(&wrong);
    if let Some(rate) = rates.per_second.back() {
        writeln!(text, "messages/s   {rate:.1}  {}", rates.sparkline())?;
    }
    let count = |path: &[&str]| number(stats, path);
    let alarming = |n: u64| if n > 0 { paint.bad(&n.to_string()) } else { n.to_string() };
    writeln!(
        text,
        "messages     {} delivered, {} rejected, {} deferred, {} undelivered",
        count(&["messages", "delivered"]),
        count(&["messages", "rejected"]),
        count(&["messages", "deferred"]),
        alarming(count(&["messages", "undelivered"])),
    )?;
    let (lost, received) = (count(&["messages", "replies_lost"]), octets(count(&["bytes_received"])));
    writeln!(text, "received     {received}; {lost} replies lost")?;
    writeln!(text, "refused      {}", counts(stats, &["messages", "refused"]))?;
    writeln!(text, "recipients   {} accepted; refused: {}", count(&["recipients", "accepted"]), counts(stats, &["recipients", "refused"]))?;
    writeln!(
        text,
        "connections  {} open, {} accepted; refused: {}",
        count(&["connections", "open"]),
        count(&["connections", "accepted"]),
        counts(stats, &["connections", "refused"]),
    )?;
    let [busy, started, workers] = ["busy", "started", "workers"].map(|name| count(&["forwarders", name]));
    writeln!(
        text,
        "forwarders   {} {busy} busy of {workers} ({started} started), {} queued",
        bar(busy, workers),
        count(&["forwarders", "queued"])
    )?;
    let [used, budget] = ["body_bytes", "body_budget_bytes"].map(|name| count(&["memory", name]));
    writeln!(text, "memory       {} {} of {}", bar(used, budget), octets(used), octets(budget))?;
    let degraded = at(stats, &["store", "degraded"]).and_then(Value::as_bool).unwrap_or_default();
    let state = if degraded { paint.bad("degraded: no mail is taken") } else { "writable".to_owned() };
    let [records, file, commits] = ["records", "file_bytes", "commits"].map(|name| count(&["store", name]));
    writeln!(text, "store        {records} records in {}, {commits} commits, {state}", octets(file))
}

/// `size 1, memory 3`, those that there are; the daemon's own names.
fn counts(stats: &Value, path: &[&str]) -> String {
    let counts = entries(stats, path).map(|(name, n)| (name, n.as_u64().unwrap_or_default())).filter(|(_, n)| *n > 0);
    let counts: Vec<_> = counts.map(|(name, n)| format!("{} {n}", crate::log::escaped(name))).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

fn bar(part: u64, whole: u64) -> String {
    let filled = part.saturating_mul(BAR).div_ceil(whole.max(1)).min(BAR);
    (0..BAR).map(|column| if column < filled { '█' } else { '░' }).collect()
}

fn uptime_text(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an uptime; a fraction of a second does not matter")]
    let seconds = seconds as u64;
    let [days, hours, minutes] = [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60];
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Of many routes those that fail and the busiest, else all, by name; and how many there are beside them.
fn chosen<'v>(stats: &'v Value, sought: Option<&str>) -> (Vec<(&'v String, &'v Value)>, usize) {
    let mut routes: Vec<_> = entries(stats, &["routes"]).collect();
    let all = routes.len();
    routes.retain(|(name, _)| sought.is_none_or(|sought| name.contains(sought)));
    if routes.len() > ROUTES_MAX {
        let fails = |route: &Value| at(route, &["breaker"]).and_then(Value::as_str).is_some_and(|breaker| breaker != "closed");
        let messages = |route: &Value| ["delivered", "rejected", "deferred"].iter().map(|key| number(route, &[key])).sum::<u64>();
        let open = |route: &Value| number(route, &["busy"]) + number(route, &["queued"]);
        routes.sort_by_cached_key(|(_, route)| std::cmp::Reverse((fails(route), open(route), messages(route))));
        routes.truncate(ROUTES_MAX);
        routes.sort_unstable_by_key(|(name, _)| *name);
    }
    let others = all - routes.len();
    (routes, others)
}

fn routes(text: &mut String, stats: &Value, sought: Option<&str>, paint: Paint) {
    let right = |name| Column::new(name, Align::Right);
    let mut table = Table::new(vec![
        Column::new("ROUTE", Align::Left).at_least(5),
        right("DELIVERED"),
        right("REJECTED"),
        right("DEFERRED"),
        right("BUSY"),
        right("QUEUED"),
        right("P50"),
        right("P99"),
        Column::new("BREAKER", Align::Left),
    ]);
    let (routes, others) = chosen(stats, sought);
    for (name, route) in routes {
        let mut row = vec![name.clone()];
        row.extend(["delivered", "rejected", "deferred", "busy", "queued"].map(|key| number(route, &[key]).to_string()));
        row.extend(["p50_us", "p99_us"].map(|key| time_us(number(route, &["forward", key]))));
        row.push(at(route, &["breaker"]).and_then(Value::as_str).unwrap_or("?").to_owned());
        table.push(row);
    }
    text.push('\n');
    table.fit(super::terminal::columns());
    text.push_str(&paint.bold(table.header().trim_end()));
    text.push('\n');
    text.push_str(&table.take_rows());
    if others > 0 {
        // Writing to a String cannot fail.
        _ = writeln!(text, "and {others} other routes: --route TEXT shows those with that in their names");
    }
}

/// Percentiles per stage over the last minute, or since the start while that had nothing.
fn latency(text: &mut String, stats: &Value, paint: Paint) {
    let right = |name| Column::new(name, Align::Right);
    let columns = vec![
        Column::new("STAGE", Align::Left),
        Column::new("OVER", Align::Left),
        right("COUNT"),
        right("MEAN"),
        right("P50"),
        right("P90"),
        right("P99"),
        right("P99.9"),
        right("MAX"),
        Column::new("10µs  100µs 1ms   10ms  100ms 1s    10s   100s", Align::Left).at_least(1),
    ];
    let mut table = Table::new(columns);
    for stage in STAGES {
        let Some(windows) = at(stats, &["latency", stage]) else { continue };
        let (over, window) = match windows.get("1m").filter(|window| number(window, &["count"]) > 0) {
            Some(window) => ("1m", window),
            None => ("start", windows.get("total").unwrap_or(&Value::Null)),
        };
        let count = number(window, &["count"]);
        let mut row = vec![stage.to_owned(), over.to_owned(), count.to_string()];
        if count == 0 {
            table.push(row);
            continue;
        }
        let mean = at(window, &["mean_us"]).and_then(Value::as_f64).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of at most an hour")]
        row.push(time_us(mean as u64));
        let percentiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|name| number(window, &[name]));
        row.extend(percentiles.map(time_us));
        row.push(plot(percentiles));
        table.push(row);
    }
    text.push('\n');
    table.fit(super::terminal::columns());
    text.push_str(&paint.bold(table.header().trim_end()));
    text.push('\n');
    text.push_str(&table.take_rows());
    text.push_str("the plot: █ up to the median, ▓ to p90, ▒ to p99, ░ to the maximum\n");
}

/// One line on a logarithmic axis.
fn plot([p50, p90, p99, _, max]: [u64; 5]) -> String {
    let column = |us: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a place on an axis")]
        let place = (us.max(1) as f64 / PLOT_FROM_US).log10() * PLOT_COLUMNS_PER_DECADE;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the axis first")]
        let column = place.clamp(0.0, 1e3).ceil() as usize;
        column.clamp(1, PLOT_COLUMNS)
    };
    let [p50, p90, p99, max] = [p50, p90, p99, max].map(column);
    (0..max)
        .map(|here| {
            if here < p50 {
                '█'
            } else if here < p90 {
                '▓'
            } else if here < p99 {
                '▒'
            } else {
                '░'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        let window =
            json!({"count": 103, "mean_us": 1800.0, "p50_us": 1500, "p90_us": 2500, "p99_us": 6000, "p999_us": 9000, "max_us": 91_000});
        let empty = json!({"count": 0, "mean_us": 0.0, "p50_us": 0, "p90_us": 0, "p99_us": 0, "p999_us": 0, "max_us": 0});
        json!({
            "version": "0.2.0", "uptime_seconds": 7265.2,
            "connections": {"open": 3, "accepted": 120, "refused": {"total_limit": 0, "per_ip_limit": 4}},
            "recipients": {"accepted": 110, "refused": {"no_route": 1}},
            "messages": {"delivered": 100, "rejected": 2, "deferred": 1, "undelivered": 5, "replies_lost": 0, "refused": {"size": 0, "memory": 7}},
            "bytes_received": 1_234_567,
            "forwarders": {"workers": 512, "started": 8, "busy": 256, "queued": 0},
            "routes": {"tickets": {"delivered": 100, "rejected": 2, "deferred": 1, "busy": 2, "queued": 0, "breaker": "closed", "forward": {"p50_us": 1200, "p99_us": 5000}}},
            "memory": {"body_bytes": 0, "body_budget_bytes": 268_435_456},
            "store": {"records": 103, "file_bytes": 1_589_248, "commits": 40, "degraded": true},
            "latency": {"total": {"1m": window, "total": window}, "queue": {"1m": empty, "total": window}, "session": {"1m": empty, "total": empty}}
        })
    }

    #[test]
    fn the_text() {
        let text = render(&sample(), &Value::Null, None, &Rates::default(), Paint(false));
        let full = "█".repeat(15) + &"░".repeat(15);
        for line in [
            "mailsluice 0.2.0  up 2h 1m  ✕ not taking mail",
            "messages     100 delivered, 2 rejected, 1 deferred, 5 undelivered",
            "received     1.1MiB; 0 replies lost",
            "refused      memory 7",
            "connections  3 open, 120 accepted; refused: per_ip_limit 4",
            &format!("forwarders   {full} 256 busy of 512 (8 started), 0 queued"),
            "store        103 records in 1.5MiB, 40 commits, degraded: no mail is taken",
            "tickets        100         2         1     2       0  1.20ms  5.00ms  closed",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "colours without a terminal");
        let row =
            |stage: &str| text.lines().find(|line| line.starts_with(stage)).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row("total").get(1..9), Some(&["1m", "103", "1.80ms", "1.50ms", "2.50ms", "6.00ms", "9.00ms", "91.0ms"][..]));
        assert_eq!(row("queue").get(1..3), Some(&["start", "103"][..]));
        assert_eq!(row("session"), ["session", "start", "0"]);
    }

    #[test]
    fn of_many_routes_those_that_fail_and_the_busiest() {
        let mut stats = sample();
        let routes = stats["routes"].as_object_mut().unwrap();
        for n in 0..1000 {
            let breaker = if n == 700 { "open" } else { "closed" };
            let busy = u64::from(n == 300);
            routes.insert(format!("r{n:03}"), json!({"delivered": n % 500, "busy": busy, "breaker": breaker}));
        }
        let shown = |sought| render(&stats, &Value::Null, sought, &Rates::default(), Paint(false));
        let names = |text: &str| {
            let routes = text.lines().skip_while(|line| !line.starts_with("ROUTE")).skip(1);
            routes.map_while(|line| line.split_whitespace().next().map(ToOwned::to_owned)).collect::<Vec<_>>()
        };
        let text = shown(None);
        let busiest = (486..500).chain(987..1000).map(|n| format!("r{n}"));
        let mut expected: Vec<_> = busiest.chain(["r300", "r700", "tickets"].map(ToOwned::to_owned)).collect();
        expected.sort();
        expected.push("and".to_owned());
        assert_eq!(names(&text), expected);
        assert!(text.contains("and 971 other routes: --route TEXT"), "{text}");
        let text = shown(Some("r12"));
        assert_eq!(names(&text).len(), 11, "{text}");
        assert!(text.contains("and 991 other routes") && text.contains("r129"), "{text}");
        assert_eq!(names(&shown(Some("tick"))), ["tickets", "and"]);
    }

    #[test]
    fn colours_only_where_wanted() {
        assert!(render(&sample(), &Value::Null, None, &Rates::default(), Paint(true)).contains("\u{1b}[31m5\u{1b}[0m undelivered"));
    }

    #[test]
    fn rates() {
        let mut rates = Rates::default();
        let start = Instant::now();
        for (second, delivered) in [(0, 10), (1, 10), (2, 24), (4, 52), (5, 7)] {
            rates.take(&json!({"messages": {"delivered": delivered}}), start + Duration::from_secs(second));
        }
        // The daemon was restarted before the last.
        assert_eq!(rates.per_second, [0.0, 14.0, 14.0, 7.0]);
        assert_eq!(rates.sparkline(), "▁██▅");
    }

    #[test]
    fn the_plot_has_its_decades() {
        assert_eq!(plot([10, 10, 10, 10, 10]), "█");
        assert_eq!(plot([100, 1000, 10_000, 10_000, 100_000]), "██████▓▓▓▓▓▓▒▒▒▒▒▒░░░░░░");
        assert_eq!(plot([u64::MAX; 5]).chars().count(), PLOT_COLUMNS);
    }
}
