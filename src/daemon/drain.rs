//! SIGTERM: no new mail, messages in flight finish within `grace`, then the end; a second signal ends at once.

use super::{Daemon, Signals, notify};
use crate::stats::Readiness;
use std::time::{Duration, Instant};

/// After the forwarders were told to give up, their replies still go out.
const LAST_REPLIES: Duration = Duration::from_secs(2);

impl Daemon {
    pub(super) async fn drain(self, signals: &mut Signals, log: &crate::log::Handle) {
        let grace = self.config.load().shutdown.grace;
        tracing::info!(grace = ?grace, "draining");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.ready.set(Readiness::Draining);
        for ring in &self.rings {
            ring.drain();
        }
        if !self.rings_end_before(Instant::now() + grace, signals, log).await {
            tracing::warn!("grace is over: messages still in flight are deferred");
            self.forwarders.drain();
            self.forwarders.abort();
            self.rings_end_before(Instant::now() + LAST_REPLIES, signals, log).await;
        }
        self.forwarders.drain();
        self.store.close();
        self.admin.stop();
        tracing::info!("stopped");
    }

    async fn rings_end_before(&self, deadline: Instant, signals: &mut Signals, log: &crate::log::Handle) -> bool {
        while !self.rings.iter().all(crate::net::Ring::is_finished) {
            if Instant::now() >= deadline {
                return false;
            }
            let tick = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                () = tick => {}
                _ = signals.terminate.recv() => end_at_once(log),
                _ = signals.interrupt.recv() => end_at_once(log),
            }
        }
        true
    }
}

/// What has no reply yet gets a closed connection: its sender keeps the message.
fn end_at_once(log: &crate::log::Handle) -> ! {
    tracing::warn!("second signal: ended at once");
    log.flush();
    #[expect(
        clippy::disallowed_methods,
        reason = "the operator asked twice: nothing is waited for, and what is open is closed by the kernel"
    )]
    std::process::exit(0)
}
