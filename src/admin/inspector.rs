//! The inspector of the development configuration: an endpoint that answers as it is asked to and keeps the last requests in
//! memory, to be looked at. In any other configuration its paths do not exist.
//!
//! Bounded: 50 requests, 32 MiB of bodies, of each body its first MiB (its length is exact), and a few bodies read at once.
//! Logs nothing of what it is sent.

use super::App;
use super::answer::{self, Problem};
use super::{curl, parts};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

const MAX_REQUESTS: usize = 50;
const MAX_KEPT_BODY: usize = 1024 * 1024;
const MAX_KEPT_IN_ALL: usize = 32 * 1024 * 1024;
/// Bodies read at once; others wait, so that not every forwarder's request lies here in part.
const READERS: usize = 16;
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// One request as it came.
pub(super) struct Kept {
    pub(super) number: u64,
    date: jiff::Timestamp,
    pub(super) path: String,
    /// What it was answered.
    status: StatusCode,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// The body's start.
    pub(super) body: Vec<u8>,
    /// The body's length.
    pub(super) size: u64,
}

/// Has bodies: no `Debug`.
pub(super) struct Inspector {
    kept: Mutex<Log>,
    readers: Semaphore,
}

#[derive(Default)]
struct Log {
    requests: VecDeque<Arc<Kept>>,
    last: u64,
}

impl Default for Inspector {
    fn default() -> Self {
        Self { kept: Mutex::default(), readers: Semaphore::new(READERS) }
    }
}

impl Inspector {
    fn keep(&self, make: impl FnOnce(u64) -> Kept) -> u64 {
        let mut log = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        log.last += 1;
        let number = log.last;
        log.requests.push_back(Arc::new(make(number)));
        let octets = |log: &Log| log.requests.iter().map(|request| request.body.len()).sum::<usize>();
        while log.requests.len() > MAX_REQUESTS || (octets(&log) > MAX_KEPT_IN_ALL && log.requests.len() > 1) {
            log.requests.pop_front();
        }
        number
    }

    /// Newest first.
    fn all(&self) -> Vec<Arc<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).requests.iter().rev().cloned().collect()
    }

    fn find(&self, number: u64) -> Option<Arc<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).requests.iter().find(|request| request.number == number).cloned()
    }
}

impl Kept {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(given, _)| given == name)?;
        std::str::from_utf8(value).ok()
    }

    fn summary(&self) -> Value {
        json!({
            "number": self.number,
            "date": self.date,
            "path": self.path,
            "status": self.status.as_u16(),
            "content_type": self.header("content-type"),
            "webhook_id": self.header("webhook-id"),
            "size": self.size,
            "truncated": self.size > self.body.len() as u64,
        })
    }

    /// With headers, readable parts and the curl line.
    fn detail(&self, host: &str) -> Value {
        let mut value = self.summary();
        if let Value::Object(value) = &mut value {
            let headers: Vec<Value> = self.headers.iter().map(|(name, text)| json!([name, String::from_utf8_lossy(text)])).collect();
            value.insert("headers".into(), headers.into());
            value.insert("parts".into(), parts::parts(self.header("content-type"), &self.body));
            value.insert("curl".into(), curl::line(self, host).into());
        }
        value
    }
}

fn only_in_development(app: &App) -> Result<(), Problem> {
    if app.development() {
        return Ok(());
    }
    Err(Problem::not_found("there is an inspector in the development configuration only"))
}

pub(super) async fn take(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    keep(&app, StatusCode::OK, request).await
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
    let headers = request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let read = async {
        let _turn = app.inspector.readers.acquire().await;
        read(request.into_body()).await
    };
    let Ok(Some((body, size))) = tokio::time::timeout(BODY_TIMEOUT, read).await else {
        return Err(Problem::bad_request("the request's body broke off"));
    };
    let date = jiff::Timestamp::now();
    let number = app.inspector.keep(|number| Kept { number, date, path, status, headers, body, size });
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
    Ok(answer::json(&kept.detail(host)))
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

#[cfg(test)]
pub(super) fn kept(path: &str, headers: &[(&str, &str)], body: &[u8], size: u64) -> Kept {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Kept { number: 7, date: jiff::Timestamp::UNIX_EPOCH, path: path.into(), status: StatusCode::OK, headers, body: body.to_vec(), size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_in_requests_and_octets() {
        let inspector = Inspector::default();
        for _ in 0..60 {
            inspector.keep(|number| Kept { number, ..kept("/inspector", &[], &[], 0) });
        }
        let numbers: Vec<_> = inspector.all().iter().map(|request| request.number).collect();
        assert_eq!(numbers, (11..=60).rev().collect::<Vec<_>>());
        for _ in 0..60 {
            inspector.keep(|number| Kept { number, ..kept("/inspector", &[], &vec![0; MAX_KEPT_BODY], 5_000_000) });
        }
        let octets: usize = inspector.all().iter().map(|request| request.body.len()).sum();
        assert_eq!(octets, MAX_KEPT_IN_ALL);
        assert!(inspector.find(120).is_some());
        assert!(inspector.find(60).is_none());
    }
}
