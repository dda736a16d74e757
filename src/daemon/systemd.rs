//! What systemd is told (sd_notify(3)); without it there is nobody to tell.

use sd_notify::NotifyState;
use std::time::Duration;

/// Asks systemd for so much time from now on.
pub(super) fn extend_timeout(time: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
