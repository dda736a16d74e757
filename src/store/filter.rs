//! Whether a record is what a query asks for: looks at nothing but the record. `undelivered` is the store's to know, `cursor` and `limit`
//! are the page's. Whoever finds records asks here, however they are kept.

use super::Query;
use super::redact::{self, Needle, fold, trimmed};
use crate::mailbox;
use crate::record::{Outcome, Record};

/// A query's filters, in the form in which they are compared.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    sender: Option<String>,
    recipient: Option<String>,
    message_id: Option<String>,
    outcome: Option<Outcome>,
    route: Option<String>,
    status: Option<u16>,
    ip: Option<String>,
    text: Option<String>,
}

impl Filter {
    #[must_use]
    pub fn new(query: &Query) -> Self {
        let normal = |text: &String| fold(trimmed(text));
        let mailbox = |text: &String| mailbox::canonical(trimmed(text));
        Self {
            since: query.since,
            until: query.until,
            sender: query.sender.as_ref().map(mailbox),
            recipient: query.recipient.as_ref().map(mailbox),
            message_id: query.message_id.as_ref().map(normal),
            outcome: query.outcome,
            route: query.route.clone(),
            status: query.status,
            ip: query.ip.map(|ip| ip.to_string()),
            text: query.text.as_deref().map(|text| fold(text.trim())).filter(|text| !text.is_empty()),
        }
    }

    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| mailbox::canonical(text) == *wanted);
        let is_message = |wanted: &String| record.message_id.as_ref().is_some_and(|id| fold(trimmed(id)) == *wanted);
        self.since.is_none_or(|since| record.date >= since)
            && self.until.is_none_or(|until| record.date < until)
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && self.status.is_none_or(|status| record.server_response.status == status)
            && self.route.as_ref().is_none_or(|route| record.route == *route)
            && self.ip.as_ref().is_none_or(|ip| record.sender_ip == *ip)
            && same(&self.sender, &record.sender)
            && (self.recipient.is_none() || record.recipients.iter().any(|recipient| same(&self.recipient, recipient)))
            && self.message_id.as_ref().is_none_or(is_message)
            && self.text.as_ref().is_none_or(|text| says(record, text))
    }

    /// What the octets of every record that is taken have in them, in any letter case: most others need not be decoded.
    pub(super) fn needle(&self) -> Option<Needle> {
        [&self.text, &self.ip, &self.route].into_iter().flatten().find_map(|text| Needle::new(&fold(text)))
    }
}

/// The search box: what people have of a message, also a reply that somebody quotes.
fn says(record: &Record, text: &str) -> bool {
    let options = [&record.subject, &record.message_id].into_iter().flatten();
    let texts = [&record.sender, &record.server_response.body, &record.reply, &record.webhook_id, &record.sender_ip];
    options.chain(texts).chain(&record.recipients).any(|field| redact::says(field, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ServerResponse;

    fn record() -> Record {
        Record {
            id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            date: "2026-11-24T20:00:00Z".parse().unwrap(),
            sender_ip: "192.0.2.1".into(),
            message_id: Some("<Id@sender.test>".into()),
            sender: "Ann@Sender.test".into(),
            recipients: vec!["bob@example.test".into(), "Carl@Example.test".into()],
            subject: Some("Grüße".into()),
            server_response: ServerResponse { status: 422, body: "no such ticket".into(), content_type: None, retry_after: None },
            processing_time_us: 4,
            queue_us: 1,
            forward_us: 2,
            store_us: 1,
            outcome: Outcome::Rejected,
            reply: "554 5.7.1 no such ticket".into(),
            size: 7,
            tls: None,
            route: "tickets".into(),
            webhook_id: "msg_1".into(),
        }
    }

    #[test]
    fn each_filter_by_itself() {
        let text = |text: &str| Query { text: Some(text.into()), ..Query::default() };
        let table = [
            (Query::default(), true),
            (Query { since: "2026-11-24T20:00:00Z".parse().ok(), ..Query::default() }, true),
            (Query { until: "2026-11-24T20:00:00Z".parse().ok(), ..Query::default() }, false),
            (Query { sender: Some("<ann@sender.test>".into()), ..Query::default() }, true),
            (Query { sender: Some(String::new()), ..Query::default() }, false),
            (Query { recipient: Some("CARL@example.TEST".into()), ..Query::default() }, true),
            (Query { recipient: Some("arl@example.test".into()), ..Query::default() }, false),
            (Query { message_id: Some("id@sender.test".into()), ..Query::default() }, true),
            (Query { outcome: Some(Outcome::Deferred), ..Query::default() }, false),
            (Query { status: Some(422), ..Query::default() }, true),
            (Query { status: Some(0), ..Query::default() }, false),
            (Query { route: Some("tickets".into()), ..Query::default() }, true),
            (Query { route: Some("ticket".into()), ..Query::default() }, false),
            (Query { ip: "192.0.2.1".parse().ok(), ..Query::default() }, true),
            (Query { ip: "192.0.2.11".parse().ok(), ..Query::default() }, false),
            (text("example.test"), true),
            (text(" 554 5.7.1 No such "), true),
            (text("GRÜSSE"), false),
            (text("grüße"), true),
            (text("nothing of it"), false),
        ];
        for (query, expected) in table {
            let filter = Filter::new(&query);
            assert_eq!(filter.takes(&record()), expected, "{query:?}");
            let octets = super::super::encoding::encode(&record());
            assert!(!expected || filter.needle().is_none_or(|needle| needle.may_be_in(&octets)), "{query:?}");
        }
    }
}
