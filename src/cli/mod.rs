//! The command line: one file per subcommand. Each ends with `Ok` or with a code and one line.

mod args;
mod as_daemon;
mod check;
mod choice;
mod client;
mod doctor;
mod exit;
mod export;
mod fleet;
mod forget;
mod generate;
mod output;
mod records;
mod refusals;
mod report;
mod send;
mod serve;
mod stats;
mod table;
mod terminal;
mod time;
mod unit;
mod warnings;

pub use exit::{Exit, Failure};

use args::{Args, Command};
use choice::Choice;
use clap::Parser as _;
use clap::error::ErrorKind;
use output::{complain, print};
use std::process::ExitCode;

/// The whole program: parses the command line, runs the command, says in one line why it could not.
#[must_use]
pub fn main() -> ExitCode {
    match parse().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.line.is_empty() {
                complain(&failure.shown());
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn parse() -> Result<Args, Failure> {
    Args::try_parse().map_err(|error| {
        if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Failure::new(Exit::Usage, in_one_line(&error.to_string()));
        }
        match error.print() {
            Ok(()) => Failure::new(Exit::Ok, ""),
            Err(error) => Failure::output(&error),
        }
    })
}

/// The first paragraph says what is wrong, a tip how to mend it; the usage is left to `--help`.
fn in_one_line(error: &str) -> String {
    let mut words = Vec::new();
    for line in error.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")) {
        words.extend(line.split_whitespace());
    }
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; see mailsluice --help")
}

fn run(args: Args) -> Result<(), Failure> {
    let config = &Choice::new(args.config, args.dev);
    match args.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config),
        Command::Check => check::run(config),
        Command::Doctor(doctor) => doctor::run(config, &doctor),
        Command::Send(send) => send::run(config, &send),
        Command::Stats(stats) => stats::run(config, &stats),
        Command::Records(records) => records::run(config, &records),
        Command::Report(report) => report::run(config, &report),
        Command::Refusals(refusals) => refusals::run(config, &refusals),
        Command::Export(export) => export::run(config, &export),
        Command::Fleet(fleet) => fleet::run(config, &fleet),
        Command::Forget(forget) => forget::run(config, &forget),
        Command::Generate { what } => generate::run(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_is_one_line() {
        let table = [
            (
                &["mailsluice", "chekc"][..],
                "unrecognized subcommand 'chekc' tip: a similar subcommand exists: 'check'; see mailsluice --help",
            ),
            (&["mailsluice", "export"], "the following required arguments were not provided: --address <A>; see mailsluice --help"),
            (
                &["mailsluice", "records", "--limit", "x"],
                "invalid value 'x' for '--limit <N>': invalid digit found in string; see mailsluice --help",
            ),
        ];
        for (words, expected) in table {
            let Err(error) = Args::try_parse_from(words) else { panic!("{words:?} is taken") };
            assert_eq!(in_one_line(&error.to_string()), expected);
        }
    }
}
