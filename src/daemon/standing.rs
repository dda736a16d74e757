//! What is looked at now and then: certificates (renewed, broken, ending), and whether the next start would fail. What is wrong stands
//! among the notices, and is logged when it begins and once a day.

use super::Daemon;
use crate::stats::TooSlow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An alert before this many days, as `doctor` and the alert rules have it.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 86_400;
/// Of the package's word why the next start would fail.
const WHY_MAX: usize = 500;

/// Where the package says that the program installed last refuses the configuration. `None`: not started by systemd.
pub(super) fn next_start() -> Option<PathBuf> {
    let folder = std::env::var_os("RUNTIME_DIRECTORY")?;
    Some(Path::new(&folder).join("next-start-fails"))
}

impl Daemon {
    pub(super) fn look_around(&self) {
        let stats = &self.shared.stats;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let broken = self.shared.tls.watch(&stats.certificates.reload_failures);
        stats.notices.set("certificate files", broken);
        stats.notices.set("slow endpoints", slow_endpoints(&stats.too_slow()));
        let in_use: BTreeMap<_, _> = self.shared.tls.not_after().into_iter().collect();
        let ending = in_use.iter().find_map(|(file, end)| ends_soon(file, *end, now));
        if stats.notices.set("certificate", ending.clone())
            && let Some(ending) = ending
        {
            tracing::warn!("{ending}");
        }
        // What endpoints are shown ends as well; the alert is the metric's.
        stats.certificates.set(in_use.into_iter().chain(self.forwarders.watch()).collect());
        let refused = next_start().and_then(|path| std::fs::read_to_string(path).ok()).map(|why| {
            let why: String = why.trim().chars().take(WHY_MAX).collect();
            format!("the next start fails: the program installed last refuses the configuration: {why}")
        });
        if stats.notices.set("next start", refused.clone())
            && let Some(refused) = refused
        {
            tracing::warn!("{refused}; mend that, then: systemctl restart mailsluice");
        }
    }
}

fn slow_endpoints(slow: &[TooSlow]) -> Option<String> {
    let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
    let one = |slow: &TooSlow| format!("route {}: {:.1} s of {:.0} s", slow.route, seconds(slow.p50_us), seconds(slow.timeout_us));
    let named = slow.iter().take(5).map(one).collect::<Vec<_>>().join(", ");
    let more = if slow.len() > 5 { format!(" and {} more", slow.len() - 5) } else { String::new() };
    (!slow.is_empty()).then(|| {
        format!("an endpoint takes more than half of its timeout ({named}{more}): when more comes than it can do, some of its work is in vain; raise timeout, or make it quicker")
    })
}

/// A new sentence each day, so that it is logged each day.
fn ends_soon(file: &str, end: i64, now: i64) -> Option<String> {
    let days = (end - now).div_euclid(DAY);
    let in_words = |days: i64| if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    let renew = "renew it (certbot renew, or lego renew)";
    match days {
        ..0 => Some(format!("{file} expired {} ago: senders that look at it defer their mail; {renew}", in_words(-days))),
        0 => Some(format!("{file} expires within a day: {renew}")),
        1..SOON_DAYS => Some(format!("{file} expires in {}: {renew}", in_words(days))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon() {
        let at = |days: i64| ends_soon("a.pem", 100 * DAY, (100 - days) * DAY);
        assert_eq!(at(14), None);
        assert!(at(13).unwrap().contains("expires in 13 days"));
        assert!(at(1).unwrap().contains("expires in 1 day:"));
        assert!(at(0).unwrap().contains("expires within a day"));
        assert!(at(-1).unwrap().contains("expired 1 day ago"));
    }
}
