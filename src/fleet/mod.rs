//! Records of many boxes in one place: each record that the store has is brought to PostgreSQL, and to an OpenTelemetry collector, behind the
//! store and never on a message's way. The store is the buffer: what is away for a day delays nothing and is caught up with.
//!
//! - `shipper.rs` says what is brought next, without I/O; `course.rs` keeps how far that is;
//! - `session.rs` brings it to PostgreSQL, `postgres.rs` goes on whatever becomes of a connection, `otlp.rs` does so to a collector;
//! - `query.rs` asks for records of all boxes, `settled.rs` marks what needs no asking, `erasure.rs` erases in all of them, `latency.rs` has their histograms.
//!
//! One thread with a runtime of its own; it looks at the store twice a second, so a commit tells nobody and costs what it did.

mod asking;
mod connect;
mod course;
mod erasure;
mod init;
mod inspect;
mod latency;
mod otlp;
mod place;
mod postgres;
mod query;
mod row;
mod schema;
mod session;
mod settled;
mod shared;
mod shipper;

pub use asking::Fleet;
pub use connect::Trouble;
pub use erasure::{Erasure, Waiting};
pub use init::{init, script};
pub use inspect::{Look, inspect};
pub use latency::{StageLatency, summary};
pub use query::{BoxStanding, FleetPage, FleetRecord, FleetUndelivered};

use crate::config;
use crate::stats::Stats;
use crate::store::Store;
use nix::libc;
use place::Place;
use schema::uuid;
use shared::{Shared, id_secret_check};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Behind the rings and forwarders when all want the processor.
const NICENESS: i32 = 10;
/// The end of the daemon does not wait longer for a database.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Fleet {
    /// Begins to bring records. `None`: there is no fleet.
    ///
    /// # Errors
    /// The box has no identity, or the thread cannot be started.
    pub fn start(config: &config::Config, store: &Arc<Store>, stats: &Arc<Stats>, id_key: &[u8; 32]) -> io::Result<Option<Arc<Self>>> {
        let fleet = config.fleet.clone();
        stats.fleet.clear();
        stats.minutes.clear();
        if fleet.postgres.is_none() {
            // Nobody asks what forget changed; a list that cannot be ended is as good as none.
            store.keep_changes(false).unwrap_or_default();
        }
        if fleet.postgres.is_none() && fleet.otlp.is_none() {
            stats.notices.set("fleet", None);
            stats.notices.set("collector", None);
            return Ok(None);
        }
        let place = Place::beside(&config.store.path);
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            store_retention: config.store.retention,
            store: Arc::clone(store),
            stats: Arc::clone(stats),
            box_id: uuid(place.identity()?),
            token: session::fresh_token()?,
            id_secret_check: id_secret_check(id_key),
            place,
            stop: stopped,
            config: fleet,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let (handle, kept) = (runtime.handle().clone(), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            yield_to_mail();
            let end = async {
                let mut stop = shared.stop.clone();
                drop(stop.wait_for(|stop| *stop).await);
                tokio::time::sleep(LAST_WORDS).await;
            };
            runtime.block_on(async {
                tokio::select! {
                    () = sinks(&shared) => {}
                    () = end => {}
                }
            });
            runtime.shutdown_timeout(LAST_WORDS);
        })?;
        Ok(Some(Arc::new(Self { shared: kept, reader: Arc::default(), runtime: handle, stop, thread: Mutex::new(Some(thread)) })))
    }
}

async fn sinks(shared: &Arc<Shared>) {
    let postgres = async {
        if shared.config.postgres.is_some() {
            postgres::run(shared).await;
        }
    };
    let otlp = async {
        if shared.config.otlp.is_some() {
            otlp::run(shared).await;
        }
    };
    tokio::join!(postgres, otlp);
}

/// Lowers this thread's priority; it runs as well without.
fn yield_to_mail() {
    // SAFETY: takes three integers; on Linux `who` 0 is the calling thread.
    #[expect(unsafe_code, reason = "no safe wrapper has setpriority for one thread")]
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if result != 0 {
        tracing::debug!("the fleet's thread keeps its priority");
    }
}
