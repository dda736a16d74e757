//! The admin listener: stats, metrics, the record log and the page, on a thread of its own with its own tokio runtime, never
//! on a ring. It reads gauges and records and hands work to the store; mail does not wait for it, and the thread runs at a
//! lower priority than the rings. Logs what it refuses at `debug` and a thread that cannot start as an error of [`start`].

mod answer;
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

use crate::config::{Config, Origin};
use crate::fleet::Fleet;
use crate::message::Budget;
use crate::stats::{Ready, Stats};
use crate::store::{Store, StoreError};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use nix::libc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// A JSON body of ours (`/forget`) has no reason to be longer.
const MAX_JSON_BODY: usize = 64 * 1024;
/// Blocking reads of the store at once; more wait.
const STORE_CALLS: usize = 4;
/// Erasures at once, which take long and share their work; reads do not wait for them.
const ERASURES: usize = 4;
/// How long a request waits for its turn at the store, and for room for its answer.
const STORE_WAIT: Duration = Duration::from_secs(10);
/// KiB of records that clients have asked for and not read yet.
const UNREAD_KIB: usize = 64 * 1024;
/// Unfinished blocking calls (an erasure) get this long when the daemon stops.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Behind the rings and forwarders when all want the processor.
const NICENESS: i32 = 10;

/// What the listener reads from.
pub struct Deps {
    pub config: Arc<ArcSwap<Config>>,
    pub stats: Arc<Stats>,
    pub store: Arc<Store>,
    pub ready: Arc<Ready>,
    pub budget: Arc<Budget>,
    pub fleet: Arc<ArcSwapOption<Fleet>>,
}

/// A bound, listening socket.
pub enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

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

/// Everything a request can see.
struct App {
    deps: Deps,
    page: page::Page,
    inspector: inspector::Inspector,
    live: live::Live,
    history: Arc<history::History>,
    not_ready_since: health::NotReadySince,
    store_calls: Arc<Semaphore>,
    erasures: Arc<Semaphore>,
    unread: Arc<Semaphore>,
}

/// Records as text, counted as unread until the client has them or is gone.
struct Unread {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl App {
    /// Whether the daemon runs the development configuration, whose inspector is open then.
    fn development(&self) -> bool {
        self.deps.config.load().origin == Origin::Development
    }

    /// The budget's numbers, where every reader of the stats finds them.
    fn refresh_gauges(&self) {
        self.deps.stats.body_bytes.set(self.deps.budget.held());
        self.deps.stats.body_budget_bytes.set(self.deps.budget.limit());
        self.deps.stats.store.wait_us.set(u64::try_from(self.deps.store.wait().as_micros()).unwrap_or(u64::MAX));
    }

    /// What a read of the store found, as text for an answer.
    async fn records(&self, read: impl FnOnce(&Store) -> Result<String, StoreError> + Send + 'static) -> Result<Bytes, Problem> {
        // The turn is kept while the text waits for room: so no more than a few wait.
        let (text, _turn) = self.call(&self.store_calls, read).await?;
        let kib = u32::try_from(text.len() / 1024 + 1).unwrap_or(u32::MAX);
        match tokio::time::timeout(STORE_WAIT, Arc::clone(&self.unread).acquire_many_owned(kib)).await {
            Ok(Ok(room)) => Ok(Bytes::from_owner(Unread { text, _room: room })),
            _ => Err(Problem::unavailable("too many answers wait to be read; try again")),
        }
    }

    /// Runs a blocking call into the store, a few of a kind at a time. A turn lasts as long as its call, also when whoever asked
    /// has gone meanwhile.
    async fn call<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Problem> {
        let Ok(Ok(turn)) = tokio::time::timeout(STORE_WAIT, Arc::clone(turns).acquire_owned()).await else {
            return Err(Problem::unavailable("the store is busy with other requests; try again"));
        };
        let store = Arc::clone(&self.deps.store);
        match tokio::task::spawn_blocking(move || (call(&store), turn)).await {
            Ok((Ok(value), turn)) => Ok((value, turn)),
            Ok((Err(error), _)) => Err(error.into()),
            Err(_) => Err(Problem::internal("the store's call ended with a panic")),
        }
    }
}

/// Starts the listener's thread.
pub fn start(deps: Deps, socket: AdminSocket) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(STORE_CALLS + ERASURES).build()?;
    let socket = {
        let _context = runtime.enter();
        listener::Socket::new(socket)?
    };
    let (stop, mut stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        yield_to_mail();
        let app = Arc::new(App {
            page: page::Page::new(deps.config.load().origin == Origin::Development, &deps.config.load().smtp.hostname),
            inspector: inspector::Inspector::default(),
            live: live::Live::default(),
            history: Arc::default(),
            not_ready_since: health::NotReadySince::default(),
            store_calls: Arc::new(Semaphore::new(STORE_CALLS)),
            erasures: Arc::new(Semaphore::new(ERASURES)),
            unread: Arc::new(Semaphore::new(UNREAD_KIB)),
            deps,
        });
        let router = router(&app);
        runtime.block_on(async {
            tokio::select! {
                () = listener::serve(socket, &router) => {}
                () = live::pump(&app) => {}
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

fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/stats", get(health::stats))
        .route("/series", get(health::series))
        .route("/routes", get(routes::routes))
        .route("/notices", get(health::notices))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/histograms/{stage}", get(health::histogram))
        .route("/records", get(records::list))
        .route("/records/live", get(live::live))
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
