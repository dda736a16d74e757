//! What the sinks and whoever asks have in common. Logs nothing.

use super::place::Place;
use crate::config;
use crate::stats::Stats;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Records that are read or written down in one go. A thread of lower priority keeps its processor for some milliseconds once it has it.
pub(super) const STEP: usize = 16;

/// Whoever waits for this processor is next.
pub(super) fn make_way() {
    std::thread::yield_now();
}

/// The settings, and who this box is.
pub(super) struct Shared {
    pub(super) config: config::Fleet,
    pub(super) store_retention: Duration,
    pub(super) store: Arc<Store>,
    pub(super) stats: Arc<Stats>,
    pub(super) place: Place,
    /// This box, as the database writes it.
    pub(super) box_id: String,
    /// This daemon among those that ever spoke for the box.
    pub(super) token: String,
    pub(super) id_secret_check: String,
    pub(super) stop: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn store_retention(&self) -> Duration {
        self.store_retention
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits, or ends early because all ends.
    pub(super) async fn pause(&self, time: Duration) {
        let mut stop = self.stop.clone();
        drop(tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await);
    }
}

/// Says whether two keys are one, and nothing else of them.
pub(super) fn id_secret_check(id_key: &[u8; 32]) -> String {
    let check = blake3::derive_key("mailsluice 2026-11 fleet: which id_secret", id_key);
    check.iter().take(16).map(|octet| format!("{octet:02x}")).collect()
}
