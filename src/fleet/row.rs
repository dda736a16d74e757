//! A record as a row: its columns as JSON on the way there, the record again on the way back.

use super::schema::{of_uuid, uuid};
use super::shared::{STEP, make_way};
use crate::config::Redact;
use crate::mailbox;
use crate::record::{Outcome, Record, RecordId, ServerResponse};
use crate::store;
use serde::Serialize;
use std::borrow::Cow;
use tokio_postgres::Row;

/// Index entries have a bound (a third of a page): longer ones are known by their hash.
const KEY_MAX: usize = 500;

#[derive(Serialize)]
struct Columns<'r> {
    id: String,
    r#box: &'r str,
    date: String,
    sender_ip: &'r str,
    message_id: Option<&'r str>,
    sender: &'r str,
    recipients: &'r [String],
    subject: Option<&'r str>,
    status: u16,
    response_body: &'r str,
    content_type: Option<&'r str>,
    retry_after: Option<&'r str>,
    processing_time_us: i64,
    queue_us: i64,
    forward_us: i64,
    store_us: i64,
    outcome: &'static str,
    reply: &'r str,
    size: i64,
    tls: Option<&'r str>,
    route: &'r str,
    webhook_id: &'r str,
    sender_key: String,
    recipient_keys: Vec<String>,
    message_key: Option<String>,
}

/// The text of one statement's argument: a list of rows, as they leave the box.
pub(super) fn to_json(records: &[&Record], this_box: &str, redact: Redact) -> String {
    let mut text = vec![b'['];
    for records in records.chunks(STEP) {
        for record in records {
            if text.len() > 1 {
                text.push(b',');
            }
            // Texts and numbers: nothing that JSON has no form for.
            _ = serde_json::to_writer(&mut text, &columns(&redacted(record, redact), this_box));
        }
        make_way();
    }
    text.push(b']');
    String::from_utf8(text).unwrap_or_default()
}

/// A record as it leaves the box.
pub(super) fn redacted(record: &Record, redact: Redact) -> Cow<'_, Record> {
    if redact == Redact::default() {
        return Cow::Borrowed(record);
    }
    let mut record = record.clone();
    store::redact(&mut record, redact);
    Cow::Owned(record)
}

fn columns<'r>(record: &'r Record, this_box: &'r str) -> Columns<'r> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let response = &record.server_response;
    Columns {
        id: uuid(record.id.0),
        r#box: this_box,
        date: format!("{:.6}", record.date),
        sender_ip: &record.sender_ip,
        message_id: record.message_id.as_deref(),
        sender: &record.sender,
        recipients: &record.recipients,
        subject: record.subject.as_deref(),
        status: response.status,
        response_body: &response.body,
        content_type: response.content_type.as_deref(),
        retry_after: response.retry_after.as_deref(),
        processing_time_us: number(record.processing_time_us),
        queue_us: number(record.queue_us),
        forward_us: number(record.forward_us),
        store_us: number(record.store_us),
        outcome: name_of(record.outcome),
        reply: &record.reply,
        size: number(record.size),
        tls: record.tls.as_deref(),
        route: &record.route,
        webhook_id: &record.webhook_id,
        sender_key: mailbox_key(&record.sender),
        recipient_keys: record.recipients.iter().map(|recipient| mailbox_key(recipient)).collect(),
        message_key: record.message_id.as_deref().map(message_key),
    }
}

/// A text as the tables have it: no PostgreSQL knows U+0000.
pub(super) fn stored(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// One text for every spelling of a mailbox.
pub(super) fn mailbox_key(text: &str) -> String {
    short(mailbox::canonical(store::trimmed(&stored(text))))
}

pub(super) fn message_key(text: &str) -> String {
    short(store::folded(store::trimmed(&stored(text))))
}

fn short(key: String) -> String {
    if key.len() <= KEY_MAX { key } else { format!("blake3:{}", blake3::hash(key.as_bytes()).to_hex()) }
}

pub(super) fn name_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Rejected => "rejected",
        Outcome::Deferred => "deferred",
    }
}

/// What `record_of` reads, in its order; from `mailsluice.records r`.
pub(super) const SELECTED: &str = "r.id::text, (extract(epoch FROM r.date) * 1000000)::bigint, r.sender_ip, r.message_id, r.sender, \
    r.recipients, r.subject, r.status, r.response_body, r.content_type, r.retry_after, r.processing_time_us, r.queue_us, r.forward_us, \
    r.store_us, r.outcome, r.reply, r.size, r.tls, r.route, r.webhook_id";
/// Columns of `SELECTED`; what stands behind is the caller's.
pub(super) const SELECTED_COLUMNS: usize = 21;

pub(super) fn record_of(row: &Row) -> Result<Record, tokio_postgres::Error> {
    let number = |column: usize| row.try_get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or_default());
    let date: i64 = row.try_get(1)?;
    Ok(Record {
        id: RecordId(of_uuid(row.try_get(0)?)),
        date: jiff::Timestamp::from_microsecond(date).unwrap_or_default(),
        sender_ip: row.try_get(2)?,
        message_id: row.try_get(3)?,
        sender: row.try_get(4)?,
        recipients: row.try_get(5)?,
        subject: row.try_get(6)?,
        server_response: ServerResponse {
            status: u16::try_from(row.try_get::<_, i32>(7)?).unwrap_or_default(),
            body: row.try_get(8)?,
            content_type: row.try_get(9)?,
            retry_after: row.try_get(10)?,
        },
        processing_time_us: number(11)?,
        queue_us: number(12)?,
        forward_us: number(13)?,
        store_us: number(14)?,
        outcome: match row.try_get(15)? {
            "delivered" => Outcome::Delivered,
            "rejected" => Outcome::Rejected,
            _ => Outcome::Deferred,
        },
        reply: row.try_get(16)?,
        size: number(17)?,
        tls: row.try_get(18)?,
        route: row.try_get(19)?,
        webhook_id: row.try_get(20)?,
    })
}
