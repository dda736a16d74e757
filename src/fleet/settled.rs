//! Messages that were put off and have come to their end since, on whichever box: their attempts are marked, so that nobody looks again
//! whether they have. A mark is never wrong, and one that is missing costs a look in each partition. Logs nothing.

use super::connect::Trouble;
use super::schema::SETTLED;
use tokio_postgres::Client;

/// Of one sweep at a time, over all boxes.
const LOCK: i64 = 0x6d61_696c_7377_6570;
/// Attempts that one sweep marks.
const MOST: usize = 20_000;
const PATIENCE: &str = "5s";
/// What others have swept is as good as ours for so long; what nobody has for longer counts messages that have been delivered.
const FRESH: &str = "15 seconds";
const STALE: &str = "5 minutes";

/// How many messages no box has brought to their end. `None`: there are too many to say it in a moment.
pub(super) async fn count_undelivered(client: &Client, has_marks: bool) -> Result<Option<u64>, Trouble> {
    client.batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = '{PATIENCE}'")).await?;
    let counted = if has_marks { sweep_and_count(client).await } else { count(client, &format!("NOT {SETTLED}")).await };
    client.batch_execute(if counted.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    match counted {
        Err(trouble) if trouble.is_passing() => Ok(None),
        counted => counted,
    }
}

async fn sweep_and_count(client: &Client) -> Result<Option<u64>, Trouble> {
    let turn = format!(
        "UPDATE mailsluice.format SET swept = clock_timestamp() \
         WHERE pg_try_advisory_xact_lock({LOCK}) AND (swept IS NULL OR swept < now() - interval '{FRESH}')"
    );
    let is_swept = if client.execute(&turn, &[]).await? > 0 {
        mark(client).await? < MOST
    } else {
        let fresh = format!("SELECT coalesce(swept > now() - interval '{STALE}', false) FROM mailsluice.format");
        client.query_one(&fresh, &[]).await?.try_get(0)?
    };
    if is_swept { count(client, "NOT r.settled").await } else { Ok(None) }
}

/// Says of how many it has seen that they have come to their end.
async fn mark(client: &Client) -> Result<usize, Trouble> {
    let sql =
        format!("SELECT r.id::text FROM mailsluice.records r WHERE r.outcome = 'deferred' AND NOT r.settled AND {SETTLED} LIMIT {MOST}");
    let rows = client.query(&sql, &[]).await?;
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if !ids.is_empty() {
        // Whoever changes one of them now is not waited for, and never waits for us while we wait for him.
        let sql = "UPDATE mailsluice.records SET settled = true WHERE id IN \
            (SELECT r.id FROM mailsluice.records r WHERE r.id = ANY ($1::text[]::uuid[]) FOR UPDATE SKIP LOCKED)";
        client.execute(sql, &[&ids]).await?;
    }
    Ok(ids.len())
}

async fn count(client: &Client, is_open: &str) -> Result<Option<u64>, Trouble> {
    let sql = format!("SELECT count(DISTINCT r.webhook_id) FROM mailsluice.records r WHERE r.outcome = 'deferred' AND {is_open}");
    Ok(u64::try_from(client.query_one(&sql, &[]).await?.try_get::<_, i64>(0)?).ok())
}
