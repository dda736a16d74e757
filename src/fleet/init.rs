//! `mailsluice fleet init`: roles, tables, rights and the first partitions, in one transaction of an owner. Fails with one line.

use super::connect::{PATIENCE, Trouble, connect, with_clock};
use super::schema::{self, OWNER, PARTITIONS_LOCK, make_partition, partition};
use crate::config::{self, Postgres};
use std::pin::pin;
use std::time::Duration;

/// An index over all that is there takes its time.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// What is in our way is waited for no longer: all boxes would wait behind us.
const LOCKS: &str = "SET statement_timeout = 0; SET lock_timeout = '10s'";

/// What `init` runs, for people who run it themselves.
#[must_use]
pub fn script(daemon: Option<&Postgres>) -> String {
    format!("BEGIN;\n{}COMMIT;\n", schema::init(daemon))
}

/// Prepares the database that `owner` names for the daemon's user of `daemon`; `owner` may be the same. Says what it did; `is_long` is
/// called where that takes longer than people expect.
///
/// # Errors
/// The database cannot be reached, or the rights are missing.
pub fn init(fleet: &config::Fleet, owner: Option<&Postgres>, is_long: impl Fn()) -> Result<String, Trouble> {
    let io = |error: std::io::Error| Trouble::Refused(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    runtime.block_on(async {
        let daemon = fleet.postgres.as_ref().or(owner);
        let as_owner = config::Fleet { postgres: owner.or(fleet.postgres.as_ref()).cloned(), ..fleet.clone() };
        let client = connect(&as_owner).await?;
        with_clock(async { Ok(client.batch_execute(LOCKS).await?) }).await?;
        make_tables(&client, &script(daemon), is_long).await?;
        with_clock(first_partitions(&client)).await?;
        let mut said = "the tables are there".to_owned();
        if let Some(user) = daemon.and_then(Postgres::user) {
            let sql = "SELECT pg_has_role($1::text::name, $2::text::name, 'MEMBER')";
            let may: bool = with_clock(async { Ok(client.query_one(sql, &[&user, &OWNER]).await?.try_get(0)?) }).await?;
            if !may {
                return Err(Trouble::Refused(format!("{user} may not SET ROLE {OWNER}, so no partition could be made and nothing erased")));
            }
            said = format!("{said}; {user} may write, make partitions and erase");
        }
        Ok(said)
    })
}

async fn make_tables(client: &tokio_postgres::Client, script: &str, is_long: impl Fn()) -> Result<(), Trouble> {
    let mut made = pin!(client.batch_execute(script));
    if let Ok(made) = tokio::time::timeout(PATIENCE, &mut made).await {
        return Ok(made?);
    }
    is_long();
    let not_done = |_| Trouble::Refused("what the tables lack was not made within a day".to_owned());
    Ok(tokio::time::timeout(LONG, made).await.map_err(not_done)??)
}

async fn first_partitions(client: &tokio_postgres::Client) -> Result<(), Trouble> {
    let now: i64 = client.query_one("SELECT extract(epoch FROM now())::bigint", &[]).await?.try_get(0)?;
    let today = u64::try_from(now).unwrap_or(0) / 86_400;
    let begin = format!("BEGIN; SET LOCAL ROLE {OWNER}; SELECT pg_advisory_xact_lock({PARTITIONS_LOCK})");
    client.batch_execute(&begin).await?;
    for day in today..=today + 2 {
        let name = format!("mailsluice.{}", partition(day));
        let is_there: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?.try_get(0)?;
        if !is_there {
            client.batch_execute(&make_partition(day)).await?;
        }
    }
    Ok(client.batch_execute("COMMIT").await?)
}
