//! The filters of the record log, as the admin listener takes them, and whether a record that came by another way belongs to them.

use super::super::args::Records;
use super::super::client::with_query;
use super::super::time::Zone;
use super::super::{Exit, Failure};
use crate::admin::query::{self, Among, Wanted};
use crate::record::{Outcome, Record};
use crate::store::Filter;
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

pub(super) struct Filters {
    pairs: Vec<(&'static str, String)>,
    /// What the daemon makes of them.
    wanted: Wanted,
    filter: Filter,
}

impl Filters {
    pub(super) fn new(options: &Records, zone: &Zone, now: Timestamp) -> Result<Self, Failure> {
        let moment = |option: &str, text: &Option<String>| text.as_ref().map(|text| zone.moment(option, text, now)).transpose();
        let (since, until) = (moment("--since", &options.since)?, moment("--until", &options.until)?);
        let mut pairs = Vec::new();
        pairs.extend(since.map(|since| ("since", since.to_string())));
        pairs.extend(until.map(|until| ("until", until.to_string())));
        let texts = [
            ("sender", &options.sender),
            ("recipient", &options.recipient),
            ("message_id", &options.message_id),
            ("webhook_id", &options.webhook_id),
            ("route", &options.route),
            ("ip", &options.ip),
            ("text", &options.text),
        ];
        for (name, value) in texts {
            pairs.extend(value.iter().map(|value| (name, value.clone())));
        }
        pairs.extend(options.status.map(|status| ("status", status.to_string())));
        pairs.extend(options.outcome.map(|outcome| ("outcome", outcome.name().to_owned())));
        if let Some((name, _)) = pairs.iter().find(|(name, value)| value.trim().is_empty() && *name != "sender") {
            return Err(Failure::new(Exit::Usage, format!("--{} is empty; leave it out for all", name.replace('_', "-"))));
        }
        if options.fleet {
            pairs.push(("fleet", "true".to_owned()));
        }
        if options.undelivered {
            pairs.push(("undelivered", "true".to_owned()));
        }
        // Which boxes are asked is no filter.
        let texts = pairs.iter().filter(|(name, _)| *name != "fleet").map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let wanted = query::parse(texts, now).map_err(|problem| Failure::new(Exit::Usage, problem.to_string()))?;
        let filter = Filter::new(&wanted.query);
        Ok(Self { pairs, wanted, filter })
    }

    pub(super) fn page(&self, limit: u64, cursor: Option<&str>) -> String {
        let limit = limit.to_string();
        let mut pairs: Vec<_> = self.pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        pairs.push(("limit", &limit));
        pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
        with_query("/records", &pairs)
    }

    /// Whether a new record belongs to what is followed, as the store would say. What has just failed is undelivered, whatever comes later.
    pub(super) fn takes(&self, record: &Value) -> bool {
        // What cannot be read is shown where everything is.
        let Ok(record) = Record::deserialize(record) else { return self.pairs.is_empty() };
        let is_among = match &self.wanted.among {
            Among::All => true,
            Among::One(id) => record.id == *id,
            Among::Attempts(webhook_id) => record.webhook_id == *webhook_id,
        };
        is_among && self.filter.takes(&record) && (!self.wanted.query.undelivered || record.outcome == Outcome::Deferred)
    }
}

/// The endpoint's status; 0 where it gave none.
pub(super) fn status(record: &Value) -> u64 {
    record.pointer("/server_response/status").and_then(Value::as_u64).unwrap_or_default()
}

pub(super) fn recipients(record: &Value) -> impl Iterator<Item = &str> {
    record.get("recipients").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::cli::args::Outcome;
    use serde_json::json;

    fn filters(options: &Records) -> Filters {
        let now = "2026-11-24T12:00:00Z".parse().expect("a time");
        Filters::new(options, &Zone::of_this_machine(), now).unwrap_or_else(|failure| panic!("{}", failure.line))
    }

    #[test]
    fn filters_become_a_query() {
        let all = Records {
            since: Some("1h".into()),
            until: Some("2026-11-24T11:59:00Z".into()),
            sender: Some(String::new()),
            recipient: Some("a+b@example.test".into()),
            outcome: Some(Outcome::Deferred),
            status: Some(0),
            route: Some("tickets".into()),
            undelivered: true,
            ..options()
        };
        assert_eq!(
            filters(&all).page(7, Some("X")),
            "/records?since=2026-11-24T11%3A00%3A00Z&until=2026-11-24T11%3A59%3A00Z&sender=&recipient=a%2Bb%40example.test&route=tickets&status=0&\
             outcome=deferred&undelivered=true&limit=7&cursor=X"
        );
        let empty = Records { route: Some(" ".into()), ..options() };
        let now = "2026-11-24T12:00:00Z".parse().expect("a time");
        assert_eq!(Filters::new(&empty, &Zone::of_this_machine(), now).err().map(|failure| failure.exit), Some(Exit::Usage));
    }

    #[test]
    fn a_followed_record_is_filtered_the_same_way() {
        let record = json!({
            "subject": "Grüße", "size": 7, "tls": null, "processing_time_us": 4, "queue_us": 1, "forward_us": 2, "store_us": 1,
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "date": "2026-11-24T11:30:00.000000Z", "sender": "Alice@Sender.test",
            "recipients": ["bob@example.test", "carl@example.test", "jürgen@bücher.test"], "message_id": "<1@x>", "outcome": "deferred", "route": "tickets",
            "sender_ip": "192.0.2.1", "reply": "450 4.4.1 Endpoint cannot be reached", "webhook_id": "msg_1",
            "server_response": {"status": 0, "body": "Connection refused", "content_type": null},
        });
        let with = |change: fn(&mut Records)| {
            let mut options = options();
            change(&mut options);
            filters(&options).takes(&record)
        };
        assert!(with(|_| {}));
        assert!(with(|options| options.sender = Some("alice@sender.test".into())));
        assert!(!with(|options| options.sender = Some(String::new())));
        assert!(with(|options| options.recipient = Some("CARL@example.test".into())));
        // However it is spelled, as in the store.
        for spelling in ["JÜRGEN@xn--bcher-kva.test", "\"ju\u{308}rgen\"@BU\u{308}CHER.test.", "<jürgen@bücher.test>"] {
            let options = Records { recipient: Some(spelling.into()), ..options() };
            assert!(filters(&options).takes(&record), "{spelling}");
        }
        assert!(!with(|options| options.recipient = Some("jurgen@bücher.test".into())));
        assert!(with(|options| options.message_id = Some("1@x".into())));
        assert!(with(|options| options.since = Some("1h".into())));
        assert!(!with(|options| options.since = Some("10m".into())));
        assert!(!with(|options| options.status = Some(503)));
        assert!(with(|options| (options.status, options.route) = (Some(0), Some("tickets".into()))));
        assert!(!with(|options| options.ip = Some("192.0.2.11".into())));
        assert!(with(|options| options.undelivered = true));
        for text in
            ["250 2.0.0 Ok: 01ARZ3NDEKTSV4RRFFQ69G5FAV", "example.test", "connection REFUSED", "450 4.4.1", "msg_1", "GRÜßE", "192.0.2.1"]
        {
            let options = Records { text: Some(text.into()), ..options() };
            assert!(filters(&options).takes(&record), "{text}");
        }
    }
}
