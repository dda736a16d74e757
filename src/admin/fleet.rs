//! The same questions to all boxes: `fleet=1` beside the filters of `/records`, `/undelivered`, `/report` and `/export`; `/fleet`. What comes
//! back is the database's, and each answer says how far each box is behind in it.

use super::answer::{self, Problem};
use super::app::App;
use super::query::{self, Among, Wanted};
use crate::fleet::{BoxStanding, Fleet, FleetPage, FleetRecord, Trouble};
use crate::record::RecordId;
use crate::store::{Address, Filter};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        Self::unavailable(format!("the fleet's database: {trouble}"))
    }
}

/// Takes `fleet` out of a query string's pairs.
pub(super) fn is_asked(pairs: &mut Vec<(String, String)>) -> Result<bool, Problem> {
    let values: Vec<_> = pairs.extract_if(.., |(key, _)| key == "fleet").map(|(_, value)| value).collect();
    match values.last().map(String::as_str) {
        None | Some("0" | "false" | "") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => Err(Problem::bad_request("fleet is true or false")),
    }
}

impl App {
    pub(super) fn fleet(&self) -> Result<Arc<Fleet>, Problem> {
        self.deps.fleet.load_full().ok_or_else(|| Problem::not_found("this box is in no fleet: set fleet.postgres"))
    }
}

#[derive(Serialize)]
struct Answer<'a, T> {
    #[serde(flatten)]
    rows: std::collections::BTreeMap<&'static str, &'a [T]>,
    cursor: Option<RecordId>,
    boxes: Vec<BoxStanding>,
}

/// A page by its name, with where each box stands.
async fn page<T: Serialize>(fleet: &Fleet, name: &'static str, page: FleetPage<T>) -> Result<Response, Problem> {
    let answer = Answer { rows: [(name, page.rows.as_slice())].into(), cursor: page.cursor, boxes: fleet.boxes().await? };
    Ok(answer::json_text(serde_json::to_string(&answer).unwrap_or_default() + "\n"))
}

pub(super) async fn records(app: &App, pairs: Vec<(String, String)>) -> Result<Response, Problem> {
    let Wanted { query, among } = query::parse(pairs, jiff::Timestamp::now())?;
    let fleet = app.fleet()?;
    let mut rows = match among {
        Among::All => {
            let found = fleet.records(query).await?;
            return page(&fleet, "records", found).await;
        }
        Among::Attempts(webhook_id) => fleet.attempts(webhook_id).await?,
        Among::One(id) => fleet.record(id).await?.into_iter().collect(),
    };
    let filter = Filter::new(&query);
    rows.retain(|row: &FleetRecord| filter.takes(&row.record));
    page(&fleet, "records", FleetPage { rows, cursor: None }).await
}

pub(super) async fn record(app: &App, id: &str) -> Result<Response, Problem> {
    let found = app.fleet()?.record(query::id(id)?).await?;
    let found = found.ok_or_else(|| Problem::not_found("no record has this id"))?;
    Ok(answer::json_text(serde_json::to_string(&found).unwrap_or_default() + "\n"))
}

pub(super) async fn attempts(app: &App, id: &str) -> Result<Response, Problem> {
    let fleet = app.fleet()?;
    let found = fleet.record(query::id(id)?).await?.ok_or_else(|| Problem::not_found("no record has this id"))?;
    let rows = fleet.attempts(found.record.webhook_id).await?;
    page(&fleet, "records", FleetPage { rows, cursor: None }).await
}

pub(super) async fn undelivered(app: &App, pairs: Vec<(String, String)>) -> Result<Response, Problem> {
    let Wanted { query, .. } = query::parse(pairs, jiff::Timestamp::now())?;
    let fleet = app.fleet()?;
    let found = fleet.undelivered(query.cursor, query.limit).await?;
    page(&fleet, "undelivered", found).await
}

/// JSON lines, page by page as the client takes them.
pub(super) async fn export(app: &Arc<App>, address: &str) -> Result<Response, Problem> {
    let fleet = app.fleet()?;
    let address = Address::new(address).ok_or_else(|| Problem::bad_request(format!("{address:?} is no whole address")))?;
    let first = fleet.export(address.clone(), None).await?;
    let lines = futures_util::stream::try_unfold((fleet, address, Some(first)), async |(fleet, address, page)| {
        let Some(page) = page else { return Ok::<_, Problem>(None) };
        let mut text = String::new();
        for row in &page.rows {
            text.push_str(&serde_json::to_string(row).unwrap_or_default());
            text.push('\n');
        }
        let next = match page.cursor {
            Some(cursor) => Some(fleet.export(address.clone(), Some(cursor)).await?),
            None => None,
        };
        Ok(Some((Bytes::from(text), (fleet, address, next))))
    });
    let headers = [(header::CONTENT_TYPE, "application/jsonl"), (header::CONTENT_DISPOSITION, "attachment; filename=\"records.jsonl\"")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Every box, and whether this one brings its records.
pub(super) async fn boxes(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let boxes = app.fleet()?.boxes().await?;
    Ok(answer::json(&json!({ "boxes": boxes, "undelivered": app.deps.stats.fleet.undelivered() })))
}

/// The latency of all boxes since a moment; the last hour by default.
pub(super) async fn latency(State(app): State<Arc<App>>, Query(pairs): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key != "since") {
        return Err(Problem::bad_request(format!("/fleet/latency takes since, not {key:?}")));
    }
    let now = jiff::Timestamp::now();
    let hour_ago = now.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap_or(now);
    let since = query::parse(pairs, now)?.query.since.unwrap_or(hour_ago);
    let fleet = app.fleet()?;
    let latency = crate::fleet::summary(&fleet.latency(since).await?);
    Ok(answer::json(&json!({ "since": since, "latency": latency, "boxes": fleet.boxes().await? })))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    r#box: String,
}

/// A box that will not come back: nobody waits for it any more.
pub(super) async fn remove(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Problem> {
    let Remove { r#box: name } = serde_json::from_slice(&body).map_err(|_| Problem::bad_request("send {\"box\": \"mx3\"}"))?;
    match app.fleet()?.remove(name).await?.as_slice() {
        [] => Err(Problem::not_found("no box has this name or id")),
        [id] => Ok(answer::json(&json!({ "removed": 1, "id": id }))),
        ids => Err(Problem::bad_request(format!("several boxes have this name, so name one by its id: {}", ids.join(", ")))),
    }
}

/// Asks all boxes to erase an address; how far that is, `/fleet/erasures/{id}` tells.
pub(super) async fn forget(app: &App, address: &str) -> Result<Response, Problem> {
    let address = Address::new(address).ok_or_else(|| Problem::bad_request(format!("{address:?} is no whole address")))?;
    let id = app.fleet()?.forget(address).await?;
    Ok(answer::json(&json!({ "erasure": id })))
}

pub(super) async fn erasure(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = id.parse().map_err(|_| Problem::bad_request("an erasure has a number"))?;
    let found = app.fleet()?.erasure(id).await?.ok_or_else(|| Problem::not_found("no erasure has this number"))?;
    Ok(answer::json(&serde_json::to_value(found).unwrap_or_default()))
}
