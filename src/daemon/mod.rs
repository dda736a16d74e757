//! The wiring: builds every part, runs until told to stop, drains.
//!
//! Logs its start, its listeners, each reload and its end. Fails with one line and an exit code.

mod drain;
mod error;
mod holder;
mod machine;
mod pinned;
mod reload;
mod sockets;
mod standing;
mod status;
mod systemd;

pub use error::Error;

use crate::admin::{self, AdminSocket};
use crate::config::{Config, Origin};
use crate::delivery::Delivery;
use crate::fleet::Fleet;
use crate::forward::Forwarders;
use crate::message::Budget;
use crate::net::{self, Live, Shared};
use crate::stats::{Readiness, Ready, Stats};
use crate::store::Store;
use crate::verify::Verifier;
use arc_swap::{ArcSwap, ArcSwapOption};
use pinned::Pinned;
use sockets::Sockets;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use systemd::{extend_timeout, notify};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The running parts.
struct Daemon {
    config: Arc<ArcSwap<Config>>,
    shared: Arc<Shared>,
    store: Arc<Store>,
    forwarders: Arc<Forwarders>,
    rings: Vec<net::Ring>,
    ready: Arc<Ready>,
    admin: admin::Handle,
    fleet: Arc<ArcSwapOption<Fleet>>,
    pinned: Pinned,
    /// Changed values that could not be taken.
    refused_values: AtomicU64,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// It could not start; nothing has been accepted then.
pub fn run(config: Config) -> Result<(), Error> {
    machine::harden();
    let log = crate::log::init(&config.log).map_err(|error| Error::Start(format!("cannot start the log: {error}")))?;
    let result = run_logged(config, &log);
    log.flush();
    result
}

fn run_logged(config: Config, log: &crate::log::Handle) -> Result<(), Error> {
    crate::ring::probe().map_err(Error::IoUring)?;
    raise_descriptors(&config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Start(format!("cannot start the main loop: {error}")))?;
    runtime.block_on(async {
        // Signals are taken from here on, so that none is lost while the store opens.
        let mut signals = Signals::new().map_err(|error| Error::Start(format!("cannot take signals: {error}")))?;
        let daemon = Daemon::start(config)?;
        daemon.announce();
        match daemon.serve(&mut signals, log).await {
            Ending::Asked => daemon.drain(&mut signals, log).await,
            Ending::Died(thread) => daemon.die(thread, &mut signals, log).await,
        }
        Ok(())
    })
}

impl Daemon {
    fn start(config: Config) -> Result<Self, Error> {
        config.check_files()?;
        let sockets = Sockets::open(&config)?;
        let tls = net::tls::ServerTls::load(config.smtp.tls.as_ref()).map_err(|error| Error::Start(format!("smtp.tls: {error}")))?;
        let stats = Stats::new();
        let store = patiently(|| Store::open(&config.store, &stats))?;
        let verifier = Verifier::start(&config.dns).map_err(Error::Start)?;
        let forwarders = Forwarders::start(&config, &stats, Arc::clone(&verifier)).map_err(Error::Start)?;
        let budget = Budget::new(config.memory.body_budget, config.memory.per_ip_share, config.per_route_share());
        let limits = net::limits::Limits::new(
            config.smtp.max_connections,
            config.smtp.max_connections_per_ip,
            Arc::clone(&budget),
            Arc::clone(&stats),
        );
        let delivery = Delivery::new(&config, Arc::clone(&store), Arc::clone(&forwarders), verifier, Arc::clone(&stats));
        let id_key = id_key(&config).unwrap_or_else(|| store.id_secret());
        let fleet =
            Fleet::start(&config, &store, &stats, &id_key).map_err(|error| Error::Start(format!("cannot start the fleet: {error}")))?;
        let fleet = Arc::new(ArcSwapOption::new(fleet));
        let pinned = Pinned::of(&config);
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            live: ArcSwap::from_pointee(Live::of(Arc::clone(&config), delivery.postmaster(&config.smtp.hostname))),
            tls,
            limits,
            budget: Arc::clone(&budget),
            delivery,
            stats: Arc::clone(&stats),
            id_key,
        });
        let live_config = Arc::new(ArcSwap::new(Arc::clone(&config)));
        log_listeners(&sockets);
        let rings = start_rings(config.smtp.threads, &shared, &sockets.smtp)?;
        let ready = Arc::clone(&stats.ready);
        let deps = admin::Deps {
            config: Arc::clone(&live_config),
            stats,
            store: Arc::clone(&store),
            ready: Arc::clone(&ready),
            budget,
            fleet: Arc::clone(&fleet),
        };
        let admin = admin::start(deps, sockets.admin).map_err(|error| Error::Start(format!("cannot start the admin listener: {error}")))?;
        for ring in &rings {
            ring.accept();
        }
        ready.set(Readiness::Ready);
        Ok(Self { config: live_config, shared, store, forwarders, rings, ready, admin, fleet, pinned, refused_values: AtomicU64::new(0) })
    }

    /// Says on the terminal what to do next (development), and tells systemd.
    fn announce(&self) {
        let config = self.config.load();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), routes = config.routes.len(), "ready");
        if config.origin == Origin::Development {
            tracing::info!("development configuration: every message goes to the inspector on the page");
            tracing::info!("send one: cargo run --release -- send    (or any mail client, SMTP on 127.0.0.1:2525)");
            tracing::info!("see it arrive: http://127.0.0.1:8025/");
        }
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// The main loop: signals, the certificate watch, the watchdog.
    async fn serve(&self, signals: &mut Signals, log: &crate::log::Handle) -> Ending {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut seconds = 0_u64;
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ending::Asked,
                _ = signals.interrupt.recv() => return Ending::Asked,
                thread = self.store.died() => return Ending::Died(thread),
                _ = signals.hangup.recv() => {
                    // Without a file there is nothing to read again: the terminal has been closed, and the daemon ends with it.
                    if self.config.load().origin == Origin::Development {
                        return Ending::Asked;
                    }
                    self.reload(log);
                }
                _ = second.tick() => {
                    seconds = seconds.wrapping_add(1);
                    self.tick(seconds, log);
                }
            }
        }
    }

    fn tick(&self, seconds: u64, log: &crate::log::Handle) {
        let stats = &self.shared.stats;
        self.shared.budget.tidy();
        self.shared.delivery.tick();
        log.tick();
        stats.body_bytes.set(self.shared.budget.held());
        stats.body_budget_bytes.set(self.shared.budget.limit());
        stats.log_lines_lost.set(log.lines_lost());
        stats.store.wait_us.set(u64::try_from(self.store.wait().as_micros()).unwrap_or(u64::MAX));
        let before = self.ready.state();
        self.ready.set(match self.store.trouble() {
            None if self.store.writable() => Readiness::Ready,
            None => Readiness::Degraded("the store has more to do than it can".to_owned()),
            Some(trouble) => Readiness::Degraded(format!("degraded: {trouble}")),
        });
        // An error the store logs itself; that nothing comes of a disk is seen from here only.
        match (before, self.ready.state()) {
            (Readiness::Ready, Readiness::Degraded(reason)) if stats.store.degraded.get() == 0 => {
                tracing::error!(reason, "no mail is taken: it is answered 452");
            }
            (Readiness::Degraded(_), Readiness::Ready) => tracing::warn!("mail is taken again"),
            _ => {}
        }
        if seconds.is_multiple_of(2) {
            self.look_at_values(log);
        }
        if seconds.is_multiple_of(10) || seconds == 1 {
            self.look_around();
        }
        let status = status::line(stats);
        // What only the main loop knows is nobody's health: systemd ends a daemon one of whose rings stands.
        match stats.pulses.standing() {
            None => notify(&[sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&status)]),
            Some(name) => {
                tracing::error!(name, "a thread stands, the watchdog is not told that all is well");
                notify(&[sd_notify::NotifyState::Status(&format!("{name} stands"))]);
            }
        }
    }
}

/// For its connections, its forwarders, and what is beside them.
fn raise_descriptors(config: &Config) {
    machine::raise_descriptors(u64::try_from(config.smtp.max_connections + config.forward.workers + 256).unwrap_or(u64::MAX));
}

/// The key of Webhook-Id that is configured; `None`: the one kept beside the store.
#[must_use]
pub fn id_key(config: &Config) -> Option<[u8; 32]> {
    let secret = &config.forward.id_secret;
    (!secret.is_empty()).then(|| crate::forward::webhook::id_key(secret.expose()))
}

/// Why the main loop ended.
enum Ending {
    Asked,
    Died(&'static str),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

fn start_rings(threads: usize, shared: &Arc<Shared>, sockets: &[std::net::TcpListener]) -> Result<Vec<net::Ring>, Error> {
    (0..threads.max(1))
        .map(|number| {
            let duplicates = sockets.iter().map(sockets::duplicate).collect::<io::Result<Vec<_>>>();
            duplicates.and_then(|duplicates| net::start(number, Arc::clone(shared), duplicates)).map_err(Error::IoUring)
        })
        .collect()
}

fn log_listeners(sockets: &Sockets) {
    for socket in &sockets.smtp {
        if let Ok(address) = socket.local_addr() {
            tracing::info!(listener = "smtp", %address, "listening");
        }
    }
    match &sockets.admin {
        AdminSocket::Tcp(socket) => {
            if let Ok(address) = socket.local_addr() {
                tracing::info!(listener = "admin", %address, "listening");
            }
        }
        AdminSocket::Unix(socket) => {
            if let Ok(address) = socket.local_addr()
                && let Some(path) = address.as_pathname()
            {
                tracing::info!(listener = "admin", address = format_args!("unix:{}", path.display()), "listening");
            }
        }
    }
}

/// How often systemd is asked for more time, and for how much more than that.
const MORE_TIME: Duration = Duration::from_secs(10);

/// Does what may take longer than the unit's timeout for a start: a store of an older version is brought up to date.
fn patiently<T>(work: impl FnOnce() -> T) -> T {
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let asking = std::thread::Builder::new().name("more-time".to_owned()).spawn(move || {
        while ended.recv_timeout(MORE_TIME) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            extend_timeout(2 * MORE_TIME);
        }
    });
    let result = work();
    drop(done);
    drop(asking);
    result
}
