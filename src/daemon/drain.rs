//! The end. SIGTERM: no new mail, messages in flight finish within `grace`, which is all the time that the end takes; a second signal ends at once. A thread of the store that died: what
//! has an endpoint's answer is told, within a second, and the process ends with 70.
//!
//! Nothing here waits for a disk: the store is closed by a thread of its own, and left to itself when the time is up.

use super::systemd::{extend_timeout, notify};
use super::{Daemon, Signals};
use crate::log::Handle as Log;
use crate::stats::Readiness;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The end of `grace`, in which those that did not finish are told and the store is closed; of a short one a fifth.
const LAST: Duration = Duration::from_secs(3);
/// That takes so long however short the grace is.
const LEAST: Duration = Duration::from_secs(1);
/// EX_SOFTWARE of sysexits(3).
const INTERNAL: i32 = 70;

impl Daemon {
    pub(super) async fn drain(self, signals: &mut Signals, log: &Log) {
        let grace = self.config.load().shutdown.grace;
        let (now, whole) = (Instant::now(), grace.max(LEAST));
        let (end, last) = (now + whole, LAST.min(whole / 5));
        tracing::info!(grace = ?grace, "draining");
        self.begin_to_end();
        // A grace beyond the unit's TimeoutStopSec= is the daemon's to ask for.
        extend_timeout(whole + LAST);
        if !self.rings_end_before(if grace.is_zero() { now } else { end - last }, signals, log).await {
            tracing::warn!("grace is over: messages still in flight are deferred");
            self.tell_the_rest();
            self.rings_end_before(end - last / 3, signals, log).await;
        }
        self.forwarders.drain();
        self.shared.delivery.finish();
        let fleet = self.fleet.swap(None);
        if let Some(fleet) = &fleet {
            fleet.begin_to_end();
        }
        if !self.store_closes_before(end, signals, log).await {
            tracing::error!("the disk does not answer: ended without it; what was acknowledged is in the store's journal or in this log");
            end_process(0, log);
        }
        self.admin.stop();
        if let Some(fleet) = fleet {
            fleet.stop();
        }
        tracing::info!("stopped");
    }

    /// The end of a process that can record nothing any more.
    pub(super) async fn die(self, thread: &str, signals: &mut Signals, log: &Log) -> ! {
        tracing::error!(thread, "a thread of the store died: the process ends, so that it is started again; please report this bug");
        self.begin_to_end();
        self.tell_the_rest();
        self.rings_end_before(Instant::now() + LEAST, signals, log).await;
        end_process(INTERNAL, log)
    }

    fn begin_to_end(&self) {
        notify(&[sd_notify::NotifyState::Stopping]);
        self.ready.set(Readiness::Draining);
        for ring in &self.rings {
            ring.drain();
        }
    }

    /// What has an endpoint's answer is told that, whether its record is durable or not; what has none is deferred.
    fn tell_the_rest(&self) {
        self.shared.delivery.hurry();
        self.forwarders.drain();
        self.forwarders.abort();
    }

    async fn rings_end_before(&self, deadline: Instant, signals: &mut Signals, log: &Log) -> bool {
        until(deadline, || self.rings.iter().all(crate::net::Ring::is_finished), signals, log).await
    }

    async fn store_closes_before(&self, deadline: Instant, signals: &mut Signals, log: &Log) -> bool {
        let store = Arc::clone(&self.store);
        match std::thread::Builder::new().name("store-close".to_owned()).spawn(move || store.close()) {
            Ok(closing) => until(deadline, || closing.is_finished(), signals, log).await,
            Err(_) => false,
        }
    }
}

/// Whether it came true in time. A second signal ends the process at once: what has no reply yet gets a closed connection, and its sender keeps
/// the message.
async fn until(deadline: Instant, condition: impl Fn() -> bool, signals: &mut Signals, log: &Log) -> bool {
    let at_once = || -> ! {
        tracing::warn!("second signal: ended at once");
        end_process(0, log)
    };
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        let tick = tokio::time::sleep(Duration::from_millis(20));
        tokio::select! {
            () = tick => {}
            _ = signals.terminate.recv() => at_once(),
            _ = signals.interrupt.recv() => at_once(),
        }
    }
    true
}

/// Without a destructor or a join: a thread that a disk holds must not hold the process.
fn end_process(code: i32, log: &Log) -> ! {
    log.flush();
    // SAFETY: it takes a number and does not come back.
    #[expect(unsafe_code, reason = "the standard library's exit runs what the C library was told to run at the end")]
    unsafe {
        libc::_exit(code)
    }
}
