//! The command line's one definition: the parser, `--help`, the manual page and the completions come from it.

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// SMTP in, HTTP out, nothing kept
///
/// mailsluice receives email over SMTP and hands each message to an HTTP endpoint while the sending server is still on
/// the line. The endpoint's answer becomes the SMTP reply. Message bodies stay in memory; what is kept is one small
/// record per message.
#[derive(Parser)]
#[command(name = "mailsluice", version, max_term_width = 100)]
pub(super) struct Args {
    /// The configuration file [env: MAILSLUICE_CONFIG] (default: /etc/mailsluice/mailsluice.toml, where there is one)
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// The development configuration, which is also read where there is no file
    ///
    /// It takes mail for every recipient on 127.0.0.1:2525 and shows it on http://127.0.0.1:8025.
    #[arg(long, global = true, conflicts_with = "config")]
    pub(super) dev: bool,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the daemon (the default)
    Serve,
    /// Read the configuration and everything it names, and print the effective one
    ///
    /// Each value is shown with its origin, and no secret. Exits with 78 and one line if something is wrong.
    Check,
    /// Inspect the machine: io_uring, sysctls, limits, swap, ports, certificates, endpoints, store
    ///
    /// One line a finding, with the command that mends it. Exits with 0 if nothing keeps mail from flowing, with 69 if
    /// something does. Sends no mail.
    Doctor(Doctor),
    /// Submit a message over SMTP and print the reply
    ///
    /// Speaks STARTTLS where the server offers it, and takes any certificate, as mail servers do.
    ///
    /// Exits with 0 for a 2xx reply, 65 if a message was refused (5xx), 69 if it was deferred (4xx) or the server could not be
    /// reached.
    Send(Send),
    /// Counters and latency percentiles of the running daemon
    Stats(Stats),
    /// The record log of the running daemon, newest first
    Records(Box<Records>),
    /// What went wrong, by route and cause, with counts; and what was slow
    Report(Report),
    /// Who was refused before a record was made, and why: the last 1 000, from the daemon's memory
    Refusals(Refusals),
    /// Every record that names an address, as JSON lines
    Export(Export),
    /// Erase an address from every record, durably
    ///
    /// Answers when the address is absent from every file of the store.
    Forget(Forget),
    /// The boxes of the fleet: seen when, how far behind, what was lost
    ///
    /// Exits with 69 where a box is an hour behind.
    Fleet(Fleet),
    /// Write the manual page or the completions of a shell
    #[command(hide = true)]
    Generate { what: Generated },
}

#[derive(Group)]
pub(super) struct Doctor {
    /// Print the findings as one JSON document: about, severity (ok, warning, problem), what, mend
    #[arg(long)]
    pub(super) json: bool,
    /// Read and verify every record of the store as well (the daemon must be stopped)
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Group)]
pub(super) struct Send {
    /// A recipient; more than once for several (default: one that the first route takes)
    #[arg(long, value_name = "ADDR")]
    pub(super) to: Vec<String>,
    /// The reverse-path; "" for the null one (default: sender@ this machine)
    #[arg(long, value_name = "ADDR")]
    pub(super) from: Option<String>,
    /// Where to submit (default: the first smtp.listen of the configuration)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) server: Option<String>,
    /// Messages to send, "-" for standard input (default: a sample message)
    #[arg(value_name = "FILE.eml")]
    pub(super) files: Vec<PathBuf>,
}

#[derive(Group)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Fleet {
    #[command(subcommand)]
    pub(super) command: Option<FleetCommand>,
    /// Print the JSON as the daemon gives it
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Subcommand)]
pub(super) enum FleetCommand {
    /// Prepare the fleet's database: roles, tables, partitions, views
    ///
    /// Run once, with the rights of the database's owner or of an administrator; again after an upgrade that says so.
    Init {
        /// Print the SQL and run nothing
        #[arg(long)]
        print: bool,
        /// A file with a connection string of the owner's (default: fleet.postgres of the configuration)
        #[arg(long, value_name = "FILE")]
        postgres_file: Option<PathBuf>,
    },
    /// Strike out a box that will not come back: nobody waits for it any more
    Remove {
        /// Its name or its id
        #[arg(value_name = "BOX")]
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
}

/// How to reach the running daemon.
#[derive(Group)]
pub(super) struct Admin {
    /// The daemon's admin address: http://HOST:PORT or unix:/PATH (default: admin.listen of the configuration)
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    /// A file with the admin token (default: admin.token_file of the configuration)
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Group)]
pub(super) struct Stats {
    /// Print the JSON as the daemon gives it
    #[arg(long)]
    pub(super) json: bool,
    /// Refresh every second
    #[arg(long)]
    pub(super) watch: bool,
    /// Only routes with this in their names (without it: of many those that fail and the busiest)
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["json", "merge", "fleet"])]
    pub(super) route: Option<String>,
    /// Latency added up over several: files of /histograms/{stage}?format=hdr, or admin addresses of daemons (http://HOST:PORT, unix:/PATH)
    #[arg(long, value_name = "FILE|URL", num_args = 1.., conflicts_with_all = ["watch", "fleet"])]
    pub(super) merge: Vec<String>,
    /// Latency of all boxes of the fleet
    #[arg(long, conflicts_with = "watch")]
    pub(super) fleet: bool,
    /// With --fleet: not older than this
    #[arg(long, value_name = "T", default_value = "1h", requires = "fleet")]
    pub(super) since: String,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Group)]
pub(super) struct Records {
    /// One record, whole, with the other attempts at its message; also as in "250 2.0.0 Ok: ID"
    #[arg(value_name = "ID", conflicts_with_all = ["since", "until", "sender", "recipient", "message_id", "webhook_id", "outcome", "status", "route", "ip", "text", "undelivered", "follow"])]
    pub(super) id: Vec<String>,
    /// Not older than this: a time ago (1h, 2d) or a moment (2026-01-31, 2026-01-31T12:00; local time, or with a zone: 2026-01-31T12:00Z)
    #[arg(long, value_name = "T")]
    pub(super) since: Option<String>,
    /// Older than this, written alike
    #[arg(long, value_name = "T")]
    pub(super) until: Option<String>,
    /// With this reverse-path; "" for the null one
    #[arg(long, value_name = "A")]
    pub(super) sender: Option<String>,
    /// With this recipient
    #[arg(long, value_name = "A")]
    pub(super) recipient: Option<String>,
    /// With this Message-ID
    #[arg(long, value_name = "ID")]
    pub(super) message_id: Option<String>,
    /// With this Webhook-Id: every attempt at one message
    #[arg(long, value_name = "ID")]
    pub(super) webhook_id: Option<String>,
    /// With this outcome
    #[arg(long, value_name = "O")]
    pub(super) outcome: Option<Outcome>,
    /// With this status of the endpoint; 0 where it gave none
    #[arg(long, value_name = "N")]
    pub(super) status: Option<u16>,
    /// Of this route
    #[arg(long, value_name = "R")]
    pub(super) route: Option<String>,
    /// From this IP address
    #[arg(long, value_name = "A")]
    pub(super) ip: Option<String>,
    /// With this anywhere: an id, also in a reply; a Webhook-Id; an IP address; a part of an address, subject, Message-ID, response or reply
    #[arg(long, value_name = "T")]
    pub(super) text: Option<String>,
    /// Only messages that no attempt has delivered or rejected: the latest attempt, the answer and how many there were
    #[arg(long)]
    pub(super) undelivered: bool,
    /// At most so many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) limit: u64,
    /// Go on with new records as they come, over restarts of the daemon
    #[arg(long, conflicts_with = "until")]
    pub(super) follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    /// Of all boxes of the fleet
    #[arg(long, conflicts_with = "follow")]
    pub(super) fleet: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Group)]
pub(super) struct Report {
    /// Not older than this: a time ago (1h, 2d) or a moment (2026-01-31T12:00)
    #[arg(long, value_name = "T", default_value = "1d")]
    pub(super) since: String,
    /// Print the JSON as the daemon gives it
    #[arg(long)]
    pub(super) json: bool,
    /// Of all boxes of the fleet
    #[arg(long)]
    pub(super) fleet: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Group)]
pub(super) struct Refusals {
    /// Go on with new ones as they come, over restarts of the daemon
    #[arg(long)]
    pub(super) follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Outcome {
    Delivered,
    Rejected,
    Deferred,
}

impl Outcome {
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Deferred => "deferred",
        }
    }
}

#[derive(Group)]
pub(super) struct Export {
    /// The address: as a sender or among the recipients
    #[arg(long, value_name = "A")]
    pub(super) address: String,
    /// Of all boxes of the fleet
    #[arg(long)]
    pub(super) fleet: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Group)]
pub(super) struct Forget {
    /// The address to erase
    #[arg(long, value_name = "A")]
    pub(super) address: String,
    /// In all boxes of the fleet and in its database
    ///
    /// Waits a minute for boxes that are silent, then names them and ends with 69; the erasure goes on by itself when they are back.
    #[arg(long)]
    pub(super) fleet: bool,
    /// How long to wait for boxes that are there, and for the tables; then it says for what, and ends with 69 as well
    #[arg(long, value_name = "D", default_value = "10m", requires = "fleet")]
    pub(super) wait: String,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Generated {
    Man,
    Bash,
    Zsh,
    Fish,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_stand_before_and_behind_the_command() {
        for words in [["mailsluice", "--config", "a", "check"], ["mailsluice", "check", "--config", "a"]] {
            let args = Args::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(args.config.as_deref(), Some("a".as_ref()));
            assert!(matches!(args.command, Some(Command::Check)));
        }
    }
}
