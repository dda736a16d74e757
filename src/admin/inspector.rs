//! The inspector of the development configuration: an endpoint that answers as it is asked to and keeps the last requests in
//! memory, to be looked at. In any other configuration its paths do not exist.
//!
//! Bounded: 50 requests, 32 MiB of bodies, of each body its first MiB (its length is exact), and a few bodies read at once.
//! Logs nothing of what it is sent.

use super::answer::{self, Problem};
use super::app::App;
use super::kept::{About, Kept, Next};
use super::{curl, parts};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const MAX_KEPT_BODY: usize = 1024 * 1024;
/// Longer than any route waits.
const MAX_DELAY_MS: u64 = 300_000;
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// With headers, readable parts and the curl line.
fn detail(kept: &Kept, host: &str) -> Value {
    let mut value = kept.summary();
    if let Value::Object(value) = &mut value {
        let headers: Vec<Value> = kept.headers.iter().map(|(name, text)| json!([name, String::from_utf8_lossy(text)])).collect();
        value.insert("headers".into(), headers.into());
        value.insert("parts".into(), parts::parts(kept.header("content-type"), &kept.body));
        value.insert("curl".into(), curl::line(kept, host).into());
    }
    value
}

pub(super) fn only_in_development(app: &App) -> Result<(), Problem> {
    if app.development() {
        return Ok(());
    }
    Err(Problem::not_found("there is an inspector in the development configuration only"))
}

pub(super) async fn take(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Next { status, delay_ms } = *app.inspector.next();
    let answer = keep(&app, StatusCode::from_u16(status).unwrap_or(StatusCode::OK), request).await;
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    answer
}

/// What the next messages are answered.
pub(super) async fn next(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    only_in_development(&app)?;
    Ok(answer::json(&json!(*app.inspector.next())))
}

/// Sets it: `{"status": 503, "delay_ms": 5000}`.
pub(super) async fn set_next(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Problem> {
    only_in_development(&app)?;
    let next: Result<Next, _> = serde_json::from_slice(&body);
    let next = next.ok().filter(|next| (200..=599).contains(&next.status) && next.delay_ms <= MAX_DELAY_MS);
    let wrong = || {
        Problem::bad_request(format!("send {{\"status\": 503, \"delay_ms\": 5000}}: a status from 200 to 599, at most {MAX_DELAY_MS} ms"))
    };
    *app.inspector.next() = next.ok_or_else(wrong)?;
    Ok(answer::json(&json!(*app.inspector.next())))
}

pub(super) async fn take_with_status(
    State(app): State<Arc<App>>,
    Path(status): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let status = status.parse().ok().filter(|status| (200..=599).contains(status));
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        return Err(Problem::not_found("/inspector/<status> takes a status from 200 to 599"));
    };
    keep(&app, status, request).await
}

async fn keep(app: &App, status: StatusCode, request: Request) -> Result<Response, Problem> {
    only_in_development(app)?;
    let path = request.uri().path().to_owned();
    let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let read = async {
        let _turn = app.inspector.readers.acquire().await;
        read(request.into_body()).await
    };
    let Ok(Some((body, size))) = tokio::time::timeout(BODY_TIMEOUT, read).await else {
        return Err(Problem::bad_request("the request's body broke off"));
    };
    let date = jiff::Timestamp::now();
    let number = app.inspector.keep(|number| Kept {
        number,
        date,
        path,
        status: status.as_u16(),
        about: About::of(&headers, &body),
        headers,
        body,
        size,
    });
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(status.into_response());
    }
    let text = if status.is_success() {
        format!("request {number} kept by the inspector\n")
    } else {
        format!("the inspector answers {} as it was asked to\n", status.as_u16())
    };
    Ok((status, answer::plain(text)).into_response())
}

/// The start of the body, and its length. `None` if it broke off.
async fn read(body: Body) -> Option<(Vec<u8>, u64)> {
    let (mut kept, mut size) = (Vec::new(), 0_u64);
    let mut stream = body.into_data_stream();
    while let Some(octets) = stream.next().await {
        let octets = octets.ok()?;
        size += octets.len() as u64;
        let room = MAX_KEPT_BODY - kept.len();
        kept.extend_from_slice(octets.get(..room).unwrap_or(&octets));
    }
    kept.shrink_to_fit();
    Some((kept, size))
}

pub(super) async fn to_page() -> Redirect {
    Redirect::to("/#inspector")
}

/// Newest first, without bodies.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    only_in_development(&app)?;
    let requests: Vec<Value> = app.inspector.all().iter().map(|request| request.summary()).collect();
    Ok(answer::json(&json!({ "requests": requests })))
}

pub(super) async fn one(State(app): State<Arc<App>>, Path(number): Path<u64>, headers: HeaderMap) -> Result<Response, Problem> {
    let kept = find(&app, number)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    Ok(answer::json(&detail(&kept, host)))
}

/// The body as it came, for the curl line of a long one. Never shown by a browser as what it may claim to be.
pub(super) async fn body(State(app): State<Arc<App>>, Path(number): Path<u64>) -> Result<Response, Problem> {
    let kept = find(&app, number)?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CONTENT_DISPOSITION, "attachment")];
    Ok((headers, kept.body.clone()).into_response())
}

fn find(app: &App, number: u64) -> Result<Arc<Kept>, Problem> {
    only_in_development(app)?;
    app.inspector.find(number).ok_or_else(|| Problem::not_found("the inspector no longer has this request"))
}
