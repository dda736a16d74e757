//! The fleet's tables, as SQL. Made once by `mailsluice fleet init` with an owner's rights; partitions come and go by whichever box is first.
//!
//! A ULID begins with its time, so a day is a range of ids, and the primary key needs no date. No statistics are gathered on columns that
//! may hold an address: ANALYZE would copy values of them into a catalogue that no erasure reaches.

use crate::config::Postgres;
use std::fmt::Write as _;

/// What this program writes. A newer one may add columns with defaults: boxes of two versions work side by side.
pub(super) const FORMAT: i32 = 1;
/// What was added within the format, by `init`; a box that finds less does without. 1: `records.settled`.
pub(super) const REVISION: i32 = 1;
/// Tables belong to it; the writer is a member and says SET ROLE where an owner is needed.
pub(super) const OWNER: &str = "mailsluice_owner";
/// Of all works on partitions.
pub(super) const PARTITIONS_LOCK: i64 = 0x6d61_696c_7061_7274;

/// In another encoding not every letter has its place, or none is known for what it is.
pub(super) const NO_UTF8: &str = "the database is not in UTF-8: make it with createdb --encoding=UTF8 --template=template0";

const MS_PER_DAY: u64 = 86_400_000;

/// What a box brings of a record: columns and their types, as the statement that takes them says them.
pub(super) const COLUMNS: [(&str, &str); 25] = [
    ("id", "uuid"),
    ("box", "uuid"),
    ("date", "timestamptz"),
    ("sender_ip", "text"),
    ("message_id", "text"),
    ("sender", "text"),
    ("recipients", "text[]"),
    ("subject", "text"),
    ("status", "integer"),
    ("response_body", "text"),
    ("content_type", "text"),
    ("retry_after", "text"),
    ("processing_time_us", "bigint"),
    ("queue_us", "bigint"),
    ("forward_us", "bigint"),
    ("store_us", "bigint"),
    ("outcome", "text"),
    ("reply", "text"),
    ("size", "bigint"),
    ("tls", "text"),
    ("route", "text"),
    ("webhook_id", "text"),
    ("sender_key", "text"),
    ("recipient_keys", "text[]"),
    ("message_key", "text"),
];

/// Columns that may hold an address.
const PERSONAL: [&str; 14] = [
    "sender_ip",
    "message_id",
    "sender",
    "recipients",
    "subject",
    "response_body",
    "content_type",
    "retry_after",
    "reply",
    "tls",
    "route",
    "sender_key",
    "recipient_keys",
    "message_key",
];

/// Of a message `r` that was put off: an attempt brought it to its end, on whichever box. One probe a partition.
pub(super) const SETTLED: &str = "EXISTS (SELECT FROM mailsluice.records s WHERE s.webhook_id = r.webhook_id AND s.outcome <> 'deferred')";

const TABLES: &str = "\
CREATE SCHEMA IF NOT EXISTS mailsluice AUTHORIZATION mailsluice_owner;
SET ROLE mailsluice_owner;
CREATE TABLE IF NOT EXISTS mailsluice.format (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, id_secret_check text);
INSERT INTO mailsluice.format (version) VALUES (1) ON CONFLICT DO NOTHING;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mailsluice.format'::regclass AND attname = 'revision') THEN
  ALTER TABLE mailsluice.format ADD COLUMN revision integer NOT NULL DEFAULT 0, ADD COLUMN swept timestamptz; END IF; END $$;
CREATE TABLE IF NOT EXISTS mailsluice.boxes (
  id uuid PRIMARY KEY, name text NOT NULL, version text NOT NULL, token uuid, started timestamptz NOT NULL, last_seen timestamptz NOT NULL,
  retention_seconds bigint NOT NULL, behind bigint NOT NULL DEFAULT 0, oldest timestamptz, lost bigint NOT NULL DEFAULT 0,
  mended bigint NOT NULL DEFAULT 0, clock_ms bigint NOT NULL DEFAULT 0, brought bigint NOT NULL DEFAULT 0);
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mailsluice.boxes'::regclass AND attname = 'brought') THEN
  ALTER TABLE mailsluice.boxes ADD COLUMN brought bigint NOT NULL DEFAULT 0; END IF; END $$;
CREATE TABLE IF NOT EXISTS mailsluice.records (
  id uuid PRIMARY KEY, box uuid NOT NULL, date timestamptz NOT NULL, sender_ip text NOT NULL, message_id text, sender text NOT NULL,
  recipients text[] NOT NULL, subject text, status integer NOT NULL, response_body text NOT NULL, content_type text, retry_after text,
  processing_time_us bigint NOT NULL, queue_us bigint NOT NULL, forward_us bigint NOT NULL, store_us bigint NOT NULL,
  outcome text NOT NULL, reply text NOT NULL, size bigint NOT NULL, tls text, route text NOT NULL, webhook_id text NOT NULL,
  sender_key text NOT NULL, recipient_keys text[] NOT NULL, message_key text
) PARTITION BY RANGE (id);
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mailsluice.records'::regclass AND attname = 'settled') THEN
  ALTER TABLE mailsluice.records ADD COLUMN settled boolean NOT NULL DEFAULT false; END IF; END $$;
CREATE INDEX IF NOT EXISTS records_webhook ON mailsluice.records (webhook_id, outcome);
CREATE INDEX IF NOT EXISTS records_deferred ON mailsluice.records (id) WHERE outcome = 'deferred';
CREATE INDEX IF NOT EXISTS records_open ON mailsluice.records (id) INCLUDE (webhook_id) WHERE outcome = 'deferred' AND NOT settled;
CREATE INDEX IF NOT EXISTS records_rejected ON mailsluice.records (id) WHERE outcome = 'rejected';
CREATE INDEX IF NOT EXISTS records_sender ON mailsluice.records (sender_key, id);
CREATE INDEX IF NOT EXISTS records_message ON mailsluice.records (message_key);
CREATE INDEX IF NOT EXISTS records_recipients ON mailsluice.records USING gin (recipient_keys) WITH (fastupdate = off);
CREATE TABLE IF NOT EXISTS mailsluice.records_other PARTITION OF mailsluice.records DEFAULT;
CREATE TABLE IF NOT EXISTS mailsluice.latency (
  minute timestamptz NOT NULL, box uuid NOT NULL, stage text NOT NULL, route text NOT NULL DEFAULT '', histogram bytea NOT NULL,
  PRIMARY KEY (minute, box, stage, route));
CREATE TABLE IF NOT EXISTS mailsluice.erasures (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, asked timestamptz NOT NULL DEFAULT now(), done timestamptz,
  records bigint NOT NULL DEFAULT 0, trouble text);
CREATE TABLE IF NOT EXISTS mailsluice.signatures (
  erasure bigint NOT NULL REFERENCES mailsluice.erasures ON DELETE CASCADE, box uuid NOT NULL, signed timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (erasure, box));
CREATE TABLE IF NOT EXISTS mailsluice.rewrites (part text PRIMARY KEY, noted timestamptz NOT NULL DEFAULT clock_timestamp());
";

/// For people with psql.
fn views() -> String {
    let columns: Vec<_> = COLUMNS.iter().map(|(name, _)| format!("r.{name}")).collect();
    let rows = format!("{}, b.name AS box_name FROM mailsluice.records r LEFT JOIN mailsluice.boxes b ON b.id = r.box", columns.join(", "));
    format!(
        "CREATE OR REPLACE VIEW mailsluice.log AS SELECT {rows} ORDER BY r.id DESC;\n\
         CREATE OR REPLACE VIEW mailsluice.undelivered AS SELECT DISTINCT ON (r.webhook_id) {rows} \
         WHERE r.outcome = 'deferred' AND NOT r.settled AND NOT {SETTLED} ORDER BY r.webhook_id, r.id DESC;\n"
    )
}

/// What is left where roles, schema and rights are there already; run by an owner. Ends with the rights of the daemon's user.
pub(super) fn init(postgres: Option<&Postgres>) -> String {
    let mut sql = String::from("SELECT pg_advisory_xact_lock(7881690371923178100);\n");
    let refusal = format!("RAISE EXCEPTION '%', {}", literal(NO_UTF8));
    _ = writeln!(sql, "{}", unless("SELECT WHERE current_setting('server_encoding') = 'UTF8'", &refusal));
    for role in [OWNER, "mailsluice_writer", "mailsluice_reader"] {
        let create = format!("CREATE ROLE {role} NOLOGIN");
        // Writing to a String cannot fail.
        _ = writeln!(sql, "{}", unless(&format!("SELECT FROM pg_roles WHERE rolname = '{role}'"), &create));
    }
    sql.push_str(&grant(OWNER, "mailsluice_writer"));
    sql.push_str(&grant(OWNER, "CURRENT_USER"));
    // To see whose transactions keep old rows. It is an administrator's to give; without it only our own sessions are seen.
    sql.push_str("DO $$ BEGIN GRANT pg_read_all_stats TO mailsluice_owner; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;\n");
    if let Some(user) = postgres.and_then(Postgres::user).filter(|user| !user.is_empty()) {
        let create = format!("CREATE ROLE {} LOGIN", identifier(user));
        _ = writeln!(sql, "{}", unless(&format!("SELECT FROM pg_roles WHERE rolname = {}", literal(user)), &create));
        sql.push_str(&grant("mailsluice_writer", &identifier(user)));
    }
    sql.push_str(
        "DO $$ BEGIN EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO mailsluice_owner', current_database());\n\
         EXECUTE format('GRANT CONNECT ON DATABASE %I TO mailsluice_writer, mailsluice_reader', current_database()); END $$;\n",
    );
    sql.push_str(TABLES);
    sql.push_str(&views());
    // Writing to a String cannot fail.
    _ = writeln!(sql, "UPDATE mailsluice.format SET revision = {REVISION} WHERE revision < {REVISION};");
    sql.push_str(&without_statistics("mailsluice.records"));
    sql.push_str(&without_statistics("mailsluice.records_other"));
    sql.push_str(
        "ALTER TABLE mailsluice.erasures ALTER COLUMN address SET STATISTICS 0;\n\
         GRANT USAGE ON SCHEMA mailsluice TO mailsluice_writer, mailsluice_reader;\n\
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mailsluice TO mailsluice_writer;\n\
         GRANT SELECT ON mailsluice.records, mailsluice.boxes, mailsluice.latency, mailsluice.format, mailsluice.log, mailsluice.undelivered \
         TO mailsluice_reader;\n\
         RESET ROLE;\n",
    );
    sql
}

fn unless(exists: &str, statement: &str) -> String {
    format!("DO $$ BEGIN IF NOT EXISTS ({exists}) THEN {statement}; END IF; END $$;")
}

/// Where it is granted already nothing is written: two databases of one server share their roles.
fn grant(role: &str, member: &str) -> String {
    let name = if member == "CURRENT_USER" { member.to_owned() } else { literal(member.trim_matches('"')) };
    unless(&format!("SELECT WHERE pg_has_role({name}, '{role}', 'MEMBER')"), &format!("GRANT {role} TO {member}")) + "\n"
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn without_statistics(table: &str) -> String {
    let columns: Vec<_> = PERSONAL.iter().map(|column| format!("ALTER COLUMN {column} SET STATISTICS 0")).collect();
    format!("ALTER TABLE {table} {};\n", columns.join(", "))
}

/// Days since 1970 of a record's id.
pub(super) fn day_of(id: u128) -> u64 {
    u64::try_from(id >> 80).unwrap_or(u64::MAX) / MS_PER_DAY
}

/// The first id of a day, as the server writes it.
pub(super) fn first_of(day: u64) -> String {
    uuid(u128::from(day.saturating_mul(MS_PER_DAY)) << 80)
}

pub(super) fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

pub(super) fn of_uuid(text: &str) -> u128 {
    u128::from_str_radix(&text.replace('-', ""), 16).unwrap_or_default()
}

/// `records_20261130`
pub(super) fn partition(day: u64) -> String {
    let second = i64::try_from(day.saturating_mul(86_400)).unwrap_or(i64::MAX);
    let date = jiff::Timestamp::from_second(second).map(|moment| moment.strftime("%Y%m%d").to_string());
    format!("records_{}", date.unwrap_or_else(|_| day.to_string()))
}

/// One day's partition, in a transaction of the owner. What of it lies in the one for all others moves over.
pub(super) fn make_partition(day: u64) -> String {
    let (name, from, to) = (partition(day), first_of(day), first_of(day + 1));
    format!(
        "CREATE TABLE mailsluice.{name} (LIKE mailsluice.records INCLUDING ALL);\n{}\
         GRANT SELECT, INSERT, UPDATE, DELETE ON mailsluice.{name} TO mailsluice_writer;\n\
         WITH moved AS (DELETE FROM mailsluice.records_other WHERE id >= '{from}' AND id < '{to}' RETURNING *) \
         INSERT INTO mailsluice.{name} SELECT * FROM moved;\n\
         ALTER TABLE mailsluice.records ATTACH PARTITION mailsluice.{name} FOR VALUES FROM ('{from}') TO ('{to}');\n",
        without_statistics(&format!("mailsluice.{name}"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_range_of_ids() {
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<crate::record::RecordId>().unwrap().0;
        let day = day_of(id);
        assert_eq!(partition(day), "records_20160730");
        assert!(first_of(day) <= uuid(id) && uuid(id) < first_of(day + 1));
        assert_eq!(of_uuid(&uuid(id)), id);
    }

    #[test]
    fn names_are_quoted() {
        let postgres = Postgres::parse("host=/run user='it''s \"me\"'", None)
            .unwrap_or_else(|_| Postgres::parse("host=/run user='a\"b'", None).unwrap());
        let sql = init(Some(&postgres));
        assert!(sql.contains("CREATE ROLE \"a\"\"b\" LOGIN"), "{sql}");
    }
}
