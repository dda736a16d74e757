//! The filters of `/records` as they stand in a URL. A filter that is unknown or malformed is a 400 that names it: silently
//! left out it would show records that were not asked for.

use super::answer::Problem;
use crate::config::unit::parse_duration;
use crate::record::{Outcome, RecordId};
use crate::store::Query;
use jiff::{SignedDuration, Timestamp};
use std::net::IpAddr;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The filters, and among which records.
#[derive(Debug)]
pub struct Wanted {
    pub query: Query,
    pub among: Among,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Among {
    All,
    /// The attempts at one message, by its `Webhook-Id`.
    Attempts(String),
    One(RecordId),
}

/// The filters of a query string, decoded; times ago count from `now`.
///
/// # Errors
/// The first filter that is unknown or malformed, in a sentence that names it.
pub fn parse(pairs: Vec<(String, String)>, now: Timestamp) -> Result<Wanted, Problem> {
    let mut query = Query { limit: DEFAULT_LIMIT, ..Query::default() };
    let mut among = Among::All;
    for (key, value) in pairs {
        // A form sends its empty fields too.
        if value.is_empty() && key != "sender" {
            continue;
        }
        match key.as_str() {
            "since" => query.since = Some(time(&key, &value, now)?),
            "until" => query.until = Some(time(&key, &value, now)?),
            "sender" => query.sender = Some(value),
            "recipient" => query.recipient = Some(value),
            "message_id" | "message-id" => query.message_id = Some(value),
            "outcome" => query.outcome = Some(outcome(&value)?),
            "undelivered" => query.undelivered = boolean(&key, &value)?,
            "route" => query.route = Some(value),
            "status" => query.status = Some(status(&value)?),
            "ip" => query.ip = Some(address(&value)?),
            "text" => search(value, &mut query, &mut among),
            "cursor" => query.cursor = Some(id(&value)?),
            "webhook_id" | "webhook-id" => among = Among::Attempts(value),
            "limit" => query.limit = limit(&value)?,
            _ => return Err(Problem::bad_request(format!("there is no filter named {:?}", short(&key)))),
        }
    }
    Ok(Wanted { query, among })
}

/// The box that takes whatever people have: a record's id, also in the reply that tells it; a `Webhook-Id`; an IP address; else a part of
/// an address, a subject, a Message-ID, a response or a reply.
fn search(text: String, query: &mut Query, among: &mut Among) {
    let trimmed = text.trim();
    let last = trimmed.rsplit(|c: char| c.is_whitespace() || c == ':').next().unwrap_or_default();
    if let Some(id) = record_id(last) {
        *among = Among::One(id);
    } else if is_webhook_id(trimmed) {
        *among = Among::Attempts(trimmed.to_ascii_lowercase());
    } else if let Ok(ip) = trimmed.trim_matches(['[', ']']).parse::<IpAddr>() {
        query.ip = Some(ip.to_canonical());
    } else {
        query.text = Some(text);
    }
}

fn record_id(word: &str) -> Option<RecordId> {
    (word.len() == 26).then(|| word.parse().ok()).flatten()
}

fn is_webhook_id(word: &str) -> bool {
    let hash = word.get(..4).filter(|start| start.eq_ignore_ascii_case("msg_")).and_then(|_| word.get(4..));
    hash.is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|octet| octet.is_ascii_hexdigit()))
}

fn status(text: &str) -> Result<u16, Problem> {
    let status = text.parse().ok().filter(|status| *status < 1000);
    status.ok_or_else(|| Problem::bad_request("status is the endpoint's, a number as 422, or 0 where it gave none"))
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    let address = text.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map(|ip| ip.to_canonical()).map_err(|_| Problem::bad_request("ip is an address as 192.0.2.1 or 2001:db8::1"))
}

pub(super) fn id(text: &str) -> Result<RecordId, Problem> {
    text.parse().map_err(|_| Problem::bad_request("a record's id has 26 letters and digits (a ULID)"))
}

fn outcome(text: &str) -> Result<Outcome, Problem> {
    match text {
        "delivered" => Ok(Outcome::Delivered),
        "rejected" => Ok(Outcome::Rejected),
        "deferred" => Ok(Outcome::Deferred),
        _ => Err(Problem::bad_request("outcome is delivered, rejected or deferred")),
    }
}

fn boolean(key: &str, text: &str) -> Result<bool, Problem> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Problem::bad_request(format!("{key} is true or false"))),
    }
}

fn limit(text: &str) -> Result<usize, Problem> {
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit is a number from 1 to {MAX_LIMIT}"))),
    }
}

/// A moment, or how long ago (`1h30m`, `7d`).
fn time(key: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let wrong = || Problem::bad_request(format!("{key} is a moment as 2026-01-31T12:00:00Z, or a time ago as 30m, 1h or 7d"));
    let ago = parse_duration(text).and_then(|ago| SignedDuration::try_from(ago).ok()).ok_or_else(wrong)?;
    now.checked_sub(ago).map_err(|_| wrong())
}

fn short(key: &str) -> String {
    key.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match parse(pairs, "2026-11-24T12:00:00Z".parse().unwrap()) {
            Ok(Wanted { query, among: Among::All }) => Ok(query),
            Ok(Wanted { among, .. }) => Err(format!("{among:?}")),
            Err(problem) => Err(problem.sentence),
        }
    }

    #[test]
    fn filters() {
        let query = page(&[
            ("since", "1h"),
            ("until", "2026-11-24T11:59:59Z"),
            ("sender", ""),
            ("recipient", "a@b"),
            ("message-id", "<x@y>"),
            ("outcome", "deferred"),
            ("undelivered", "true"),
            ("text", "Hello"),
            ("limit", "7"),
            ("cursor", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ])
        .unwrap();
        assert_eq!(query.since.unwrap().to_string(), "2026-11-24T11:00:00Z");
        assert_eq!(query.until.unwrap().to_string(), "2026-11-24T11:59:59Z");
        assert_eq!(query.sender.as_deref(), Some(""));
        assert_eq!(query.recipient.as_deref(), Some("a@b"));
        assert_eq!(query.message_id.as_deref(), Some("<x@y>"));
        assert_eq!(query.outcome, Some(Outcome::Deferred));
        assert!(query.undelivered);
        assert_eq!((query.text.as_deref(), query.limit), (Some("Hello"), 7));
        assert_eq!(query.cursor.unwrap().to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    }

    #[test]
    fn what_is_not_a_filter_is_named() {
        let table = [
            ("since", "yesterday", "since is a moment"),
            ("since", "99999999999999999999h", "since is a moment"),
            ("since", "9223372036854775807d", "since is a moment"),
            ("until", "1 fortnight", "until is a moment"),
            ("until", "ü", "until is a moment"),
            ("outcome", "lost", "outcome is"),
            ("undelivered", "perhaps", "undelivered is"),
            ("limit", "0", "limit is"),
            ("limit", "1001", "limit is"),
            ("cursor", "x", "a record's id"),
            ("colour", "red", "no filter named \"colour\""),
        ];
        for (key, value, expected) in table {
            let error = page(&[(key, value)]).unwrap_err();
            assert!(error.contains(expected), "{key}={value}: {error}");
        }
        assert_eq!(page(&[("webhook_id", "msg_1")]).unwrap_err(), "Attempts(\"msg_1\")");
    }

    #[test]
    fn the_box_takes_whatever_people_have() {
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for text in [
            id.to_owned(),
            format!("250 2.0.0 Ok: {id}"),
            format!("status=sent (250 2.0.0 Ok: {id}").trim_end().to_owned(),
            id.to_ascii_lowercase(),
        ] {
            assert!(page(&[("text", &text)]).unwrap_err().starts_with("One("), "{text}");
        }
        let webhook_id = format!("msg_{}", "0a".repeat(16));
        assert_eq!(page(&[("text", &webhook_id)]).unwrap_err(), format!("Attempts({webhook_id:?})"));
        for (text, ip) in [("192.0.2.1", "192.0.2.1"), ("[2001:DB8::1]", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")] {
            let query = page(&[("text", text)]).unwrap();
            assert_eq!((query.ip.map(|ip| ip.to_string()).as_deref(), query.text), (Some(ip), None));
        }
        for text in ["example.com", "msg_x", "550 5.1.1 No such ticket", "<id@example.com>"] {
            assert_eq!(page(&[("text", text)]).unwrap().text.as_deref(), Some(text));
        }
        let query = page(&[("route", "tickets"), ("status", "422"), ("ip", "192.0.2.1")]).unwrap();
        assert_eq!((query.route.as_deref(), query.status, query.ip), (Some("tickets"), Some(422), "192.0.2.1".parse().ok()));
        for (key, value) in [("status", "4xx"), ("status", "1000"), ("ip", "example.com")] {
            assert!(page(&[(key, value)]).unwrap_err().starts_with(key));
        }
    }
}
