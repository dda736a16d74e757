//! The line of `systemctl status`. Nothing here fails or logs.

use crate::stats::Stats;

/// What is wrong, then the numbers.
pub(super) fn line(stats: &Stats) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = stats.ready.state().reason() {
        parts.push(format!("not taking mail: {}", reason.strip_prefix("degraded: ").unwrap_or(reason)));
    }
    let (away, all) = stats.routes_away();
    if away > 0 {
        parts.push(format!("{away} of {all} routes not answering"));
    }
    parts.extend(stats.notices.all().into_iter().map(|notice| notice.brief));
    let messages = &stats.messages;
    parts.push(format!(
        "{} connections, {} delivered, {} rejected, {} deferred, {} undelivered",
        stats.connections.open.get(),
        messages.delivered.get(),
        messages.rejected.get(),
        messages.deferred.get(),
        messages.undelivered.get(),
    ));
    crate::log::escaped(&parts.join("; "))
}
