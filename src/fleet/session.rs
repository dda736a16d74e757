//! A connection over which this box brings its records: claimed for its identity, with the statements it uses. One statement a batch, which
//! also says where the box stands; nothing is in the tables twice. Logs nothing.

use super::connect::{Trouble, connect, with_clock};
use super::row;
use super::schema::{COLUMNS, FORMAT, NO_UTF8, OWNER, PARTITIONS_LOCK, day_of, first_of, make_partition, partition, uuid};
use super::shared::Shared;
use crate::record::Record;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// A box that was silent for so long may be taken over by who has its store: the other's connection is not known to have ended.
const STALE: &str = "30 seconds";
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Partitions are there so many days ahead; a clock may run ahead by as many before its records go where all others go.
const AHEAD: u64 = 2;
const CLOCK_AHEAD: u64 = 7;

pub(super) struct Session {
    pub(super) client: Client,
    /// `records.settled` is there.
    pub(super) has_marks: bool,
    insert: Statement,
    change: Statement,
    seen: Statement,
    /// That have a partition.
    days: BTreeMap<u64, ()>,
    /// The server's clock in milliseconds since 1970, and ours at that moment.
    clock: (i64, i64),
    claim: Claim,
}

/// What the database knew of this box when the connection was opened.
#[derive(Clone, Copy)]
struct Claim {
    is_locked: bool,
    /// By this daemon, over an earlier connection.
    is_ours: bool,
    is_new: bool,
    brought: u64,
}

/// What the database has of this box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    /// Perhaps all, up to where another daemon of this box came.
    NotLess(u64),
    /// This daemon's, up to here.
    All(u64),
    /// It does not know this box.
    Nothing,
}

/// Where this box stands, as others see it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) behind: u64,
    /// When its oldest record was made that is not there yet, in microseconds since 1970.
    pub(super) oldest_us: Option<i64>,
    pub(super) lost: u64,
    pub(super) mended: u64,
    /// Up to this commit number all is there.
    pub(super) brought: u64,
}

impl Session {
    /// Of a box that has so many records to bring.
    pub(super) async fn open(shared: &Shared, behind: u64) -> Result<Self, Trouble> {
        let client = connect(&shared.config).await?;
        match with_clock(Self::begin(shared, client, behind)).await {
            Err(Trouble::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                Err(Trouble::Refused("the fleet's tables are an earlier version's: run mailsluice fleet init".to_owned()))
            }
            opened => opened,
        }
    }

    async fn begin(shared: &Shared, client: Client, behind: u64) -> Result<Self, Trouble> {
        // The server gives up before we do: a statement that outlives its connection would keep this box's lock.
        client.batch_execute("SET statement_timeout = '25s'; SET lock_timeout = '20s'; SET timezone = 'UTC'").await?;
        let revision = check_format(&client, Some(&shared.id_secret_check)).await?;
        let claim = claim(shared, &client, behind).await?;
        let (names, types): (Vec<_>, Vec<_>) = COLUMNS.iter().map(|(name, kind)| (*name, format!("{name} {kind}"))).unzip();
        let (names, types) = (names.join(", "), types.join(", "));
        let me = "me AS (UPDATE mailsluice.boxes SET last_seen = now(), behind = $4, oldest = to_timestamp($5::bigint::numeric / 1000000), \
            lost = $6, mended = $7, clock_ms = $8, brought = $9 WHERE id = $2::text::uuid AND token = $3::text::uuid RETURNING id)";
        let rows =
            format!("INSERT INTO mailsluice.records ({names}) SELECT {names} FROM me, json_to_recordset($1::text::json) AS r({types})");
        let rows = rows.replace("SELECT id, box", "SELECT r.id, r.box");
        let now = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint)";
        let insert = format!("WITH {me}, new AS ({rows} ON CONFLICT (id) DO NOTHING) SELECT count(*), {now} FROM me");
        let set: Vec<_> = COLUMNS.iter().skip(1).map(|(name, _)| format!("{name} = EXCLUDED.{name}")).collect();
        let change = format!(
            "WITH {me}, changed AS ({rows} ON CONFLICT (id) DO UPDATE SET {} RETURNING tableoid::regclass::text AS part), \
             noted AS (INSERT INTO mailsluice.rewrites (part) SELECT DISTINCT part FROM changed ON CONFLICT (part) DO UPDATE SET noted = clock_timestamp()) \
             SELECT count(*), {now} FROM me",
            set.join(", ")
        );
        let seen = format!("WITH {me} SELECT count(*), {now} FROM me WHERE $1::text IS NOT NULL");
        let (insert, change, seen) = (client.prepare(&insert).await?, client.prepare(&change).await?, client.prepare(&seen).await?);
        let mut session =
            Self { client, has_marks: revision > 0, insert, change, seen, days: BTreeMap::new(), clock: (now_ms(), now_ms()), claim };
        session.read_days().await?;
        Ok(session)
    }

    pub(super) fn has(&self) -> Has {
        match self.claim {
            Claim { is_new: true, .. } => Has::Nothing,
            Claim { is_ours: true, brought, .. } => Has::All(brought),
            Claim { brought, .. } => Has::NotLess(brought),
        }
    }

    /// Brings a batch; what is older than the fleet keeps is left out.
    pub(super) async fn bring(&mut self, shared: &Shared, records: &[Record], standing: Standing) -> Result<(), Trouble> {
        let statement = self.insert.clone();
        self.write(shared, &statement, records, standing).await
    }

    /// Records that are there already, as they are now.
    pub(super) async fn change(&mut self, shared: &Shared, records: &[Record], standing: Standing) -> Result<(), Trouble> {
        let statement = self.change.clone();
        self.write(shared, &statement, records, standing).await
    }

    async fn write(&mut self, shared: &Shared, statement: &Statement, records: &[Record], standing: Standing) -> Result<(), Trouble> {
        let oldest = self.oldest_day(shared);
        let records: Vec<_> = records.iter().filter(|record| day_of(record.id.0) >= oldest).collect();
        let today = self.today();
        let wanted: Vec<_> = records.iter().map(|record| day_of(record.id.0)).filter(|day| *day <= today + CLOCK_AHEAD).collect();
        with_clock(async {
            self.make_partitions(wanted).await?;
            let text = row::to_json(&records, &shared.box_id, shared.config.redact);
            self.say(shared, statement, &text, standing).await
        })
        .await
    }

    /// That this box is there, and where it stands.
    pub(super) async fn beat(&mut self, shared: &Shared, standing: Standing) -> Result<(), Trouble> {
        let statement = self.seen.clone();
        if !self.claim.is_locked {
            // Held by a connection of ours that had not ended, or by a box that is gone.
            self.claim.is_locked = with_clock(lock(shared, &self.client)).await?;
        }
        with_clock(self.say(shared, &statement, "", standing)).await
    }

    async fn say(&mut self, shared: &Shared, statement: &Statement, text: &str, standing: Standing) -> Result<(), Trouble> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let Standing { behind, oldest_us, lost, mended, brought } = standing;
        let (behind, lost, mended, brought) = (number(behind), number(lost), number(mended), number(brought));
        let skew = self.clock.1.saturating_sub(self.clock.0);
        let (me, token) = (&shared.box_id, &shared.token);
        let arguments: [&(dyn ToSql + Sync); 9] = [&text, me, token, &behind, &oldest_us, &lost, &mended, &skew, &brought];
        let row = self.client.query_one(statement, &arguments).await?;
        self.clock = (row.try_get(1)?, now_ms());
        if row.try_get::<_, i64>(0)? == 1 {
            return Ok(());
        }
        let known = self.client.query_opt("SELECT FROM mailsluice.boxes WHERE id = $1::text::uuid", &[me]).await?;
        Err(if known.is_some() { taken() } else { Trouble::Refused("this box was struck out of the fleet: it joins anew".to_owned()) })
    }

    /// How many seconds this machine's clock is ahead of the server's.
    pub(super) fn clock_ahead(&self) -> i64 {
        self.clock.1.saturating_sub(self.clock.0) / 1000
    }

    fn today(&self) -> u64 {
        u64::try_from(self.clock.0).unwrap_or(0) / 86_400_000
    }

    fn oldest_day(&self, shared: &Shared) -> u64 {
        self.today().saturating_sub(shared.config.retention.as_secs().div_ceil(86_400))
    }

    async fn read_days(&mut self) -> Result<(), Trouble> {
        let sql = "SELECT (SELECT to_date(right(c.relname, -8), 'YYYYMMDD') - date '1970-01-01')::bigint FROM pg_inherits i \
            JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'mailsluice.records'::regclass AND c.relname ~ '^records_[0-9]{8}$'";
        self.days.clear();
        for row in self.client.query(sql, &[]).await? {
            self.days.insert(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0), ());
        }
        Ok(())
    }

    /// Whichever box comes first makes them, with an owner's rights.
    async fn make_partitions(&mut self, wanted: Vec<u64>) -> Result<(), Trouble> {
        if wanted.iter().all(|day| self.days.contains_key(day)) {
            return Ok(());
        }
        let begin = format!("BEGIN; SET LOCAL ROLE {OWNER}; SELECT pg_advisory_xact_lock({PARTITIONS_LOCK})");
        let made = async {
            self.client.batch_execute(&begin).await?;
            self.read_days().await?;
            for day in wanted {
                if self.days.insert(day, ()).is_none() {
                    self.client.batch_execute(&make_partition(day)).await?;
                }
            }
            Ok(self.client.batch_execute("COMMIT").await?)
        };
        let made: Result<(), Trouble> = made.await;
        if made.is_err() {
            self.days.clear();
            self.client.batch_execute("ROLLBACK").await?;
        }
        made
    }

    /// Days to come have a partition, days that the fleet does not keep have none.
    pub(super) async fn keep_partitions(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let today = self.today();
        with_clock(self.make_partitions((today..=today + AHEAD).collect())).await?;
        with_clock(self.drop_partitions(shared)).await
    }

    async fn drop_partitions(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let oldest = self.oldest_day(shared);
        let old: Vec<_> = self.days.range(..oldest).map(|(day, ())| *day).collect();
        for day in old {
            let drop = format!(
                "BEGIN; SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({PARTITIONS_LOCK}); \
                 DROP TABLE IF EXISTS mailsluice.{}; COMMIT",
                partition(day)
            );
            if let Err(error) = self.client.batch_execute(&drop).await {
                self.client.batch_execute("ROLLBACK").await?;
                return Err(error.into());
            }
            self.days.remove(&day);
        }
        let rest = format!("DELETE FROM mailsluice.records_other WHERE id < '{}'", first_of(oldest));
        self.client.batch_execute(&rest).await?;
        let seconds = i64::try_from(shared.config.retention.as_secs()).unwrap_or(i64::MAX);
        let sql = "DELETE FROM mailsluice.latency WHERE minute < now() - $1::bigint * interval '1 second'";
        self.client.execute(sql, &[&seconds]).await?;
        let sql = "DELETE FROM mailsluice.erasures WHERE done < now() - $1::bigint * interval '1 second'";
        self.client.execute(sql, &[&seconds]).await?;
        Ok(())
    }

    /// The next daemon of this box need not wait.
    pub(super) async fn leave(&self, shared: &Shared) -> Result<(), Trouble> {
        let sql = "UPDATE mailsluice.boxes SET token = NULL WHERE id = $1::text::uuid AND token = $2::text::uuid";
        with_clock(async { Ok(self.client.execute(sql, &[&shared.box_id, &shared.token]).await.map(drop)?) }).await
    }
}

/// Whether the tables are there and of a kind that we know, and of which revision; `check`: whether they are of boxes that know messages by
/// the same ids.
pub(super) async fn check_format(client: &Client, check: Option<&str>) -> Result<i32, Trouble> {
    let missing = || Trouble::Refused("the database has no tables of a fleet: run mailsluice fleet init".to_owned());
    // As JSON a column that is not there is null.
    let sql = "SELECT version, id_secret_check, current_setting('server_encoding'), coalesce((to_jsonb(f) ->> 'revision')::integer, 0) \
        FROM mailsluice.format f";
    let row = match client.query_opt(sql, &[]).await {
        Ok(row) => row.ok_or_else(missing)?,
        Err(error) if error.code().is_some_and(|code| [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code)) => {
            return Err(missing());
        }
        Err(error) => return Err(error.into()),
    };
    let version: i32 = row.try_get(0)?;
    if version > FORMAT {
        return Err(Trouble::Refused(format!("the fleet's tables have format {version}, this program knows {FORMAT}: upgrade this box")));
    }
    if row.try_get::<_, String>(2)? != "UTF8" {
        return Err(Trouble::Refused(NO_UTF8.to_owned()));
    }
    let revision: i32 = row.try_get(3)?;
    let Some(check) = check else { return Ok(revision) };
    let mut found: Option<String> = row.try_get(1)?;
    if found.is_none() {
        let sql = "UPDATE mailsluice.format SET id_secret_check = $1 WHERE id_secret_check IS NULL";
        client.execute(sql, &[&check]).await?;
        found = client.query_one("SELECT id_secret_check FROM mailsluice.format", &[]).await?.try_get(0)?;
    }
    if found.as_deref() == Some(check) {
        return Ok(revision);
    }
    Err(Trouble::Refused(
        "forward.id_secret is another one than the fleet's: give all boxes the same, or messages that one put off and another \
        delivered would stay undelivered"
            .to_owned(),
    ))
}

fn taken() -> Trouble {
    Trouble::Refused(
        "another daemon brings records under this box's identity: its store was copied; remove the file ….fleet-box beside one of \
        the two stores and restart that daemon"
            .to_owned(),
    )
}

/// Whether no other connection speaks for this box.
async fn lock(shared: &Shared, client: &Client) -> Result<bool, Trouble> {
    let identity = shared.box_id.replace('-', "");
    let key = identity.get(..16).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or_default().cast_signed();
    Ok(client.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await?.try_get(0)?)
}

/// One daemon at a time speaks for a box. A lock of the connection goes with its holder; one that the server does not know to be gone is
/// this daemon's own, or silent for a while.
async fn claim(shared: &Shared, client: &Client, behind: u64) -> Result<Claim, Trouble> {
    let mut is_locked = false;
    for _ in 0..LOCK_TRIES {
        is_locked = lock(shared, client).await?;
        if is_locked {
            break;
        }
        // Our last connection may not have ended there yet.
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    let sql = format!(
        "WITH old AS (SELECT token FROM mailsluice.boxes WHERE id = $1::text::uuid) INSERT INTO mailsluice.boxes AS b (id, name, version, token, started, last_seen, retention_seconds, behind) \
         VALUES ($1::text::uuid, $2, $3, $4::text::uuid, now(), now(), $5, $7) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, \
         version = EXCLUDED.version, token = EXCLUDED.token, started = EXCLUDED.started, last_seen = EXCLUDED.last_seen, \
         retention_seconds = EXCLUDED.retention_seconds, behind = EXCLUDED.behind WHERE $6 OR b.token IS NULL OR b.token = EXCLUDED.token \
         OR b.last_seen < now() - interval '{STALE}' \
         RETURNING brought, coalesce((SELECT token = $4::text::uuid FROM old), false), NOT EXISTS (SELECT FROM old)"
    );
    let retention = i64::try_from(shared.store_retention().as_secs()).unwrap_or(i64::MAX);
    let version = env!("CARGO_PKG_VERSION");
    let (me, name, token, behind) = (&shared.box_id, &shared.config.name, &shared.token, i64::try_from(behind).unwrap_or(i64::MAX));
    let arguments: [&(dyn ToSql + Sync); 7] = [me, name, &version, token, &retention, &is_locked, &behind];
    let row = client.query_opt(&sql, &arguments).await?;
    let row = row.ok_or_else(taken)?;
    let brought = u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
    Ok(Claim { is_locked, is_ours: row.try_get(1)?, is_new: row.try_get(2)?, brought })
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// As the server writes identities.
pub(super) fn fresh_token() -> std::io::Result<String> {
    super::place::random().map(uuid)
}
