//! `/refusals`: who was refused before a record was made, from memory, newest first. `after=NUMBER` gives what is newer than that row.

use super::answer::{self, Problem};
use super::app::App;
use axum::extract::{Query, State};
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

pub(super) async fn refusals(State(app): State<Arc<App>>, Query(pairs): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    let mut after = 0;
    for (key, value) in pairs {
        match (key.as_str(), value.parse()) {
            ("after", Ok(number)) => after = number,
            _ => return Err(Problem::bad_request("/refusals takes after, the number of a row")),
        }
    }
    expire(&app);
    let rows = app.deps.stats.refusals.rows_after(after);
    Ok(answer::json(&serde_json::json!({ "refusals": rows })))
}

/// They stay no longer than records do.
pub(super) fn expire(app: &App) {
    let retention = SignedDuration::try_from(app.deps.config.load().store.retention).unwrap_or(SignedDuration::MAX);
    if let Ok(before) = Timestamp::now().checked_sub(retention) {
        app.deps.stats.refusals.expire(before);
    }
}
