//! `/report?since=`: what went wrong, by route and cause, with counts, and what was slow. Of what was deferred a message counts once, however
//! often it was tried. Bounded in causes and in time; an answer that is not of all records says so.

use super::answer::{self, Problem};
use super::app::App;
use super::{fleet, query};
use crate::fleet::Fleet;
use crate::record::{Outcome, Record};
use crate::store::{Query as StoreQuery, Store, StoreError};
use axum::extract::{Query, State};
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Senders' intervals grow to some hours (Exim's to eight): who has not come for longer will not.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_hours(12);
const RULE: &str = "given up: no attempt for 12 hours; senders wait at most some hours in between";
const PATIENCE: Duration = Duration::from_secs(8);
const CAUSES: usize = 1000;
/// A cause's text, octets.
const CAUSE_MAX: usize = 200;

/// What went wrong in one way.
#[derive(Serialize)]
struct Cause {
    /// `null` for what was refused before a route was known.
    route: Option<String>,
    outcome: &'static str,
    cause: String,
    count: u64,
    first_seen: Timestamp,
    last_seen: Timestamp,
    /// Of those that were deferred: their senders still try, or have given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    still_tried: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    given_up: Option<u64>,
    /// The latest of them.
    sample: Value,
}

#[derive(Default)]
struct Causes {
    found: HashMap<(Option<String>, &'static str, String), Cause>,
    left_out: u64,
}

/// One more of a cause.
struct Seen {
    route: Option<String>,
    outcome: &'static str,
    cause: String,
    first: Timestamp,
    last: Timestamp,
    given_up: Option<bool>,
}

impl Causes {
    fn add(&mut self, seen: Seen, sample: impl FnOnce() -> Value) {
        let Seen { route, outcome, cause, first, last, given_up } = seen;
        let key = (route.clone(), outcome, cause.clone());
        if self.found.len() >= CAUSES && !self.found.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let tried = given_up.map(|_| 0);
        let entry = self.found.entry(key).or_insert_with(|| Cause {
            route,
            outcome,
            cause,
            count: 0,
            first_seen: first,
            last_seen: last,
            still_tried: tried,
            given_up: tried,
            sample: sample(),
        });
        entry.count += 1;
        entry.first_seen = entry.first_seen.min(first);
        entry.last_seen = entry.last_seen.max(last);
        let counter = if given_up == Some(true) { &mut entry.given_up } else { &mut entry.still_tried };
        *counter = counter.map(|n| n + 1);
    }

    fn sorted(self) -> Vec<Cause> {
        let mut causes: Vec<_> = self.found.into_values().collect();
        causes.sort_by(|one, other| other.count.cmp(&one.count).then(other.last_seen.cmp(&one.last_seen)));
        causes
    }
}

pub(super) async fn report(State(app): State<Arc<App>>, Query(mut pairs): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    let of_fleet = fleet::is_asked(&mut pairs)?;
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key != "since") {
        return Err(Problem::bad_request(format!("/report takes since, not {key:?}")));
    }
    let now = Timestamp::now();
    let asked = query::parse(pairs, now)?.query.since;
    let since = asked.or_else(|| now.checked_sub(DAY).ok()).unwrap_or(now);
    if of_fleet {
        let fleet = app.fleet()?;
        let (causes, complete) = of_fleet_records(&fleet, since, now).await?;
        let (left_out, boxes) = (causes.left_out, fleet.boxes().await?);
        let causes = causes.sorted();
        let report = json!({ "since": since, "causes": causes, "left_out": left_out, "complete": complete, "rule": RULE, "slow": [], "boxes": boxes });
        return Ok(answer::json(&report));
    }
    let ((mut causes, complete), _turn) = app.call(&app.store_calls, move |store| of_records(store, since, now)).await?;
    for row in app.deps.stats.refusals.rows_after(0).into_iter().filter(|row| row.refusal.time >= since) {
        let (cause, time) = (row.refusal.reply.clone(), row.refusal.time);
        let seen = Seen { route: row.refusal.route.clone(), outcome: "refused", cause, first: time, last: time, given_up: None };
        causes.add(seen, || serde_json::to_value(&row.refusal).unwrap_or_default());
    }
    let left_out = causes.left_out;
    Ok(answer::json(&json!({
        "since": since,
        "causes": causes.sorted(),
        "left_out": left_out,
        "complete": complete,
        "rule": RULE,
        "slow": app.deps.stats.slowest_routes(),
    })))
}

/// As [`of_records`], over all boxes.
async fn of_fleet_records(fleet: &Fleet, since: Timestamp, now: Timestamp) -> Result<(Causes, bool), Problem> {
    let begun = Instant::now();
    let mut causes = Causes::default();
    let mut cursor = None;
    loop {
        let page = fleet.undelivered(cursor, 1000).await?;
        for message in page.rows.iter().filter(|message| message.last_seen >= since) {
            let given_up = Some(now.duration_since(message.last_seen) > GIVEN_UP_AFTER);
            add(&mut causes, &message.record.record, message.first_seen, message.last_seen, given_up);
        }
        cursor = page.cursor;
        if begun.elapsed() > PATIENCE {
            return Ok((causes, cursor.is_none()));
        }
        if cursor.is_none() {
            break;
        }
    }
    let mut query = StoreQuery { since: Some(since), outcome: Some(Outcome::Rejected), limit: 1000, ..StoreQuery::default() };
    loop {
        let page = fleet.records(query.clone()).await?;
        for row in &page.rows {
            add(&mut causes, &row.record, row.record.date, row.record.date, None);
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() || begun.elapsed() > PATIENCE {
            return Ok((causes, query.cursor.is_none()));
        }
    }
}

/// The causes, and whether all records were looked at.
fn of_records(store: &Store, since: Timestamp, now: Timestamp) -> Result<(Causes, bool), StoreError> {
    let begun = Instant::now();
    let mut causes = Causes::default();
    let mut cursor = None;
    loop {
        let page = store.undelivered(cursor, 1000)?;
        for message in page.undelivered.iter().filter(|message| message.last_seen >= since) {
            let given_up = Some(now.duration_since(message.last_seen) > GIVEN_UP_AFTER);
            add(&mut causes, &message.record, message.first_seen, message.last_seen, given_up);
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
        if begun.elapsed() > PATIENCE {
            return Ok((causes, false));
        }
    }
    let mut query = StoreQuery { since: Some(since), outcome: Some(Outcome::Rejected), limit: 1000, ..StoreQuery::default() };
    loop {
        let page = store.query(&query)?;
        for record in &page.records {
            add(&mut causes, record, record.date, record.date, None);
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return Ok((causes, true));
        }
        if begun.elapsed() > PATIENCE {
            return Ok((causes, false));
        }
    }
}

fn add(causes: &mut Causes, record: &Record, first: Timestamp, last: Timestamp, given_up: Option<bool>) {
    let outcome = if given_up.is_some() { "deferred" } else { "rejected" };
    let seen = Seen { route: Some(record.route.clone()), outcome, cause: cause(record), first, last, given_up };
    causes.add(seen, || serde_json::to_value(record).unwrap_or_default());
}

/// Alike for what failed alike: numbers that differ from message to message (ids, ports, durations) are taken out of texts.
fn cause(record: &Record) -> String {
    let body = record.server_response.body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let cause = match (record.server_response.status, body) {
        (0, "") => record.reply.clone(),
        // Each outage since another moment is one cause all the same.
        (0, reason) => reason.split_once(" since ").map_or(reason, |(cause, _)| cause).to_owned(),
        (status, "") => format!("the endpoint answered {status}"),
        (status, body) => format!("the endpoint answered {status}: {}", alike(body)),
    };
    cause.get(..cause.floor_char_boundary(CAUSE_MAX)).unwrap_or_default().to_owned()
}

/// Each word with a digit in it becomes `…`.
fn alike(text: &str) -> String {
    let word = |word: &str| if word.bytes().any(|octet| octet.is_ascii_digit()) { "…".to_owned() } else { word.to_owned() };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_numbers_alone_is_one_cause() {
        assert_eq!(alike("ticket 4711 is closed since 2026-01-31"), "ticket … is closed since …");
        let mut causes = Causes::default();
        let time = |second: i64| Timestamp::from_second(second).unwrap();
        for n in 0..5 {
            let (route, cause) = (Some("tickets".to_owned()), "the same".to_owned());
            let seen = Seen { route, outcome: "deferred", cause, first: time(10 - n), last: time(20 + n), given_up: Some(n > 2) };
            causes.add(seen, || json!(n));
        }
        let causes = causes.sorted();
        let [one] = causes.as_slice() else { panic!("{} causes", causes.len()) };
        assert_eq!((one.count, one.still_tried, one.given_up, &one.sample), (5, Some(3), Some(2), &json!(0)));
        assert_eq!((one.first_seen, one.last_seen), (time(6), time(24)));
    }
}
