//! `forget` in all boxes: a row in the database asks for it, each box erases its own store, brings what that changed and signs; when nobody is
//! missing, whichever box comes first erases what is left in the tables and rewrites the touched ones, as the server would keep the octets.
//! Logs what it has done, without the address.

use super::asking::Fleet;
use super::connect::{PATIENCE, Trouble, connect};
use super::row::{SELECTED, SELECTED_COLUMNS, mailbox_key, record_of, to_json};
use super::schema::{OWNER, uuid};
use super::shared::Shared;
use super::shipper::mend;
use crate::config::Redact;
use crate::record::{Record, RecordId};
use crate::store::Address;
use serde::Serialize;
use std::time::Duration;
use tokio_postgres::Client;

/// Of all works that rewrite tables.
const REWRITE_LOCK: i64 = 0x6d61_696c_6572_6173;
const PAGE: usize = 500;
/// A transaction that began before the erasure sees the old rows, and keeps them: so long it is waited for.
const OLD_TRANSACTIONS: Duration = Duration::from_secs(120);
/// A box that says nothing for longer is named to whoever waits.
const SILENT_SECONDS: i64 = 15;

/// Boxes that have not signed, of those that still may have something.
const MISSING: &str = "FROM mailsluice.boxes b WHERE b.last_seen > now() - b.retention_seconds * interval '1 second' \
    AND NOT EXISTS (SELECT FROM mailsluice.signatures s WHERE s.erasure = e.id AND s.box = b.id)";

/// What of an erasure is known.
#[derive(Clone, Debug, Serialize)]
pub struct Erasure {
    pub id: i64,
    pub done: bool,
    /// Rows of the database that were changed at the end.
    pub records: i64,
    /// Boxes that have not erased it yet, with how long nothing was heard of them.
    pub waiting: Vec<Waiting>,
    /// Why it does not come to its end.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    pub r#box: String,
    pub silent_seconds: i64,
    pub silent: bool,
}

impl Fleet {
    /// Asks all boxes to erase an address.
    pub async fn forget(&self, address: Address) -> Result<i64, Trouble> {
        self.ask(move |asked| async move {
            let sql = "INSERT INTO mailsluice.erasures (address) VALUES ($1) RETURNING id";
            Ok(asked.client.query_one(sql, &[&address.canonical()]).await?.try_get(0)?)
        })
        .await
    }

    pub async fn erasure(&self, id: i64) -> Result<Option<Erasure>, Trouble> {
        self.ask(move |asked| async move {
            let client = &asked.client;
            let sql = "SELECT done IS NOT NULL, records, trouble FROM mailsluice.erasures WHERE id = $1";
            let Some(row) = client.query_opt(sql, &[&id]).await? else { return Ok(None) };
            let sql = format!(
                "SELECT m.name, m.silent FROM mailsluice.erasures e, LATERAL (SELECT b.name, extract(epoch FROM now() - b.last_seen)::bigint AS silent {MISSING}) m \
                 WHERE e.id = $1 ORDER BY m.name"
            );
            let waiting = client.query(&sql, &[&id]).await?.into_iter().map(|row| {
                let silent_seconds: i64 = row.try_get(1)?;
                Ok(Waiting { r#box: row.try_get(0)?, silent_seconds, silent: silent_seconds > SILENT_SECONDS })
            });
            let waiting: Vec<_> = waiting.collect::<Result<_, tokio_postgres::Error>>()?;
            let done: bool = row.try_get(0)?;
            let waiting = if done { Vec::new() } else { waiting };
            Ok(Some(Erasure { id, done, records: row.try_get(1)?, waiting, trouble: row.try_get(2)? }))
        })
        .await
    }
}

/// What this box has not signed yet.
pub(super) async fn asked(client: &Client, box_id: &str) -> Result<Vec<(i64, String)>, Trouble> {
    let sql = "SELECT e.id, e.address FROM mailsluice.erasures e WHERE e.done IS NULL AND e.address IS NOT NULL \
        AND NOT EXISTS (SELECT FROM mailsluice.signatures s WHERE s.erasure = e.id AND s.box = $1::text::uuid) ORDER BY e.id LIMIT 10";
    let rows = client.query(sql, &[&box_id]).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Of the very address: in a database that was made anew another erasure may have its number, or none.
pub(super) async fn sign(client: &Client, erasure: i64, address: &str, box_id: &str) -> Result<(), Trouble> {
    let sql = "INSERT INTO mailsluice.signatures (erasure, box) SELECT e.id, $3::text::uuid FROM mailsluice.erasures e \
        WHERE e.id = $1 AND e.address = $2 ON CONFLICT DO NOTHING";
    Ok(client.execute(sql, &[&erasure, &address, &box_id]).await.map(drop)?)
}

/// What keeps an erasure from its end stands beside it, for whoever waits.
pub(super) async fn say(client: &Client, erasure: i64, trouble: Option<&str>) -> Result<(), Trouble> {
    Ok(client.execute("UPDATE mailsluice.erasures SET trouble = $2 WHERE id = $1", &[&erasure, &trouble]).await.map(drop)?)
}

/// Those that all boxes have signed; nothing but the tables is left.
pub(super) async fn signed_by_all(client: &Client) -> Result<Vec<(i64, Option<String>)>, Trouble> {
    let sql = format!(
        "SELECT e.id, e.address FROM mailsluice.erasures e WHERE e.done IS NULL AND NOT EXISTS (SELECT {MISSING}) ORDER BY e.id LIMIT 10"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Brings these to their end, over a connection of its own. What keeps it from that stands beside the erasure.
pub(super) async fn finish(shared: &Shared, erasures: &[(i64, Option<String>)]) -> Result<(), Trouble> {
    let client = connect(&shared.config).await?;
    if !client.query_one("SELECT pg_try_advisory_lock($1)", &[&REWRITE_LOCK]).await?.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let finished = finish_with(&client, erasures).await;
    let trouble = finished.as_ref().err().map(|trouble| format!("the tables could not be rewritten: {trouble}"));
    client.batch_execute("RESET ROLE").await?;
    for (id, _) in erasures {
        say(&client, *id, trouble.as_deref()).await?;
    }
    if finished.is_ok() {
        let sql = "UPDATE mailsluice.erasures SET done = now() WHERE id = $1";
        for (id, _) in erasures {
            client.execute(sql, &[id]).await?;
        }
        tracing::info!(erasures = erasures.len(), "addresses were erased from the fleet's database");
    }
    finished
}

async fn finish_with(client: &Client, erasures: &[(i64, Option<String>)]) -> Result<(), Trouble> {
    client.batch_execute(&format!("SET ROLE {OWNER}; SET timezone = 'UTC'")).await?;
    for (id, address) in erasures {
        let Some(address) = address.as_deref().and_then(Address::new) else { continue };
        let records = erase(client, &address).await?;
        client.execute("UPDATE mailsluice.erasures SET address = NULL, records = $2 WHERE id = $1", &[id, &records]).await?;
    }
    await_old_transactions(client).await?;
    for row in client.query("SELECT part, clock_timestamp()::text FROM mailsluice.rewrites", &[]).await? {
        let (part, since): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        rewrite(client, &part).await?;
        let sql = "DELETE FROM mailsluice.rewrites WHERE part = $1 AND noted < $2::text::timestamptz";
        client.execute(sql, &[&part, &since]).await?;
    }
    // Rows pass through the one, addresses stand in the other.
    rewrite(client, "mailsluice.records_other").await?;
    rewrite(client, "mailsluice.erasures").await
}

/// Takes the address out of every row that names it; says of how many.
async fn erase(client: &Client, address: &Address) -> Result<i64, Trouble> {
    let columns = [
        "sender_ip text",
        "message_id text",
        "sender text",
        "recipients text[]",
        "subject text",
        "response_body text",
        "content_type text",
        "retry_after text",
        "reply text",
        "tls text",
        "route text",
        "webhook_id text",
        "sender_key text",
        "recipient_keys text[]",
        "message_key text",
    ];
    let set: Vec<_> = columns.iter().filter_map(|column| column.split_once(' ')).map(|(name, _)| format!("{name} = n.{name}")).collect();
    let sql = format!(
        "WITH changed AS (UPDATE mailsluice.records r SET {} FROM json_to_recordset($1::text::json) AS n(id uuid, {}) WHERE r.id = n.id \
         RETURNING r.tableoid::regclass::text AS part), \
         noted AS (INSERT INTO mailsluice.rewrites (part) SELECT DISTINCT part FROM changed ON CONFLICT (part) DO UPDATE SET noted = clock_timestamp()) \
         SELECT count(*) FROM changed",
        set.join(", "),
        columns.join(", ")
    );
    let (mut cursor, mut erased) = (None, 0);
    loop {
        let found = candidates(client, "mailsluice.records", address, cursor, PAGE).await?;
        let named = found.rows.into_iter().map(|(record, _)| record);
        let mut records: Vec<Record> = named.filter_map(|mut record| address.erase(&mut record).then_some(record)).collect();
        records.iter_mut().for_each(mend);
        if !records.is_empty() {
            let text = to_json(&records.iter().collect::<Vec<_>>(), &uuid(0), Redact::default());
            erased += client.query_one(&sql, &[&text]).await?.try_get::<_, i64>(0)?;
        }
        cursor = found.next;
        if cursor.is_none() {
            return Ok(erased);
        }
    }
}

/// Rows that may name an address, with their boxes' names, newest first.
pub(super) struct Candidates {
    pub(super) rows: Vec<(Record, String)>,
    pub(super) next: Option<RecordId>,
}

/// A text can spell an address in other letters than its own where it has escapes, quotes or letters beyond ASCII.
pub(super) async fn candidates(
    client: &Client,
    table: &str,
    address: &Address,
    before: Option<RecordId>,
    limit: usize,
) -> Result<Candidates, Trouble> {
    let canonical = address.canonical();
    let text = "concat_ws(E'\\x01', r.message_id, r.subject, r.content_type, r.retry_after, r.tls, r.response_body, r.reply, r.route, r.sender_ip, r.webhook_id)";
    let mentions = if canonical.is_ascii() && !canonical.contains("xn--") {
        "strpos(lower(t.text), $2) > 0 OR t.text ~ '[%\\\\]|\"@' OR lower(t.text) ~ 'xn--' OR octet_length(t.text) <> char_length(t.text)"
    } else {
        "(t.text ~ '[@%\\\\]' OR $2 IS NULL)"
    };
    let sql = format!(
        "SELECT {SELECTED}, coalesce(b.name, '') FROM {table} r CROSS JOIN LATERAL (SELECT {text} AS text) t \
         LEFT JOIN mailsluice.boxes b ON b.id = r.box \
         WHERE r.id < $3::text::uuid AND (r.sender_key = $1 OR r.recipient_keys @> ARRAY[$1] OR {mentions}) ORDER BY r.id DESC LIMIT {limit}"
    );
    let before = uuid(before.map_or(u128::MAX, |id| id.0));
    let rows = client.query(&sql, &[&mailbox_key(canonical), &canonical, &before]).await?;
    let rows: Vec<_> =
        rows.iter().map(|row| Ok((record_of(row)?, row.try_get(SELECTED_COLUMNS)?))).collect::<Result<_, tokio_postgres::Error>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(record, _): &(Record, String)| record.id);
    Ok(Candidates { rows, next })
}

/// Rows that somebody's snapshot may still show would be copied as well. Transactions that are older than this moment's end first: what begins
/// later sees the erased rows alone. The owner may look at all sessions, where an administrator ran `init`.
async fn await_old_transactions(client: &Client) -> Result<(), Trouble> {
    let xid: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await?.try_get(0)?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
        AND (age(backend_xmin) >= age($1::text::xid8::xid) OR age(backend_xid) >= age($1::text::xid8::xid))";
    let until = tokio::time::Instant::now() + OLD_TRANSACTIONS;
    while client.query_one(sql, &[&xid]).await?.try_get::<_, i64>(0)? > 0 {
        if tokio::time::Instant::now() >= until {
            return Err(Trouble::Refused("a transaction is open in the database that began before, and keeps the old rows".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A new file for a table. Of somebody who is no owner the server takes the command, warns and does nothing: so the file is looked at.
async fn rewrite(client: &Client, table: &str) -> Result<(), Trouble> {
    let file = "SELECT to_regclass($1)::oid, pg_relation_filenode(to_regclass($1))";
    let node = async || -> Result<Option<u32>, Trouble> { Ok(client.query_one(file, &[&table]).await?.try_get(1)?) };
    let Some(before) = node().await? else { return Ok(()) };
    client.batch_execute("SET lock_timeout = '30s'; SET statement_timeout = 0").await?;
    client.batch_execute(&format!("VACUUM (FULL) {table}")).await?;
    match node().await? {
        Some(after) if after == before => Err(Trouble::Refused(format!("the owner's rights on {table} are missing"))),
        Some(_) | None => Ok(()),
    }
}

/// An erasure is looked for no less often.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// Until the erasure at hand is given up and begun again.
pub(super) const FINISH: Duration = Duration::from_secs(PATIENCE.as_secs() * 120);
