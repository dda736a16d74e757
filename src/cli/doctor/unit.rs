//! The unit against the configuration, and what the package has said about the next start.

use super::Finding;
use crate::cli::unit::{SERVICE, Unit};
use crate::config::{Config, unit};
use std::path::Path;
use std::time::Duration;

/// Written by the package's installation, for the process that runs on.
const NEXT_START: &str = "/run/mailsluice/next-start-fails";
/// Between the end of `grace` and that of the process.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// Beside one for each message in hand.
const THREADS_BESIDE: u64 = 64;

pub(super) fn inspect(config: &Config, service: Option<&Unit>) -> Vec<Finding> {
    let mut findings: Vec<_> = next_start(Path::new(NEXT_START)).into_iter().collect();
    findings.extend(service.into_iter().flat_map(|unit| judge(config, unit)));
    findings
}

fn next_start(path: &Path) -> Option<Finding> {
    let why = std::fs::read_to_string(path).ok()?;
    Some(Finding::problem(
        format!("the program that runs is not the one installed last: the next start was refused: {}", why.trim()),
        "mend the configuration, then: systemctl restart mailsluice",
    ))
}

fn judge(config: &Config, unit: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    if unit.text("NeedDaemonReload") == Some("yes") {
        findings.push(Finding::warning(format!("{SERVICE} was changed, and systemd does not know it yet"), "systemctl daemon-reload"));
    }
    if let Some(timeout) = unit.duration("TimeoutStopUSec") {
        let grace = config.shutdown.grace;
        let what =
            format!("TimeoutStopSec of {SERVICE} is {}, shutdown.grace {}", unit::show_duration(timeout), unit::show_duration(grace));
        findings.push(if timeout < grace + LAST_REPLIES {
            Finding::warning(
                what,
                format!(
                    "systemctl edit mailsluice: TimeoutStopSec={}, or a shorter grace: what is in flight may be cut off",
                    unit::show_duration(grace + LAST_REPLIES)
                ),
            )
        } else {
            Finding::fine(what)
        });
    }
    let threads = u64::try_from(config.forward.workers).unwrap_or(u64::MAX).saturating_add(THREADS_BESIDE);
    if let Some(tasks) = unit.number("TasksMax").filter(|tasks| *tasks < threads) {
        findings.push(Finding::warning(
            format!("TasksMax of {SERVICE} is {tasks}, forward.workers {} may need {threads}", config.forward.workers),
            format!("systemctl edit mailsluice: TasksMax={threads}; or lower forward.workers"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::config::Origin;

    fn severities(grace: &str, properties: &str) -> Vec<Severity> {
        let text = format!(
            "[shutdown]\ngrace = \"{grace}\"\n[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1/\"\n[smtp]\nhostname = \"mx.test\""
        );
        let config = Config::parse(Origin::File("test".into()), &text).expect("good");
        judge(&config, &Unit::of(properties)).into_iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn grace_against_the_units_timeout() {
        for (grace, timeout, severity) in [
            ("30s", "45s", Severity::Fine),
            ("40s", "45s", Severity::Fine),
            ("45s", "45s", Severity::Warning),
            ("2m", "1min 30s", Severity::Warning),
            ("1m", "1min 30s", Severity::Fine),
        ] {
            assert_eq!(severities(grace, &format!("TimeoutStopUSec={timeout}")), [severity], "{grace} {timeout}");
        }
        assert_eq!(severities("10m", "TimeoutStopUSec=infinity\nTasksMax=infinity"), []);
        assert_eq!(severities("10m", "NeedDaemonReload=yes"), [Severity::Warning]);
        assert_eq!(severities("10m", "TasksMax=512"), [Severity::Warning]);
    }

    #[test]
    fn a_refused_next_start() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "mailsluice: unknown key\n").expect("written");
        let finding = next_start(file.path()).expect("a finding");
        assert!(finding.severity == Severity::Problem && finding.what.contains("next start") && finding.what.ends_with("unknown key"));
        assert_eq!(next_start(Path::new("/nonexistent")), None);
    }
}
