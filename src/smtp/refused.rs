//! What a session refused in the dialogue: who is told no, to what, and in which words. Plain values for the driver to count and to log;
//! of a command's line only an address is in them, never its text: behind a refused command may come what no log may have.

use super::Reply;
use super::command::Verb;
use std::net::IpAddr;

/// An address as it is kept here, octets at the most: the longest path that is taken.
const ADDRESS_MAX: usize = 1000;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The connection, at a limit.
    Connection,
    /// The client, after it had been let in: it was told `421` and cut off.
    Client,
    Sender,
    Recipient,
    /// DATA or BDAT, before there was a message to be recorded.
    Message,
    /// Another command.
    Command,
}

impl What {
    pub(super) fn of(verb: Verb, reply: &Reply) -> Self {
        match verb {
            _ if reply.code() == 421 => Self::Client,
            Verb::Mail => Self::Sender,
            Verb::Rcpt => Self::Recipient,
            Verb::Data | Verb::Bdat => Self::Message,
            Verb::Ehlo
            | Verb::Helo
            | Verb::Rset
            | Verb::Noop
            | Verb::Vrfy
            | Verb::Help
            | Verb::Quit
            | Verb::StartTls
            | Verb::NotImplemented
            | Verb::Http
            | Verb::Unknown => Self::Command,
        }
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub what: What,
    pub ip: IpAddr,
    /// The argument of EHLO or HELO; empty before.
    pub greeting: String,
    /// Of the transaction, or the one that was refused; `None` outside of one.
    pub sender: Option<String>,
    /// The one that was refused.
    pub recipient: Option<String>,
    pub reply: Reply,
}

/// What a session that refuses has, and an idle one has not.
#[derive(Default)]
pub(super) struct Refusals {
    /// The address that the command names which is being answered.
    pub(super) named: Option<String>,
    /// For the driver: [`super::Session::take_refused`].
    pub(super) since: Vec<Refused>,
}

impl Refused {
    /// A client that is told off before it has said anything.
    #[must_use]
    pub fn connection(ip: IpAddr, reply: Reply) -> Self {
        Self { what: What::Connection, ip, greeting: String::new(), sender: None, recipient: None, reply }
    }
}

/// The path in an argument of MAIL or RCPT that was not taken, as far as it can be seen: `TO:<a b@example.com> SIZE=1`.
pub(super) fn path_in(argument: &str) -> String {
    let path = argument.split_once(':').map_or("", |(_, path)| path.trim_start());
    let path = match path.strip_prefix('<') {
        Some(inner) => inner.split('>').next().unwrap_or(inner),
        None => path.split(' ').next().unwrap_or(path),
    };
    let end = path.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= ADDRESS_MAX).last();
    path.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::path_in;

    #[test]
    fn the_path_is_found_in_what_was_not_taken() {
        for (argument, expected) in [
            ("TO:<a@b>", "a@b"),
            ("TO: <a b@c> SIZE=3", "a b@c"),
            ("TO:a@b SIZE=3", "a@b"),
            ("TO:<a@b", "a@b"),
            ("FROM:<>", ""),
            ("a@b", ""),
            ("", ""),
        ] {
            assert_eq!(path_in(argument), expected, "{argument}");
        }
        assert_eq!(path_in(&format!("TO:<{}>", "ä".repeat(600))).len(), 1000);
    }
}
