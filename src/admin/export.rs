//! `GET /export?address=`: every record that names an address, as JSON lines, read page by page while the client takes them, so
//! that neither memory nor a read transaction of the store grows with the log. A store that fails midway breaks the answer
//! off, which the client sees, rather than ending it as if it were complete.

use super::answer::Problem;
use super::app::App;
use super::fleet;
use crate::record::RecordId;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::oneshot;

#[derive(Deserialize)]
pub(super) struct Wanted {
    address: Option<String>,
    fleet: Option<String>,
}

/// Where the next page starts.
enum Next {
    From(Option<RecordId>),
    End,
}

pub(super) async fn export(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Result<Response, Problem> {
    if fleet::is_asked(&mut wanted.fleet.into_iter().map(|value| ("fleet".to_owned(), value)).collect())? {
        return fleet::export(&app, &wanted.address.unwrap_or_default()).await;
    }
    let address: Arc<str> = wanted.address.unwrap_or_default().into();
    // The first page is read before the status line goes out, so that a store that cannot be read is a 500.
    let (first, next) = lines(&app, &address, None).await?;
    let rest = futures_util::stream::try_unfold((app, address, Some(first), next), async |(app, address, first, next)| {
        let (octets, next) = match (first, next) {
            (Some(first), next) => (first, next),
            (None, Next::From(cursor)) => lines(&app, &address, cursor).await?,
            (None, Next::End) => return Ok::<_, Problem>(None),
        };
        Ok(Some((octets, (app, address, None, next))))
    });
    let headers = [(header::CONTENT_TYPE, "application/jsonl"), (header::CONTENT_DISPOSITION, "attachment; filename=\"records.jsonl\"")];
    Ok((headers, Body::from_stream(rest)).into_response())
}

async fn lines(app: &App, address: &Arc<str>, cursor: Option<RecordId>) -> Result<(Bytes, Next), Problem> {
    let address = Arc::clone(address);
    let (more, next) = oneshot::channel();
    let octets = app
        .records(move |store| {
            let page = store.export(&address, cursor)?;
            let mut text = String::new();
            for record in &page.records {
                text.push_str(&serde_json::to_string(record).unwrap_or_default());
                text.push('\n');
            }
            // The receiver outlives the call that it waits for, or nobody asks any more.
            more.send(page.cursor).unwrap_or_default();
            Ok(text)
        })
        .await?;
    let cursor = next.await.map_err(|_| Problem::internal("the store's call ended with a panic"))?;
    Ok((octets, cursor.map_or(Next::End, |cursor| Next::From(Some(cursor)))))
}
