//! The unit as systemd has it, drop-ins included, and what the package has said about the next start.

use super::Finding;
use crate::config::{Config, unit};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const UNIT: &str = "mailsluice.service";
/// Written by the package's installation, for the process that runs on.
const NEXT_START: &str = "/run/mailsluice/next-start-fails";
/// Between the end of `grace` and that of the process.
const LAST_REPLIES: Duration = Duration::from_secs(5);

pub(super) fn inspect(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> = next_start(Path::new(NEXT_START)).into_iter().collect();
    if let Some(properties) = show() {
        findings.extend(judge(config, &properties));
    }
    findings
}

fn next_start(path: &Path) -> Option<Finding> {
    let why = std::fs::read_to_string(path).ok()?;
    Some(Finding::problem(
        format!("the program that runs is not the one installed last: the next start was refused: {}", why.trim()),
        "mend the configuration, then: systemctl restart mailsluice",
    ))
}

/// `None`: no systemd here, or no such unit.
fn show() -> Option<HashMap<String, String>> {
    let properties = "--property=LoadState,TimeoutStopUSec,NeedDaemonReload,User";
    let output = Command::new("systemctl").args(["show", UNIT, properties]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let properties: HashMap<_, _> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    (properties.get("LoadState").map(String::as_str) == Some("loaded")).then_some(properties)
}

fn judge(config: &Config, properties: &HashMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if properties.get("NeedDaemonReload").map(String::as_str) == Some("yes") {
        findings.push(Finding::warning(format!("{UNIT} was changed, and systemd does not know it yet"), "systemctl daemon-reload"));
    }
    // systemd writes `1min 30s`, or `infinity`.
    let timeout = properties.get("TimeoutStopUSec").and_then(|text| unit::parse_duration(&text.replace("min", "m")));
    if let Some(timeout) = timeout {
        let grace = config.shutdown.grace;
        let what = format!("TimeoutStopSec of {UNIT} is {}, shutdown.grace {}", unit::show_duration(timeout), unit::show_duration(grace));
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
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::config::Origin;

    fn severities(grace: &str, properties: &[(&str, &str)]) -> Vec<Severity> {
        let text = format!(
            "[shutdown]\ngrace = \"{grace}\"\n[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1/\"\n[smtp]\nhostname = \"mx.test\""
        );
        let config = Config::parse(Origin::File("test".into()), &text).expect("good");
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        judge(&config, &properties).into_iter().map(|finding| finding.severity).collect()
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
            assert_eq!(severities(grace, &[("TimeoutStopUSec", timeout)]), [severity], "{grace} {timeout}");
        }
        assert_eq!(severities("10m", &[("TimeoutStopUSec", "infinity")]), []);
        assert_eq!(severities("10m", &[("NeedDaemonReload", "yes")]), [Severity::Warning]);
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
