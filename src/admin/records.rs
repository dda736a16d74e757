//! The record log: `/records`, one record, its message's attempts, `/undelivered`, `/forget`. Every call into the store runs on a
//! blocking thread; JSON is rendered there too. Logs an erasure without its address.

use super::answer::{self, Problem};
use super::app::App;
use super::fleet;
use super::query::{self, Among, Wanted};
use crate::record::{Outcome, Record};
use crate::store::{Filter, Page, StoreError};
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// For the few octets of an address.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// `{"records": [...], "cursor": ...}`.
#[derive(Serialize)]
struct Records<'a> {
    records: &'a [Record],
    cursor: Option<crate::record::RecordId>,
}

fn rendered(page: &Page) -> String {
    render(&Records { records: &page.records, cursor: page.cursor })
}

/// A record has no map with keys that are not text and no failing serializer, so that this cannot fail.
fn render(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

pub(super) async fn list(State(app): State<Arc<App>>, Query(mut pairs): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    if fleet::is_asked(&mut pairs)? {
        return fleet::records(&app, pairs).await;
    }
    answer_query(&app, pairs).await
}

/// Messages that no endpoint has taken or refused, with the number of attempts and the latest of them. Takes `limit` and
/// `cursor`; for more filters there is `/records?undelivered=true`.
pub(super) async fn undelivered(State(app): State<Arc<App>>, Query(mut pairs): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    let of_fleet = fleet::is_asked(&mut pairs)?;
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key != "limit" && key != "cursor") {
        return Err(Problem::bad_request(format!("/undelivered takes limit and cursor, not {key:?}")));
    }
    if of_fleet {
        return fleet::undelivered(&app, pairs).await;
    }
    let Wanted { query, .. } = query::parse(pairs, jiff::Timestamp::now())?;
    let text = app.records(move |store| store.undelivered(query.cursor, query.limit).map(|page| render(&page))).await?;
    Ok(answer::json_text(text))
}

async fn answer_query(app: &App, pairs: Vec<(String, String)>) -> Result<Response, Problem> {
    let Wanted { query, among } = query::parse(pairs, jiff::Timestamp::now())?;
    let text = app.records(move |store| {
        let mut records = match among {
            Among::All => return store.query(&query).map(|page| rendered(&page)),
            Among::Attempts(webhook_id) => store.attempts(&webhook_id)?,
            Among::One(id) => store.record(id)?.into_iter().collect(),
        };
        let filter = Filter::new(&query);
        records.retain(|record| filter.takes(record));
        if query.undelivered
            && let Some(latest) = records.pop()
        {
            // The latest attempt at a message stands for it while none has ended it.
            let attempts = store.attempts(&latest.webhook_id)?;
            let open = attempts.iter().all(|attempt| attempt.outcome == Outcome::Deferred);
            let is_latest = attempts.last().is_none_or(|last| last.id == latest.id);
            records = if open && is_latest { vec![latest] } else { Vec::new() };
        }
        Ok(rendered(&Page { records, cursor: None }))
    });
    Ok(answer::json_text(text.await?))
}

fn attempts_of(store: &crate::store::Store, webhook_id: &str) -> Result<String, StoreError> {
    store.attempts(webhook_id).map(|records| rendered(&Page { records, cursor: None }))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(mut pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    if fleet::is_asked(&mut pairs)? {
        return fleet::record(&app, &id).await;
    }
    let id = query::id(&id)?;
    found(app.records(move |store| Ok(store.record(id)?.map(|record| render(&record)).unwrap_or_default())).await?)
}

/// Every attempt at the message of this record, oldest first.
pub(super) async fn attempts(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(mut pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    if fleet::is_asked(&mut pairs)? {
        return fleet::attempts(&app, &id).await;
    }
    let id = query::id(&id)?;
    let text = app
        .records(move |store| match store.record(id)? {
            Some(record) => attempts_of(store, &record.webhook_id),
            None => Ok(String::new()),
        })
        .await?;
    found(text)
}

/// No text: no such record.
fn found(text: Bytes) -> Result<Response, Problem> {
    if text.is_empty() { Err(no_record()) } else { Ok(answer::json_text(text)) }
}

fn no_record() -> Problem {
    Problem::not_found("no record has this id")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forget {
    address: String,
    /// On all boxes.
    #[serde(default)]
    fleet: bool,
}

pub(super) async fn forget(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
    let body = body.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time"))?;
    let body = body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let Forget { address, fleet } =
        serde_json::from_slice(&body).map_err(|_| Problem::bad_request("send {\"address\": \"a@example.com\"}"))?;
    if fleet {
        return fleet::forget(&app, &address).await;
    }
    let forgotten = address.clone();
    let (records, _) = app.call(&app.erasures, move |store| store.forget(&address)).await?;
    app.deps.stats.refusals.forget(&forgotten);
    tracing::info!(records, "an address was erased from the store");
    Ok(answer::json(&serde_json::json!({ "records": records })))
}
