//! `mailsluice fleet init`: roles, tables, rights and the first partitions, in one transaction of an owner. Fails with one line.

use super::connect::{Trouble, connect, with_clock};
use super::schema::{self, OWNER, PARTITIONS_LOCK, make_partition, partition};
use crate::config::{self, Postgres};

/// What `init` runs, for people who run it themselves.
#[must_use]
pub fn script(daemon: Option<&Postgres>) -> String {
    format!("BEGIN;\n{}COMMIT;\n", schema::init(daemon))
}

/// Prepares the database that `owner` names for the daemon's user of `daemon`; `owner` may be the same. Says what it did.
///
/// # Errors
/// The database cannot be reached, or the rights are missing.
pub fn init(fleet: &config::Fleet, owner: Option<&Postgres>) -> Result<String, Trouble> {
    let io = |error: std::io::Error| Trouble::Refused(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    runtime.block_on(async {
        let daemon = fleet.postgres.as_ref().or(owner);
        let as_owner = config::Fleet { postgres: owner.or(fleet.postgres.as_ref()).cloned(), ..fleet.clone() };
        let client = connect(&as_owner).await?;
        with_clock(async { Ok(client.batch_execute(&script(daemon)).await?) }).await?;
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
