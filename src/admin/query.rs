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

/// The box that takes whatever people have: a record's id, also in the reply that tells it or in a line of a log; a `Webhook-Id`; an IP
/// address; else a part of an address, a subject, a Message-ID, a response or a reply.
fn search(text: String, query: &mut Query, among: &mut Among) {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || ":=()<>[]{},;\"'".contains(c)).filter(|word| !word.is_empty()).collect();
    // Among other words an id is a record's where it is said to be.
    let said = words
        .windows(2)
        .filter(|pair| matches!(pair, [before, _] if ["ok", "id", "record"].contains(&before.to_ascii_lowercase().as_str())));
    let id = words.last().into_iter().chain(said.filter_map(|pair| pair.last())).find_map(|word| record_id(word));
    if let Some(id) = id {
        *among = Among::One(id);
    } else if let Some(id) = words.iter().find(|word| is_webhook_id(word)) {
        *among = Among::Attempts(id.to_ascii_lowercase());
    } else if let Some(ip) = client(meant(&text)) {
        query.ip = Some(ip.to_canonical());
    } else {
        query.text = Some(if meant(&text).is_empty() { text } else { meant(&text).to_owned() });
    }
}

/// Names before what is pasted of a header or of a log.
const LABELS: [&str; 18] = [
    "message-id",
    "message_id",
    "subject",
    "from",
    "to",
    "orig_to",
    "mailto",
    "sender",
    "recipient",
    "recipients",
    "sender_ip",
    "ip",
    "client",
    "relay",
    "greeting",
    "reply",
    "reason",
    "response",
];

/// Without what is around it. It is always a part of the text, so nothing is found less.
fn meant(text: &str) -> &str {
    let text = bare(text);
    let labelled = text.split_once([':', '=']).filter(|(label, _)| LABELS.contains(&label.trim().to_ascii_lowercase().as_str()));
    let text = labelled.map_or(text, |(_, value)| bare(value));
    // `Ann <ann@example.com>`: but not a reply that names an address.
    match text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        Some((before, inner))
            if (!before.is_empty() || labelled.is_some())
                && !before.starts_with(|c: char| c.is_ascii_digit())
                && inner.contains('@')
                && !inner.contains([' ', '<', '>']) =>
        {
            inner
        }
        _ => text,
    }
}

fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"',;".contains(c))
}

/// `192.0.2.1`, `[192.0.2.1]`, `192.0.2.1:4711`, `mx.example.com[192.0.2.1]:25`.
fn client(text: &str) -> Option<IpAddr> {
    let inside = text.split_once('[').filter(|(name, _)| !name.contains(char::is_whitespace)).and_then(|(_, rest)| rest.split_once(']'));
    let inside = inside.filter(|(_, port)| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()));
    let text = inside.map_or(text, |(ip, _)| ip);
    text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
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
            format!("Nov 30 06:45:00 mx postfix/smtp[12]: 4F2: to=<a@b.test>, status=sent (250 2.0.0 Ok: {id})"),
            format!("INFO  message deferred sender_ip=192.0.2.1 size=7 id={id} sender=a@b.test"),
            format!("{{\"id\":\"{id}\",\"date\":\"2026-11-24T12:00:00Z\"}}"),
            format!(" <{id}> "),
            id.to_ascii_lowercase(),
        ] {
            assert!(page(&[("text", &text)]).unwrap_err().starts_with("One("), "{text}");
        }
        let webhook_id = format!("msg_{}", "0a".repeat(16));
        for text in [webhook_id.clone(), format!("Webhook-Id: {webhook_id}"), format!("{{\"webhook_id\":\"{webhook_id}\"}}")] {
            assert_eq!(page(&[("text", &text)]).unwrap_err(), format!("Attempts({webhook_id:?})"));
        }
        for (text, ip) in [
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("sender_ip=192.0.2.1", "192.0.2.1"),
            ("client=unknown[192.0.2.1]", "192.0.2.1"),
            ("relay=mx.example.com[2001:db8::1]:25,", "2001:db8::1"),
        ] {
            let query = page(&[("text", text)]).unwrap();
            assert_eq!((query.ip.map(|ip| ip.to_string()).as_deref(), query.text), (Some(ip), None));
        }
        let same = [
            "example.com",
            "msg_x",
            "550 5.1.1 No such ticket",
            "<id@example.com>",
            "550 5.1.1 <a@b.test>",
            "Re: <3",
            "<a@b.test>: unknown",
        ];
        let ulid_of_others = format!("<{id}@example.com>");
        for text in same.into_iter().chain([ulid_of_others.as_str()]) {
            assert_eq!(page(&[("text", text)]).unwrap().text.as_deref(), Some(text));
        }
        for (text, meant) in [
            ("Message-ID: <id@example.com>", "id@example.com"),
            ("to=<a@example.com>,", "a@example.com"),
            ("Ann <a@example.com>", "a@example.com"),
            ("mailto:a@example.com", "a@example.com"),
            (" 'a@example.com', ", "a@example.com"),
            ("Subject: Re: two words", "Re: two words"),
            ("recipient=\"a b\"", "a b"),
        ] {
            assert_eq!(page(&[("text", text)]).unwrap().text.as_deref(), Some(meant));
        }
        let query = page(&[("route", "tickets"), ("status", "422"), ("ip", "192.0.2.1")]).unwrap();
        assert_eq!((query.route.as_deref(), query.status, query.ip), (Some("tickets"), Some(422), "192.0.2.1".parse().ok()));
        for (key, value) in [("status", "4xx"), ("status", "1000"), ("ip", "example.com")] {
            assert!(page(&[(key, value)]).unwrap_err().starts_with(key));
        }
    }
}
