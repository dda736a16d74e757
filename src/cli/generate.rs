//! `mailsluice generate` (hidden): the manual page and the completions, from the parser's own definition. The package's
//! build calls it.

use super::args::{Args, Generated};
use super::{Exit, Failure, print};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use std::io;

pub(super) fn run(what: Generated) -> Result<(), Failure> {
    let octets = match what {
        Generated::Man => manual().map_err(|error| Failure::output(&error))?,
        Generated::Bash => completions(Shell::Bash),
        Generated::Zsh => completions(Shell::Zsh),
        Generated::Fish => completions(Shell::Fish),
    };
    let text = String::from_utf8(octets).map_err(|error| Failure::new(Exit::Io, format!("not text: {error}; please report this bug")))?;
    print(&text)
}

/// The definition without what is hidden.
fn visible() -> Command {
    let whole = Args::command();
    let commands: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut command = Command::new("mailsluice").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = whole.get_about() {
        command = command.about(about.clone());
    }
    if let Some(about) = whole.get_long_about() {
        command = command.long_about(about.clone());
    }
    command.args(whole.get_arguments().cloned()).subcommands(commands)
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut octets = Vec::new();
    clap_complete::generate(shell, &mut visible(), "mailsluice", &mut octets);
    octets
}

/// One page for the whole: each subcommand is a section of it.
fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = visible();
    command.build();
    let man = Man::new(command.clone()).title("MAILSLUICE").section("8").manual("System Administration");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let own = subcommand.clone().mut_args(|arg| if arg.get_id() == "config" || arg.get_id() == "help" { arg.hide(true) } else { arg });
        page.extend_from_slice(format!(".SS mailsluice {}\n", subcommand.get_name()).as_bytes());
        let about = subcommand.get_long_about().or(subcommand.get_about()).map(ToString::to_string).unwrap_or_default();
        page.extend_from_slice(paragraphs(&about).as_bytes());
        let mut options = Vec::new();
        let has_options = own.get_arguments().any(|arg| !arg.is_hide_set());
        if has_options {
            Man::new(own).render_options_section(&mut options)?;
        }
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "").replace(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n", "");
        page.extend_from_slice(options.as_bytes());
    }
    page.extend_from_slice(SECTIONS.as_bytes());
    Ok(page)
}

fn paragraphs(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('-', "\\-");
    escaped.split("\n\n").map(|paragraph| format!("{}\n.PP\n", paragraph.replace("\n.", "\n\\&."))).collect()
}

const SECTIONS: &str = r#".SH EXIT STATUS
.TP
.B 0
done
.TP
.B 64
the command line is wrong
.TP
.B 65
a message or an argument cannot be used
.TP
.B 69
the daemon, a server or an address cannot be reached or had
.TP
.B 73
a file or folder cannot be created
.TP
.B 74
reading or writing failed
.TP
.B 77
no permission
.TP
.B 78
the configuration is wrong, or no route is configured
.SH SIGNALS
.TP
.B SIGHUP
Read the configuration again: routes, limits, TLS and logging change without dropping a connection. A bad file changes nothing and is logged.
.TP
.BR SIGTERM ", " SIGINT
Stop: no new connections, messages in flight have shutdown.grace to end.
.SH ENVIRONMENT
.TP
.B MAILSLUICE_CONFIG
The configuration file, as with \-\-config.
.TP
.B NO_COLOR
No colours, also on a terminal.
.SH FILES
.TP
.I /etc/mailsluice/mailsluice.toml
The configuration of the package; each key is explained there.
.TP
.I /var/lib/mailsluice/records.redb
The records.
.TP
.I /usr/share/doc/mailsluice/
Pages for operations: MX and PTR records, TLS, HAProxy, applications, backup, sizing, replies.
.SH EXAMPLES
.nf
mailsluice                                  # try it out, on this machine only
mailsluice send                             # a sample message to it
mailsluice check \-\-config /etc/mailsluice/mailsluice.toml
mailsluice records \-\-since 1h \-\-undelivered
mailsluice stats \-\-watch
.fi
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_option() {
        let page = String::from_utf8(manual().expect("memory")).expect("text");
        let command = visible();
        for subcommand in command.get_subcommands() {
            assert!(page.contains(&format!(".SS mailsluice {}\n", subcommand.get_name())), "{}", subcommand.get_name());
            for arg in subcommand.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                assert!(page.contains(&format!("\\-\\-{}", long.replace('-', "\\-"))), "{} --{long}", subcommand.get_name());
            }
        }
        assert!(!page.contains("generate"), "the hidden command shows");
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(completions(shell)).expect("text");
            assert!(text.contains("undelivered") && text.contains("forget"), "{shell}");
            assert!(!text.contains("generate"), "{shell}: the hidden command shows");
        }
    }
}
