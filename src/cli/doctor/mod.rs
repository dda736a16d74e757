//! `mailsluice doctor`: looks at the machine as the daemon would meet it. One line a finding, with the command that mends it;
//! sends no mail and no request, and changes nothing.

mod certificate;
mod finding;
mod fleet;
mod machine;
mod network;
mod storage;
mod sysctl;
mod unit;
mod way;

use super::args::{Admin, Doctor};
use super::as_daemon::AsDaemon;
use super::choice::Choice;
use super::client::Client;
use super::{Exit, Failure, print};
use crate::config::{AdminListen, Config, Origin};
use finding::{Finding, Severity};
use serde_json::Value;
use std::io::IsTerminal as _;
use std::path::Path;

pub(super) fn run(choice: &Choice, options: &Doctor) -> Result<(), Failure> {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print(&Finding::fine(format!("configuration: {}", choice.name())).line(colours))?;
    let seen_by = AsDaemon::enter(choice.path());
    let config = choice.load().map_err(|failure| failure.seen_by(seen_by.name()))?;
    let mut worst = Severity::Fine;
    let mut report = |findings: Vec<Finding>| -> Result<(), Failure> {
        for finding in findings {
            worst = worst.max(finding.severity);
            print(&finding.line(colours))?;
        }
        Ok(())
    };
    report(config.warnings.iter().map(|warning| Finding::warning(warning, "")).collect())?;
    report(vec![machine::io_uring()])?;
    report(sysctl::compare(Path::new("/proc/sys")))?;
    report(machine::limits(&config))?;
    report(machine::memory(&config))?;
    report(vec![machine::swap(), machine::clock()])?;
    report(unit::inspect(&config))?;
    report(seen_by.as_root(|| network::ports(&config)))?;
    report(admin(&config))?;
    report(network::names(&config))?;
    report(certificate::inspect(&config))?;
    report(network::endpoints(&config))?;
    report(fleet::inspect(&config))?;
    report(seen_by.as_root(|| standing(choice)))?;
    report(storage::inspect(&config, options.store))?;
    match worst {
        Severity::Fine | Severity::Warning => Ok(()),
        Severity::Problem => Err(Failure::new(Exit::Unavailable, "mail cannot flow as it should; mend the lines that say \"problem\"")),
    }
}

/// Who may read and erase the records.
fn admin(config: &Config) -> Vec<Finding> {
    match (&config.admin.listen, &config.admin.token) {
        (AdminListen::Tcp(address), None) if matches!(config.origin, Origin::File(_)) => vec![Finding::warning(
            format!("admin.listen {address} asks for no token: every user and program of this machine can read and erase the records"),
            "set admin.token_file = \"/etc/mailsluice/admin.token\" (the package makes it; else: openssl rand -hex 32), or listen on a unix: socket",
        )],
        (AdminListen::Tcp(_) | AdminListen::Unix(_), _) => Vec::new(),
    }
}

/// What the running daemon knows to be wrong, an endpoint that takes most of its timeout among it; nothing where none runs.
fn standing(choice: &Choice) -> Vec<Finding> {
    let asked = Client::new(choice, &Admin { admin: None, token_file: None }).and_then(|client| client.get("/notices"));
    let notices: Value = asked.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let notices = notices.get("notices").and_then(Value::as_array).into_iter().flatten();
    notices.filter_map(Value::as_str).map(|notice| Finding::warning(format!("the running daemon: {notice}"), "")).collect()
}
