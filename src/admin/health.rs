//! Numbers and states: `/healthz`, `/readyz`, `/stats`, `/series`, `/metrics`, `/histograms`. Reads only; fails with 400 or
//! 404 for a stage, window or format there is not.

use super::answer::{self, Problem};
use super::app::App;
use super::history::{HOUR, Span};
use crate::stats::{self, OPENMETRICS, Process, Stage, Window};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) async fn healthz(State(app): State<Arc<App>>) -> Response {
    match standing(&app) {
        None => answer::plain("ok\n"),
        Some(reason) => unavailable(&reason),
    }
}

/// A thread that does not come round.
fn standing(app: &App) -> Option<String> {
    app.deps.stats.pulses.standing().map(|name| format!("degraded: {name} stands"))
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, answer::plain(format!("{reason}\n"))).into_response()
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    match not_ready(&app) {
        None => answer::plain("ready\n"),
        Some(reason) => unavailable(&reason),
    }
}

/// Why no mail is taken.
fn not_ready(app: &App) -> Option<String> {
    match app.deps.ready.state().reason() {
        Some(reason) => Some(reason.to_owned()),
        // The store's own state decides as well, whether or not anybody has told the daemon's.
        None => standing(app).or_else(|| app.deps.store.trouble().map(|trouble| format!("degraded: {trouble}"))),
    }
}

/// To be called each second.
pub(super) fn watch(app: &App) {
    let mut since = app.not_ready_since.lock().unwrap_or_else(PoisonError::into_inner);
    *since = not_ready(app).map(|_| since.unwrap_or_else(Timestamp::now));
}

pub(super) async fn stats(State(app): State<Arc<App>>) -> Response {
    app.refresh_gauges();
    answer::json(&app.deps.stats.snapshot())
}

/// What is wrong, and since when: that no mail is taken; what stays so until somebody mends it.
pub(super) async fn notices(State(app): State<Arc<App>>) -> Response {
    let reason = not_ready(&app);
    let since = *app.not_ready_since.lock().unwrap_or_else(PoisonError::into_inner);
    let since = since.filter(|_| reason.is_some());
    answer::json(&serde_json::json!({ "not_ready": reason, "not_ready_since": since, "notices": app.deps.stats.notices.all() }))
}

/// `span` is `hour` (the default) or `day`, `route` one of them (all of them together by default). What the records have, and for all routes
/// over an hour what only the counters know: refusals, and the stages that no record has.
pub(super) async fn series(State(app): State<Arc<App>>, Query(params): Query<HashMap<String, String>>) -> Result<Response, Problem> {
    let name = params.get("span").map_or(HOUR.name, String::as_str);
    let span = Span::from_name(name).ok_or_else(|| Problem::bad_request("span is hour or day"))?;
    let route = params.get("route").filter(|route| !route.is_empty()).cloned();
    let (history, of) = (Arc::clone(&app.history), route.clone());
    let ((points, complete), _turn) = app.call(&app.store_calls, move |store| history.points(store, span, of.as_deref())).await?;
    let counted = (span == HOUR && route.is_none()).then(|| app.deps.stats.series_json());
    let now = Timestamp::now();
    Ok(answer::json(&serde_json::json!({
        "span": span.name,
        "step_seconds": span.step,
        "steps": span.steps,
        "now": now,
        "route": route,
        "complete": complete,
        "points": points,
        "counted": counted,
    })))
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.refresh_gauges();
    let text = app.deps.stats.openmetrics(process(&app));
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// `window` is `1m` (the default), `1h` or `total`, `format` is `json` (the default), `hgrm` or `hdr`; `route` is one that has histograms of
/// its own, of this stage. `counts=false` leaves out what the page does not draw.
pub(super) async fn histogram(
    State(app): State<Arc<App>>,
    Path(stage): Path<String>,
    Query(params): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    let stages = || Stage::ALL.map(Stage::name).join(", ");
    let stage = Stage::from_name(&stage).ok_or_else(|| Problem::not_found(format!("no such stage; there are {}", stages())))?;
    let wanted = |key: &str, default: &'static str| params.get(key).cloned().unwrap_or_else(|| default.to_owned());
    let window = Window::from_name(&wanted("window", "1m")).ok_or_else(|| Problem::bad_request("window is 1m, 1h or total"))?;
    let stats = &app.deps.stats;
    let durations = match params.get("route").filter(|route| !route.is_empty()) {
        None => stats.histogram(stage, window),
        Some(route) => stats.route_histogram(route, stage, window).ok_or_else(|| {
            Problem::not_found("no such route, or none with histograms of its own; these are of the stages total and forward")
        })?,
    };
    match wanted("format", "json").as_str() {
        "json" => {
            let mut value = stats::histogram_json(stage, window, &durations);
            if let (Some("false"), Some(value)) = (params.get("counts").map(String::as_str), value.as_object_mut()) {
                value.remove("counts");
            }
            Ok(answer::json(&value))
        }
        "hdr" => Ok(answer::plain(stats::hdr::encode(&durations.histogram) + "\n")),
        "hgrm" => Ok(answer::plain(stats::hgrm(&durations.histogram))),
        _ => Err(Problem::bad_request("format is json, hgrm or hdr")),
    }
}

/// What the kernel says about this process; what it does not say is left out.
fn process(app: &App) -> Process {
    use nix::sys::resource::{UsageWho, getrusage};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kib = resident.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    let cpu_seconds = getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| {
        let (user, system) = (usage.user_time(), usage.system_time());
        #[expect(clippy::cast_precision_loss, reason = "seconds of processor time")]
        let seconds = (user.tv_sec() + system.tv_sec()) as f64 + (user.tv_usec() + system.tv_usec()) as f64 / 1e6;
        seconds
    });
    let open_fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
    let start_unix_seconds = now.map(|now| now - app.deps.stats.started.elapsed().as_secs_f64());
    Process { resident_bytes: resident_kib.map(|kib| kib * 1024), cpu_seconds, open_fds, start_unix_seconds }
}
