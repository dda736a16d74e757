//! What `doctor` looks at in the fleet's database: whether it answers, its tables, our rights, clocks, the key, tomorrow's partition. Changes
//! nothing. Fails with the first thing that keeps records away.

use super::connect::{Trouble, connect, with_clock};
use super::schema::{OWNER, REVISION, partition};
use super::session::check_format;
use super::shared::id_secret_check;
use crate::config;

/// One thing that was looked at.
pub struct Look {
    pub what: String,
    /// `None`: as it should be.
    pub mend: Option<&'static str>,
}

/// Seconds that a clock may be ahead or behind before records get into the wrong days.
const CLOCK_SECONDS: i64 = 60;

/// `id_key`: of the configured secret; `None` where each box has its own.
///
/// # Errors
/// The database cannot be used at all.
pub fn inspect(fleet: &config::Fleet, id_key: Option<&[u8; 32]>) -> Result<Vec<Look>, Trouble> {
    let io = |error: std::io::Error| Trouble::Refused(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    runtime.block_on(async {
        let client = connect(fleet).await?;
        with_clock(look(&client, id_key)).await
    })
}

async fn look(client: &tokio_postgres::Client, id_key: Option<&[u8; 32]>) -> Result<Vec<Look>, Trouble> {
    let mut found = Vec::new();
    let mut note = |what: String, mend: Option<&'static str>| found.push(Look { what, mend });
    let again = Some("run mailsluice fleet init with the owner's rights");
    let revision = check_format(client, None).await?;
    let row = client.query_one("SELECT current_setting('server_version'), (SELECT version FROM mailsluice.format)", &[]).await?;
    let format: i32 = row.try_get(1)?;
    note(
        format!("PostgreSQL {}, tables of format {format}.{revision}", row.try_get::<_, String>(0)?),
        again.filter(|_| revision < REVISION),
    );
    let check: Option<String> = client.query_one("SELECT id_secret_check FROM mailsluice.format", &[]).await?.try_get(0)?;
    match (id_key, check) {
        (None, _) => {
            note("forward.id_secret is not set: each box has its own".to_owned(), Some("set the same forward.id_secret on all boxes"))
        }
        (Some(key), Some(check)) if id_secret_check(key) != check => note(
            "forward.id_secret is another one than the fleet's, so nothing is brought".to_owned(),
            Some("set the same forward.id_secret on all boxes"),
        ),
        (Some(_), _) => note("forward.id_secret is the fleet's".to_owned(), None),
    }
    let sql = "SELECT pg_has_role($1::text::name, 'MEMBER'), has_table_privilege('mailsluice.records', 'INSERT, UPDATE'), pg_is_in_recovery(), \
        current_setting('transaction_read_only') = 'on', extract(epoch FROM clock_timestamp())::bigint";
    let row = client.query_one(sql, &[&OWNER]).await?;
    let (owner, may_write, is_replica, is_read_only): (bool, bool, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    note(if may_write { "records may be written" } else { "records may not be written" }.to_owned(), again.filter(|_| !may_write));
    let rights = if owner {
        "partitions may be made and addresses erased"
    } else {
        "the owner's role may not be set: no partition is made, nothing erased"
    };
    note(rights.to_owned(), again.filter(|_| !owner));
    if is_replica || is_read_only {
        note(
            "the server takes no writes: a replica, or read-only".to_owned(),
            Some("name the primary, or add target_session_attrs=read-write"),
        );
    }
    let now: i64 = row.try_get(4)?;
    let ahead = jiff::Timestamp::now().as_second().saturating_sub(now);
    note(
        format!("this machine's clock is {ahead:+} s from the database's"),
        Some("set both by NTP").filter(|_| ahead.abs() > CLOCK_SECONDS),
    );
    let tomorrow = u64::try_from(now).unwrap_or(0) / 86_400 + 1;
    let name = format!("mailsluice.{}", partition(tomorrow));
    let is_there: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?.try_get(0)?;
    let what = if is_there { format!("tomorrow's partition {name} is there") } else { format!("tomorrow's partition {name} is missing") };
    note(what, Some("look at the daemon's log: whichever box is first makes it").filter(|_| !is_there));
    let stray: i64 = client.query_one("SELECT count(*) FROM (SELECT FROM mailsluice.records_other LIMIT 1000) x", &[]).await?.try_get(0)?;
    if stray > 0 {
        note(format!("{stray} records lie in records_other: of a clock that was far ahead"), Some("set the boxes' clocks by NTP"));
    }
    Ok(found)
}
