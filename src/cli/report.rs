//! `mailsluice report`: what went wrong, by route and cause, the most frequent first; and what was slow.

use super::args::Report;
use super::choice::Choice;
use super::client::{Client, with_query};
use super::table::{Align, Colour, Column, Table, time_us};
use super::terminal::{self, Paint};
use super::time::Zone;
use super::{Failure, print};
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn run(config: &Choice, options: &Report) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let zone = Zone::of_this_machine();
    let since = zone.moment("--since", &options.since, Timestamp::now())?.to_string();
    let mut query = vec![("since", since.as_str())];
    query.extend(options.fleet.then_some(("fleet", "true")));
    let answer = client.get(&with_query("/report", &query))?;
    if options.json {
        return print(&format!("{}\n", answer.trim_end()));
    }
    let report: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
    super::fleet::complain_of(report.get("boxes"));
    print(&text(&report, &zone))
}

fn list<'v>(report: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    report.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text(report: &Value, zone: &Zone) -> String {
    let of = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let since = zone.show(&of(report, "since"));
    let mut text = format!("since {since} ({})\n", zone.name());
    let left = |title: &str| Column::new(title, Align::Left);
    let columns = vec![
        Column::new("COUNT", Align::Right),
        left("OUTCOME"),
        left("ROUTE").at_least(6),
        left("LAST"),
        left("SENDERS").at_least(7),
        left("CAUSE").at_least(10),
    ];
    let mut table = Table::new(columns).painted(Paint::of_stdout());
    let mut any = false;
    for cause in list(report, "causes") {
        any = true;
        let outcome = of(cause, "outcome");
        let colour: Colour = if outcome == "deferred" { Paint::wait } else { Paint::bad };
        let senders = match (number(cause, "still_tried"), number(cause, "given_up")) {
            (Some(tried), Some(0)) => format!("{tried} try"),
            (Some(0), Some(given_up)) => format!("{given_up} gave up"),
            (Some(tried), Some(given_up)) => format!("{tried} try, {given_up} gave up"),
            _ => "-".to_owned(),
        };
        let route = cause.get("route").and_then(Value::as_str).unwrap_or("-").to_owned();
        table.push_coloured(vec![
            (number(cause, "count").unwrap_or_default().to_string(), None),
            (outcome, Some(colour)),
            (route, None),
            (zone.show(&of(cause, "last_seen")), None),
            (senders, None),
            (of(cause, "cause"), None),
        ]);
        let sample = cause.get("sample").unwrap_or(&Value::Null);
        let to = sample.pointer("/recipients/0").or_else(|| sample.get("recipient")).and_then(Value::as_str).unwrap_or("-");
        let from = sample.get("sender").and_then(Value::as_str).filter(|sender| !sender.is_empty()).unwrap_or("<>");
        let id = sample.get("id").or_else(|| sample.get("address")).and_then(Value::as_str).unwrap_or_default();
        table.note(&format!("since {}, such as {id} from {from} to {to}", zone.show(&of(cause, "first_seen"))));
    }
    if any {
        table.fit(terminal::columns());
        text.push_str(&table.header());
        text.push_str(&table.take_rows());
        text.push_str(&super::table::within(&format!("{}\n", of(report, "rule")), terminal::columns()));
    } else {
        text.push_str("nothing went wrong\n");
    }
    if report.get("complete") == Some(&Value::Bool(false)) {
        text.push_str("these are not all: there were too many records to look at; ask for a shorter time with --since\n");
    }
    for slow in list(report, "slow") {
        let us = |name: &str| time_us(number(slow, name).unwrap_or_default());
        let count = number(slow, "count").unwrap_or_default();
        let line = format!(
            "slowest: {}: p50 {}, p99 {}, longest {} of {count} since the start",
            of(slow, "route"),
            us("p50_us"),
            us("p99_us"),
            us("max_us")
        );
        text.push_str(&terminal::columns().map_or_else(|| line.clone(), |window| super::table::cut(&line, window)));
        text.push('\n');
        if slow.get("over_half") == Some(&Value::Bool(true)) {
            text.push_str(&format!("      {} takes more than half of its timeout {}\n", of(slow, "route"), us("timeout_us")));
        }
    }
    text
}
