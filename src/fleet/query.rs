//! What the admin listener asks of all boxes: records, undelivered messages, boxes. Plain SQL over the fleet's tables. Logs nothing.

use super::asking::{Asked, Fleet};
use super::connect::Trouble;
use super::erasure;
use super::row::{SELECTED, SELECTED_COLUMNS, mailbox_key, message_key, name_of, record_of, stored};
use super::schema::{SETTLED, uuid};
use crate::record::{Record, RecordId};
use crate::store::Query;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// A box that was brought nothing of for so long is said to be late.
const LATE_SECONDS: i64 = 3600;
/// A record's id is drawn about when its message came.
const ID_LEEWAY_MS: i64 = 3_600_000;
const DEFAULT_LIMIT: usize = 100;
/// Attempts that are looked at in one statement.
const CHUNK_MOST: usize = 20_000;

/// A record, and which box made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetRecord {
    #[serde(flatten)]
    pub record: Record,
    pub r#box: String,
}

/// One page, newest first.
#[derive(Debug)]
pub struct FleetPage<T> {
    pub rows: Vec<T>,
    pub cursor: Option<RecordId>,
}

/// A message that no box has brought to its end.
#[derive(Clone, Debug, Serialize)]
pub struct FleetUndelivered {
    pub attempts: u64,
    pub first_seen: jiff::Timestamp,
    pub last_seen: jiff::Timestamp,
    pub record: FleetRecord,
}

/// One box, as the database last heard of it.
#[derive(Clone, Debug, Serialize)]
pub struct BoxStanding {
    pub name: String,
    pub id: String,
    pub version: String,
    pub started: jiff::Timestamp,
    pub last_seen: jiff::Timestamp,
    pub silent_seconds: i64,
    /// Records that it had not brought yet when it was heard of last.
    pub behind_records: i64,
    /// How long its oldest record has been waiting, or it has not been heard of.
    pub behind_seconds: i64,
    pub lost_records: i64,
    pub mended_records: i64,
    pub clock_ahead_seconds: i64,
    pub late: bool,
}

impl Fleet {
    pub async fn records(&self, query: Query) -> Result<FleetPage<FleetRecord>, Trouble> {
        self.ask(move |asked| async move { records(&asked, &query).await }).await
    }

    pub async fn record(&self, id: RecordId) -> Result<Option<FleetRecord>, Trouble> {
        self.ask(move |asked| async move {
            let sql = format!("SELECT {SELECTED}, coalesce(b.name, '') FROM mailsluice.records r LEFT JOIN mailsluice.boxes b ON b.id = r.box WHERE r.id = $1::text::uuid");
            let rows = asked.query(&sql, &[&uuid(id.0)]).await?;
            rows.first().map(of_box).transpose()
        })
        .await
    }

    /// All attempts at one message on all boxes, oldest first.
    pub async fn attempts(&self, webhook_id: String) -> Result<Vec<FleetRecord>, Trouble> {
        self.ask(move |asked| async move {
            let sql = format!("SELECT {SELECTED}, coalesce(b.name, '') FROM mailsluice.records r LEFT JOIN mailsluice.boxes b ON b.id = r.box WHERE r.webhook_id = $1 ORDER BY r.id DESC LIMIT 1000");
            let mut rows = asked.query(&sql, &[&stored(&webhook_id)]).await?;
            rows.reverse();
            rows.iter().map(of_box).collect()
        })
        .await
    }

    pub async fn undelivered(&self, cursor: Option<RecordId>, limit: usize) -> Result<FleetPage<FleetUndelivered>, Trouble> {
        self.ask(move |asked| async move { undelivered(&asked, cursor, limit).await }).await
    }

    /// Every record that names the address, in pages.
    pub async fn export(&self, address: crate::store::Address, cursor: Option<RecordId>) -> Result<FleetPage<FleetRecord>, Trouble> {
        self.ask(move |asked| async move {
            let found = erasure::candidates(&asked.client, "mailsluice.records", &address, cursor, DEFAULT_LIMIT * 10).await?;
            let cursor = found.next;
            let rows = found.rows.into_iter().filter(|(record, _)| address.is_named_by(record));
            Ok(FleetPage { rows: rows.map(|(record, name)| FleetRecord { record, r#box: name }).collect(), cursor })
        })
        .await
    }

    pub async fn boxes(&self) -> Result<Vec<BoxStanding>, Trouble> {
        self.ask(move |asked| async move { boxes(&asked).await }).await
    }

    /// A box that will not come back; the ids of all of this name or id, of which one alone is struck out.
    pub async fn remove(&self, name: String) -> Result<Vec<String>, Trouble> {
        self.ask(move |asked| async move {
            let sql = "WITH named AS (SELECT id FROM mailsluice.boxes WHERE name = $1 OR id::text = $1), \
                gone AS (DELETE FROM mailsluice.boxes WHERE id IN (SELECT id FROM named) AND (SELECT count(*) FROM named) = 1) \
                SELECT id::text FROM named ORDER BY id";
            let rows = asked.client.query(sql, &[&stored(&name)]).await?;
            Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn of_box(row: &Row) -> Result<FleetRecord, Trouble> {
    Ok(FleetRecord { record: record_of(row)?, r#box: row.try_get(SELECTED_COLUMNS)? })
}

type Argument = Box<dyn ToSql + Sync + Send>;

/// Conditions with their arguments.
#[derive(Default)]
struct Conditions {
    sql: String,
    arguments: Vec<Argument>,
}

impl Conditions {
    /// `{}` is where the argument stands.
    fn and(&mut self, condition: &str, argument: impl ToSql + Sync + Send + 'static) {
        self.arguments.push(Box::new(argument));
        let place = format!("${}", self.arguments.len());
        // Writing to a String cannot fail.
        _ = write!(self.sql, " AND {}", condition.replace("{}", &place));
    }
}

/// An attempt that put its message off and is not known to have been followed by one that did not.
fn open(asked: &Asked) -> &'static str {
    if asked.has_marks { "r.outcome = 'deferred' AND NOT r.settled" } else { "r.outcome = 'deferred'" }
}

async fn records(asked: &Asked, query: &Query) -> Result<FleetPage<FleetRecord>, Trouble> {
    let limit = if query.limit == 0 { DEFAULT_LIMIT } else { query.limit.min(1000) };
    let mut all = Conditions::default();
    if let Some(since) = query.since {
        all.and("r.date >= {}::text::timestamptz", since.to_string());
        let first = u64::try_from(since.as_millisecond().saturating_sub(ID_LEEWAY_MS)).unwrap_or(0);
        all.and("r.id >= {}::text::uuid", uuid(u128::from(first) << 80));
    }
    if let Some(until) = query.until {
        all.and("r.date < {}::text::timestamptz", until.to_string());
    }
    if let Some(cursor) = query.cursor {
        all.and("r.id < {}::text::uuid", uuid(cursor.0));
    }
    if let Some(sender) = &query.sender {
        all.and("r.sender_key = {}", mailbox_key(sender));
    }
    if let Some(recipient) = &query.recipient {
        all.and("r.recipient_keys @> ARRAY[{}::text]", mailbox_key(recipient));
    }
    if let Some(id) = &query.message_id {
        all.and("r.message_key = {}", message_key(id));
    }
    if let Some(outcome) = query.outcome {
        // Named in the question, so that the index of its own is known to fit.
        _ = write!(all.sql, " AND r.outcome = '{}'", name_of(outcome));
    }
    if let Some(route) = &query.route {
        all.and("r.route = {}", stored(route));
    }
    if let Some(status) = query.status {
        all.and("r.status = {}", i32::from(status));
    }
    if let Some(ip) = query.ip {
        all.and("r.sender_ip = {}", ip.to_string());
    }
    if let Some(text) = query.text.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        let pattern = format!("%{}%", stored(text).replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        all.and(
            "concat_ws(E'\\x01', r.subject, r.message_id, r.sender, r.response_body, r.reply, r.webhook_id, r.sender_ip, array_to_string(r.recipients, E'\\x01')) ILIKE {}",
            pattern,
        );
    }
    if query.undelivered {
        _ = write!(
            all.sql,
            " AND {} AND NOT {SETTLED} AND NOT EXISTS (SELECT FROM mailsluice.records l WHERE l.webhook_id = r.webhook_id AND l.id > r.id)",
            open(asked)
        );
    }
    // Without statistics the planner would walk all ids to the rare recipient's: what a GIN index finds is found first.
    let from = if query.recipient.is_some() || query.message_id.is_some() {
        format!("(SELECT * FROM mailsluice.records r WHERE true{} OFFSET 0)", all.sql)
    } else {
        format!("(SELECT * FROM mailsluice.records r WHERE true{} ORDER BY r.id DESC LIMIT {limit})", all.sql)
    };
    let sql = format!(
        "SELECT {SELECTED}, coalesce(b.name, '') FROM {from} r LEFT JOIN mailsluice.boxes b ON b.id = r.box ORDER BY r.id DESC LIMIT {limit}"
    );
    let arguments: Vec<&(dyn ToSql + Sync)> = all.arguments.iter().map(|argument| &**argument as &(dyn ToSql + Sync)).collect();
    let rows: Vec<_> = asked.query(&sql, &arguments).await?.iter().map(of_box).collect::<Result<_, _>>()?;
    let cursor = rows.last().filter(|_| rows.len() == limit).map(|last| last.record.id);
    Ok(FleetPage { rows, cursor })
}

/// From the newest attempt on, some at a time: what a page costs depends on the attempts that it passes over, and not on all records.
async fn undelivered(asked: &Asked, cursor: Option<RecordId>, limit: usize) -> Result<FleetPage<FleetUndelivered>, Trouble> {
    let limit = if limit == 0 { DEFAULT_LIMIT } else { limit.min(1000) };
    let (mut before, mut chunk, mut rows) = (uuid(cursor.map_or(u128::MAX, |cursor| cursor.0)), limit.max(DEFAULT_LIMIT), Vec::new());
    let open = open(asked);
    loop {
        let left = limit - rows.len();
        // An array of ids is looked up in the index; the planner would rather join all records with all.
        let sql = format!(
            "WITH deferred AS MATERIALIZED (SELECT r.id, r.webhook_id FROM mailsluice.records r WHERE {open} \
               AND r.id < $1::text::uuid ORDER BY r.id DESC LIMIT {chunk}), \
             message AS MATERIALIZED (SELECT s.webhook_id, max(s.id::text) AS last, count(*) AS attempts, min(s.date) AS first \
               FROM mailsluice.records s WHERE s.webhook_id = ANY (ARRAY(SELECT webhook_id FROM deferred)) \
               GROUP BY s.webhook_id HAVING bool_and(s.outcome = 'deferred')), \
             page AS MATERIALIZED (SELECT d.id, m.attempts, m.first FROM deferred d JOIN message m USING (webhook_id) WHERE d.id::text = m.last \
               ORDER BY d.id DESC LIMIT {left}) \
             SELECT {SELECTED}, coalesce(b.name, ''), page.attempts, (extract(epoch FROM page.first) * 1000000)::bigint \
             FROM page JOIN mailsluice.records r ON r.id = page.id LEFT JOIN mailsluice.boxes b ON b.id = r.box ORDER BY r.id DESC"
        );
        for row in asked.query(&sql, &[&before]).await? {
            let record = of_box(&row)?;
            let attempts: i64 = row.try_get(SELECTED_COLUMNS + 1)?;
            let first: i64 = row.try_get(SELECTED_COLUMNS + 2)?;
            rows.push(FleetUndelivered {
                attempts: u64::try_from(attempts).unwrap_or_default(),
                first_seen: jiff::Timestamp::from_microsecond(first).unwrap_or_default(),
                last_seen: record.record.date,
                record,
            });
        }
        if rows.len() >= limit {
            break;
        }
        let sql = format!(
            "SELECT r.id::text FROM mailsluice.records r WHERE {open} AND r.id < $1::text::uuid ORDER BY r.id DESC OFFSET {} LIMIT 1",
            chunk - 1
        );
        match asked.query(&sql, &[&before]).await?.first() {
            Some(last) => before = last.try_get(0)?,
            None => break,
        }
        chunk = (chunk * 8).min(CHUNK_MOST);
    }
    let cursor = rows.last().filter(|_| rows.len() == limit).map(|last| last.record.record.id);
    Ok(FleetPage { rows, cursor })
}

async fn boxes(asked: &Asked) -> Result<Vec<BoxStanding>, Trouble> {
    let us = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let sql = format!(
        "SELECT name, id::text, version, {}, {}, behind, {}, lost, mended, clock_ms, {} FROM mailsluice.boxes ORDER BY name, id",
        us("started"),
        us("last_seen"),
        us("coalesce(oldest, last_seen)"),
        us("now()"),
    );
    let mut found = Vec::new();
    for row in asked.query(&sql, &[]).await? {
        let moment = |column: usize| row.try_get::<_, i64>(column);
        let [started, seen, oldest, now] = [moment(3)?, moment(4)?, moment(6)?, moment(10)?];
        let seconds = |from: i64| Duration::from_micros(u64::try_from(now.saturating_sub(from)).unwrap_or(0)).as_secs().cast_signed();
        let (silent_seconds, behind_records) = (seconds(seen), row.try_get(5)?);
        // A box that has brought all and was heard of just now is not behind.
        let is_there = behind_records == 0 && silent_seconds < 30;
        let behind_seconds = if is_there { 0 } else { seconds(oldest).max(silent_seconds) };
        let time = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap_or_default();
        found.push(BoxStanding {
            name: row.try_get(0)?,
            id: row.try_get(1)?,
            version: row.try_get(2)?,
            started: time(started),
            last_seen: time(seen),
            silent_seconds,
            behind_records,
            behind_seconds,
            lost_records: row.try_get(7)?,
            mended_records: row.try_get(8)?,
            clock_ahead_seconds: row.try_get::<_, i64>(9)? / 1000,
            late: behind_seconds >= LATE_SECONDS,
        });
    }
    Ok(found)
}
