//! `mailsluice doctor`: looks at the machine as the daemon would meet it. One line a finding, with the command that mends it, or all of
//! them as JSON; sends no mail, asks endpoints for their OPTIONS, and changes nothing.

mod admin;
mod certificate;
mod endpoint;
mod finding;
mod fleet;
mod listen;
mod machine;
mod names;
mod probe;
mod storage;
mod sysctl;
mod unit;
mod way;

use super::args::{Admin, Doctor};
use super::as_daemon::AsDaemon;
use super::choice::Choice;
use super::client::Client;
use super::unit::{SERVICE, SOCKET, Unit};
use super::{Exit, Failure, print, warnings};
use crate::config::Config;
use finding::{Finding, Severity};
use serde::Serialize;
use serde_json::Value;
use std::io::IsTerminal as _;
use std::path::Path;

/// What was found so far: told line by line, or kept for the document.
struct Report {
    json: bool,
    colours: bool,
    worst: Severity,
    kept: Vec<About>,
}

/// A finding of the document.
#[derive(Serialize)]
struct About {
    about: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

impl Report {
    fn new(json: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, worst: Severity::Fine, kept: Vec::new() }
    }

    fn add(&mut self, about: &'static str, findings: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        for finding in findings {
            self.worst = self.worst.max(finding.severity);
            if self.json {
                self.kept.push(About { about, finding });
            } else {
                print(&finding.line(self.colours))?;
            }
        }
        Ok(())
    }

    fn finish(&self, choice: &Choice) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let document = serde_json::json!({ "configuration": choice.name(), "worst": self.worst, "findings": self.kept });
        print(&format!("{document:#}\n"))
    }
}

pub(super) fn run(choice: &Choice, options: &Doctor) -> Result<(), Failure> {
    let mut report = Report::new(options.json);
    report.add("configuration", [Finding::fine(format!("configuration: {}", choice.name()))])?;
    let seen_by = AsDaemon::enter(choice.path());
    let config = match Config::load(choice.path()) {
        Ok(config) => config,
        Err(error) => {
            if report.json {
                let (what, mend) = error.what_and_mend();
                report.add("configuration", [Finding::problem(seen_by.saw(&what), mend)])?;
                report.finish(choice)?;
            }
            let failure = Failure::from(error);
            return Err(Failure { line: seen_by.saw(&failure.line), ..failure });
        }
    };
    inspect(&mut report, &config, choice, options, &seen_by)?;
    report.finish(choice)?;
    match report.worst {
        Severity::Fine | Severity::Warning => Ok(()),
        Severity::Problem => Err(Failure::new(Exit::Unavailable, "mail cannot flow as it should; mend the lines that say \"problem\"")),
    }
}

fn inspect(report: &mut Report, config: &Config, choice: &Choice, options: &Doctor, seen_by: &AsDaemon) -> Result<(), Failure> {
    let (service, socket) = (Unit::show(SERVICE), Unit::show(SOCKET));
    let (service, socket) = (service.as_ref(), socket.as_ref());
    report.add("configuration", warnings::of(config).into_iter().map(|warning| Finding::warning(warning.what, warning.mend)))?;
    report.add("io_uring", [machine::io_uring()])?;
    report.add("sysctl", sysctl::compare(Path::new("/proc/sys")))?;
    report.add("limits", machine::limits(config, service))?;
    report.add("memory", machine::memory(config, service))?;
    report.add("swap", [machine::swap(service)])?;
    report.add("clock", [machine::clock()])?;
    report.add("unit", unit::inspect(config, choice.path(), service, socket))?;
    report.add("listen", seen_by.as_root(|| listen::inspect(config, socket)))?;
    report.add("admin", admin::inspect(config, choice.path()))?;
    report.add("name", names::inspect(config))?;
    report.add("certificate", certificate::inspect(config, seen_by))?;
    report.add("endpoint", endpoint::inspect(config))?;
    report.add("fleet", fleet::inspect(config))?;
    report.add("daemon", seen_by.as_root(|| standing(choice)))?;
    report.add("store", storage::inspect(config, options.store, service, seen_by.is_another()))
}

/// What the running daemon knows to be wrong, an endpoint that takes most of its timeout among it; nothing where none runs.
fn standing(choice: &Choice) -> Vec<Finding> {
    let asked = Client::new(choice, &Admin { admin: None, token_file: None }).and_then(|client| client.get("/notices"));
    let said: Value = asked.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let notices = said.get("notices").and_then(Value::as_array).into_iter().flatten().filter_map(|notice| notice.get("what"));
    let texts = said.get("not_ready").into_iter().chain(notices).filter_map(Value::as_str);
    texts.map(|text| Finding::warning(format!("the running daemon: {text}"), "")).collect()
}
