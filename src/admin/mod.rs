//! The admin listener: stats, metrics, the record log and the page, on a thread of its own with its own tokio runtime, never
//! on a ring. It reads gauges and records and hands work to the store; mail does not wait for it, and the thread runs at a
//! lower priority than the rings. Logs what it refuses at `debug` and a thread that cannot start as an error of [`start`].

mod answer;
mod app;
mod curl;
mod export;
mod fleet;
mod guard;
mod health;
mod history;
mod inspector;
mod kept;
mod listener;
mod live;
mod page;
pub mod parts;
pub mod query;
mod records;
mod refusals;
mod report;
mod routes;
mod sample;

pub use answer::Problem;
pub use app::Deps;
pub use listener::AdminSocket;

use app::{App, BLOCKING_CALLS};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use listener::Speech;
use nix::libc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A JSON body of ours (`/forget`) has no reason to be longer.
const MAX_JSON_BODY: usize = 64 * 1024;
/// Unfinished blocking calls (an erasure) get this long when the daemon stops.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Behind the rings and forwarders when all want the processor.
const NICENESS: i32 = 10;

/// The running listener.
pub struct Handle {
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Handle {
    /// Closes the socket and every connection.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the admin thread ended with a panic");
        }
    }
}

/// Starts the listener's thread.
pub fn start(deps: Deps, socket: AdminSocket) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_CALLS).build()?;
    let socket = {
        let _context = runtime.enter();
        listener::Socket::new(socket)?
    };
    let (stop, mut stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        yield_to_mail();
        let app = Arc::new(App::new(deps));
        let router = router(&app);
        runtime.block_on(async {
            tokio::select! {
                () = listener::serve(socket, &router) => {}
                () = app.live.pump() => {}
                () = tick(&app) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
        runtime.shutdown_timeout(STOP_WAIT);
    })?;
    Ok(Handle { stop, thread })
}

/// Each second: windows and minutes end in time also when nobody reads.
async fn tick(app: &App) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        app.refresh_gauges();
        app.deps.stats.collect();
        refusals::expire(app);
        health::watch(app);
    }
}

/// Lowers this thread's priority, and that of the blocking threads it starts. It runs as well without.
fn yield_to_mail() {
    // SAFETY: takes three integers; on Linux `who` 0 is the calling thread.
    #[expect(unsafe_code, reason = "no safe wrapper has setpriority for one thread")]
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if result != 0 {
        tracing::debug!("the admin thread keeps its priority");
    }
}

async fn page(State(app): State<Arc<App>>) -> Response {
    app.page.answer(app.deps.config.load().admin.token.is_some())
}

async fn live(State(app): State<Arc<App>>, Extension(speech): Extension<Arc<Speech>>) -> Result<Response, Problem> {
    app.live.watch(&app.deps.store, speech)
}

fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/stats", get(health::stats))
        .route("/series", get(health::series))
        .route("/routes", get(routes::routes))
        .route("/notices", get(health::notices))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/histograms/{stage}", get(health::histogram))
        .route("/records", get(records::list))
        .route("/records/live", get(live))
        .route("/records/{id}", get(records::one))
        .route("/records/{id}/attempts", get(records::attempts))
        .route("/report", get(report::report))
        .route("/refusals", get(refusals::refusals))
        .route("/undelivered", get(records::undelivered))
        .route("/export", get(export::export))
        .route("/forget", post(records::forget))
        .route("/fleet", get(fleet::boxes))
        .route("/fleet/latency", get(fleet::latency))
        .route("/fleet/remove", post(fleet::remove))
        .route("/fleet/erasures/{id}", get(fleet::erasure))
        .route("/inspector", post(inspector::take).get(inspector::to_page))
        .route("/inspector/next", get(inspector::next).post(inspector::set_next))
        .route("/inspector/sample", post(sample::send))
        .route("/inspector/{status}", post(inspector::take_with_status))
        .route("/inspector/requests", get(inspector::list))
        .route("/inspector/requests/{number}", get(inspector::one))
        .route("/inspector/requests/{number}/body", get(inspector::body))
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_JSON_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(app), guard::guard))
        .with_state(Arc::clone(app))
}

#[cfg(test)]
mod tests;
