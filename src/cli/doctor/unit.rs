//! The unit against the configuration, and what the package has said about the next start.

use super::Finding;
use crate::cli::unit::{SERVICE, SOCKET, Unit};
use crate::config::{Config, unit};
use nix::unistd::User;
use std::path::Path;
use std::time::Duration;

/// Written by the package's installation, for the process that runs on.
const NEXT_START: &str = "/run/mailsluice/next-start-fails";
/// The configuration that the packaged unit reads.
const PACKAGED: &str = "/etc/mailsluice/mailsluice.toml";
/// Between the end of `grace` and that of the process.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// Beside one for each message in hand.
const THREADS_BESIDE: u64 = 64;

pub(super) fn inspect(config: &Config, path: Option<&Path>, service: Option<&Unit>, socket: Option<&Unit>) -> Vec<Finding> {
    let mut findings: Vec<_> = next_start(Path::new(NEXT_START)).into_iter().collect();
    if let Some(unit) = service {
        findings.extend(start(config, unit, socket));
        findings.extend(boot(unit, socket));
        findings.extend(path.and_then(|path| another_file(path, unit)));
        findings.extend(judge(config, unit));
    }
    findings
}

/// What a drop-in takes that a start needs.
fn start(config: &Config, unit: &Unit, socket: Option<&Unit>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut problem = |what: String, mend: &str| findings.push(Finding::problem(what, mend));
    match unit.text("LoadState") {
        Some("masked") => problem(format!("{SERVICE} is masked: nothing starts it"), "systemctl unmask mailsluice"),
        Some("loaded") | None => {}
        Some(state) => problem(
            format!("systemd cannot read {SERVICE} ({state})"),
            "systemd-analyze verify mailsluice.service says where; systemctl revert mailsluice",
        ),
    }
    let user = unit.text("User");
    if let Some(name) = user.filter(|name| name.parse::<u32>().is_err() && matches!(User::from_name(name), Ok(None))) {
        problem(
            format!("User={name} of {SERVICE} is not there: it does not start"),
            "systemd-sysusers, or dpkg-reconfigure mailsluice, makes it again",
        );
    }
    let is_systemds = socket.is_some_and(|socket| socket.text("ActiveState") == Some("active"));
    let low = config.smtp.listen.iter().map(std::net::SocketAddr::port).find(|port| *port != 0 && *port < first_free_port());
    let may = user.is_none_or(|user| user == "root") || unit.words("AmbientCapabilities").any(|one| one == "cap_net_bind_service");
    if let Some(port) = low.filter(|_| !is_systemds && !may && unit.text("LoadState") == Some("loaded")) {
        problem(
            format!("{SERVICE} may not take port {port}"),
            "systemctl edit mailsluice: AmbientCapabilities=CAP_NET_BIND_SERVICE, and the same in CapabilityBoundingSet",
        );
    }
    if !unit.allows("SystemCallFilter", "io_uring_setup") || !unit.allows("SystemCallFilter", "io_uring_enter") {
        problem(format!("SystemCallFilter of {SERVICE} forbids io_uring"), "systemctl edit mailsluice: SystemCallFilter=@system-service");
    }
    if !unit.allows("RestrictAddressFamilies", "AF_INET") {
        problem(
            format!("RestrictAddressFamilies of {SERVICE} has no AF_INET"),
            "systemctl edit mailsluice: RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        );
    }
    if unit.text("PrivateNetwork") == Some("yes") {
        problem(
            format!("PrivateNetwork of {SERVICE} is on: nobody can connect, and no endpoint is reached"),
            "systemctl edit mailsluice: PrivateNetwork=no",
        );
    }
    findings
}

fn is_enabled(unit: &Unit) -> bool {
    unit.text("UnitFileState") != Some("disabled")
}

/// What would be missed on a Sunday only.
fn boot(unit: &Unit, socket: Option<&Unit>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if unit.text("LoadState") == Some("loaded") && unit.text("Restart") == Some("no") {
        let what = format!("Restart of {SERVICE} is no: when it is killed it stays down");
        findings.push(Finding::warning(what, "systemctl edit mailsluice: Restart=on-failure"));
    }
    if unit.text("ActiveState") == Some("active") && !is_enabled(unit) && !socket.is_some_and(is_enabled) {
        findings.push(Finding::warning(
            format!("{SERVICE} runs, and neither it nor {SOCKET} is started at a boot"),
            "systemctl enable mailsluice",
        ));
    }
    findings
}

/// The unit reads another configuration than the one that is looked at, where that is the package's.
fn another_file(path: &Path, unit: &Unit) -> Option<Finding> {
    let read = unit.words("ExecStart").skip_while(|word| *word != "--config").nth(1)?;
    (path == Path::new(PACKAGED) && Path::new(read) != path).then(|| {
        Finding::warning(
            format!("{SERVICE} reads {read}, not {}", path.display()),
            format!("mailsluice doctor --config {read}; or systemctl edit mailsluice: ExecStart="),
        )
    })
}

/// Ports from this one on are anybody's.
fn first_free_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
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
