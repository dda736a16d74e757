//! One command line out of the octets, and its verb. Logs nothing; whatever is not a line becomes a [`LineError`] with its reply.
//!
//! Under `reject` only CRLF ends a line. A bare LF is refused as soon as it is seen, so that whoever sends nothing else learns why, and
//! what stands between it and the CRLF is part of the same bad line, not a command. Under `normalize` a bare LF ends a line as CRLF does,
//! and a bare CR is white space. The reader asks its driver to keep no more than [`COMMAND_MAX`] octets: what is longer is used as it comes, and refused
//! when its end is seen, or closed when that does not come within `ENDLESS`.

use super::Reply;
use super::newline::{CR, LF};
use super::reply;

/// The longest command line, its CRLF included. A driver whose buffer holds that many octets never gets stuck.
pub const COMMAND_MAX: usize = 2048;
/// Octets of one line after which its end is no longer waited for.
pub(super) const ENDLESS: usize = 8 * COMMAND_MAX;

/// What is known of a line that is not over.
#[derive(Debug)]
pub(super) struct LineReader {
    normalize: bool,
    /// Its octets that have been used already.
    skipped: usize,
    /// It is a BDAT.
    skipped_bdat: bool,
    /// It has been refused for a bare LF.
    refused: bool,
}

/// The start of a buffer, read.
pub(super) struct Read<'a> {
    pub(super) used: usize,
    /// The line is a BDAT, good or bad: a chunk follows it.
    pub(super) bdat: bool,
    /// `None`: no end yet.
    pub(super) line: Option<Result<&'a [u8], LineError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    TooLong,
    /// No end in sight: nothing sensible can follow.
    Endless,
    BareNewline,
    Nul,
}

/// Where a line ends.
struct LineEnd {
    /// Octets before the line end.
    content: usize,
    /// Octets with the line end.
    length: usize,
    proper: bool,
}

impl LineReader {
    pub(super) fn new(normalize: bool) -> Self {
        Self { normalize, skipped: 0, skipped_bdat: false, refused: false }
    }

    pub(super) fn read<'a>(&mut self, input: &'a [u8]) -> Read<'a> {
        let from = match self.skip_refused(input) {
            Ok(from) => from,
            Err(read) => return read,
        };
        let mut read = self.read_line(input.get(from..).unwrap_or_default());
        read.used += from;
        read
    }

    /// Uses the rest of a line that has been refused; `Err` if it is not over.
    fn skip_refused<'a>(&mut self, input: &[u8]) -> Result<usize, Read<'a>> {
        let mut from = 0;
        while self.refused {
            let rest = input.get(from..).unwrap_or_default();
            let end = memchr::memchr(LF, rest);
            let length = end.map_or(rest.len() - usize::from(rest.last() == Some(&CR)), |at| at + 1);
            self.skipped += length;
            from += length;
            if self.skipped > ENDLESS {
                return Err(Read { used: input.len(), bdat: false, line: Some(Err(LineError::Endless)) });
            }
            match end {
                None => return Err(Read { used: from, bdat: false, line: None }),
                Some(at) if at > 0 && rest.get(at - 1) == Some(&CR) => {
                    self.refused = false;
                    self.skipped = 0;
                }
                Some(_) => {}
            }
        }
        Ok(from)
    }

    fn read_line<'a>(&mut self, input: &'a [u8]) -> Read<'a> {
        let Some(end) = self.line_end(input) else { return self.unfinished(input) };
        let bdat = self.is_bdat(input);
        let total = std::mem::take(&mut self.skipped) + end.content;
        let line = input.get(..end.content).unwrap_or_default();
        let line = if total > ENDLESS {
            Err(LineError::Endless)
        } else if total > COMMAND_MAX - 2 {
            Err(LineError::TooLong)
        } else if !end.proper || (!self.normalize && line.contains(&CR)) {
            Err(LineError::BareNewline)
        } else if line.contains(&0) {
            Err(LineError::Nul)
        } else {
            Ok(line)
        };
        if !end.proper {
            self.refused = true;
            self.skipped = total + 1;
        }
        Read { used: end.length, bdat, line: Some(line) }
    }

    fn line_end(&self, input: &[u8]) -> Option<LineEnd> {
        let at = memchr::memchr(LF, input)?;
        Some(match at.checked_sub(1) {
            Some(cr) if input.get(cr) == Some(&CR) => LineEnd { content: cr, length: at + 1, proper: true },
            _ => LineEnd { content: at, length: at + 1, proper: self.normalize },
        })
    }

    /// A CR at the end may be half of a line end, so it always stays.
    fn unfinished<'a>(&mut self, input: &'a [u8]) -> Read<'a> {
        let content = input.len() - usize::from(input.last() == Some(&CR));
        let bdat = self.is_bdat(input);
        let total = self.skipped + content;
        if total > ENDLESS {
            return Read { used: input.len(), bdat, line: Some(Err(LineError::Endless)) };
        }
        if total <= COMMAND_MAX - 2 {
            return Read { used: 0, bdat, line: None };
        }
        self.skipped_bdat = bdat;
        self.skipped = total;
        Read { used: content, bdat, line: None }
    }

    fn is_bdat(&self, input: &[u8]) -> bool {
        if self.skipped > 0 {
            return self.skipped_bdat;
        }
        let verb = input.split(|octet| matches!(octet, b' ' | b'\t' | &CR | &LF | 0)).next().unwrap_or_default();
        verb.eq_ignore_ascii_case(b"BDAT")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Ehlo,
    Helo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    StartTls,
    /// Known to an RFC, but not offered.
    NotImplemented,
    /// Some browser, or some page that makes one talk to us.
    Http,
    Unknown,
}

/// Verb and argument of one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) verb: Verb,
    /// Without white space around it; `None` if it is not UTF-8.
    pub(super) argument: Option<&'a str>,
    /// The same as it came.
    pub(super) octets: &'a [u8],
}

const VERBS: [(&str, Verb); 29] = [
    ("EHLO", Verb::Ehlo),
    ("HELO", Verb::Helo),
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("RSET", Verb::Rset),
    ("NOOP", Verb::Noop),
    ("VRFY", Verb::Vrfy),
    ("HELP", Verb::Help),
    ("QUIT", Verb::Quit),
    ("STARTTLS", Verb::StartTls),
    ("AUTH", Verb::NotImplemented),
    ("EXPN", Verb::NotImplemented),
    ("TURN", Verb::NotImplemented),
    ("ETRN", Verb::NotImplemented),
    ("ATRN", Verb::NotImplemented),
    ("SEND", Verb::NotImplemented),
    ("SOML", Verb::NotImplemented),
    ("SAML", Verb::NotImplemented),
    ("GET", Verb::Http),
    ("POST", Verb::Http),
    ("PUT", Verb::Http),
    ("HEAD", Verb::Http),
    ("OPTIONS", Verb::Http),
    ("CONNECT", Verb::Http),
    ("DELETE", Verb::Http),
    ("PATCH", Verb::Http),
    ("TRACE", Verb::Http),
];

impl<'a> Command<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Self {
        let end = line.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(line.len());
        let (verb, argument) = line.split_at_checked(end).unwrap_or((line, &[]));
        let verb = VERBS.iter().find(|(name, _)| verb.eq_ignore_ascii_case(name.as_bytes())).map_or(Verb::Unknown, |(_, verb)| *verb);
        let octets = argument.trim_ascii();
        Self { verb, argument: std::str::from_utf8(octets).ok(), octets }
    }
}

impl Verb {
    /// What may be said for ever without a message coming of it.
    pub(super) fn is_junk(self) -> bool {
        matches!(self, Self::Ehlo | Self::Helo | Self::Rset | Self::Noop | Self::Help | Self::Vrfy)
    }

    /// What is let through before a TLS that is required (RFC 3207 section 4). What is no command at all is told so.
    pub(super) fn needs_no_tls(self) -> bool {
        match self {
            Self::Ehlo | Self::Helo | Self::Noop | Self::Rset | Self::Quit | Self::StartTls | Self::Http | Self::Unknown => true,
            Self::Mail | Self::Rcpt | Self::Data | Self::Bdat | Self::Vrfy | Self::Help | Self::NotImplemented => false,
        }
    }
}

impl LineError {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::TooLong | Self::Endless => reply::LINE_TOO_LONG,
            Self::BareNewline => reply::BARE_NEWLINE_IN_COMMAND,
            Self::Nul => reply::NUL_IN_COMMAND,
        }
    }
}

/// The words behind `FROM:` or `TO:`. A space there is not in the grammar, but common.
pub(super) fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Option<&'a str> {
    let (found, rest) = argument.split_at_checked(keyword.len())?;
    found.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = Vec<Result<String, LineError>>;

    /// All lines of the octets, given at once or one by one, from a buffer of [`COMMAND_MAX`] octets.
    fn lines(octets: &[u8], normalize: bool, at_once: usize) -> Lines {
        let mut reader = LineReader::new(normalize);
        let (mut buffer, mut lines, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            let read = reader.read(&buffer);
            let used = read.used;
            match read.line {
                Some(Err(LineError::Endless)) => {
                    lines.push(Err(LineError::Endless));
                    return lines;
                }
                Some(line) => lines.push(line.map(|line| String::from_utf8_lossy(line).into_owned())),
                None => {
                    buffer.drain(..used);
                    let more = at_once.min(octets.len() - from).min(COMMAND_MAX - buffer.len());
                    if from == octets.len() {
                        return lines;
                    }
                    assert!(more > 0, "the buffer is full and nothing was used");
                    buffer.extend_from_slice(&octets[from..from + more]);
                    from += more;
                    continue;
                }
            }
            buffer.drain(..used);
        }
    }

    fn each_way(octets: &[u8], normalize: bool) -> Lines {
        let whole = lines(octets, normalize, usize::MAX);
        for at_once in [1, 2, 3, 1000] {
            assert_eq!(lines(octets, normalize, at_once), whole, "{at_once} at once");
        }
        whole
    }

    fn good(line: &str) -> Result<String, LineError> {
        Ok(line.to_owned())
    }

    #[test]
    fn line_ends() {
        let bare = Err(LineError::BareNewline);
        for (octets, reject, normalize) in [
            ("A\r\nB\r\n", vec![good("A"), good("B")], vec![good("A"), good("B")]),
            ("A\nB\r\nC\r\n", vec![bare.clone(), good("C")], vec![good("A"), good("B"), good("C")]),
            ("A\nB\n\r\nC\r\n", vec![bare.clone(), good("C")], vec![good("A"), good("B"), good(""), good("C")]),
            ("A\nB\rC\n", vec![bare.clone()], vec![good("A"), good("B\rC")]),
            ("A\rB\r\n", vec![bare.clone()], vec![good("A\rB")]),
            ("A\r\r\n", vec![bare.clone()], vec![good("A\r")]),
            ("A\n\rB\r\n", vec![bare.clone()], vec![good("A"), good("\rB")]),
            ("\r\n", vec![good("")], vec![good("")]),
            ("\n", vec![bare], vec![good("")]),
            ("A\r", vec![], vec![]),
            ("A\0B\r\n", vec![Err(LineError::Nul)], vec![Err(LineError::Nul)]),
        ] {
            assert_eq!(each_way(octets.as_bytes(), false), reject, "{octets:?}");
            assert_eq!(each_way(octets.as_bytes(), true), normalize, "{octets:?}");
        }
    }

    #[test]
    fn lengths() {
        let line = |length: usize| "x".repeat(length);
        for normalize in [false, true] {
            let of = |length: usize| each_way(format!("{}\r\nA\r\n", line(length)).as_bytes(), normalize);
            assert_eq!(of(COMMAND_MAX - 2), [Ok(line(COMMAND_MAX - 2)), good("A")]);
            assert_eq!(of(COMMAND_MAX - 1), [Err(LineError::TooLong), good("A")]);
            assert_eq!(of(ENDLESS), [Err(LineError::TooLong), good("A")]);
            assert_eq!(of(ENDLESS + 1), [Err(LineError::Endless)]);
            assert_eq!(each_way(line(10 * ENDLESS).as_bytes(), normalize), [Err(LineError::Endless)]);
        }
        // The rest of a refused line is bounded as well, with or without more bare LFs in it.
        for rest in [line(10 * ENDLESS), "A\n".repeat(ENDLESS)] {
            let lines = each_way(format!("A\n{rest}").as_bytes(), false);
            assert_eq!(lines, [Err(LineError::BareNewline), Err(LineError::Endless)]);
        }
        let lines = each_way(format!("A\n{}\r\nB\r\n", line(ENDLESS - 4)).as_bytes(), false);
        assert_eq!(lines, [Err(LineError::BareNewline), good("B")]);
    }

    #[test]
    fn commands() {
        for (line, verb, argument) in [
            ("EHLO client.example", Verb::Ehlo, Some("client.example")),
            ("helo \t x ", Verb::Helo, Some("x")),
            ("mAiL FROM:<> SIZE=1", Verb::Mail, Some("FROM:<> SIZE=1")),
            ("RCPT\tTO:<a@b>", Verb::Rcpt, Some("TO:<a@b>")),
            ("DATA", Verb::Data, Some("")),
            ("QUIT ", Verb::Quit, Some("")),
            ("starttls", Verb::StartTls, Some("")),
            ("AUTH PLAIN AA==", Verb::NotImplemented, Some("PLAIN AA==")),
            ("get / HTTP/1.1", Verb::Http, Some("/ HTTP/1.1")),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 25", Verb::Unknown, Some("TCP4 192.0.2.1 192.0.2.2 1 25")),
            ("MAILFROM:<a@b>", Verb::Unknown, Some("")),
            (" NOOP", Verb::Unknown, Some("NOOP")),
            ("", Verb::Unknown, Some("")),
        ] {
            let octets = argument.unwrap_or_default().as_bytes();
            assert_eq!(Command::parse(line.as_bytes()), Command { verb, argument, octets }, "{line:?}");
        }
        assert_eq!(Command::parse(b"NOOP \xff"), Command { verb: Verb::Noop, argument: None, octets: b"\xff" });
    }

    #[test]
    fn keywords() {
        assert_eq!(after_keyword("from:<a@b>", "FROM:"), Some("<a@b>"));
        assert_eq!(after_keyword("FROM:  <a@b>", "FROM:"), Some("<a@b>"));
        assert_eq!(after_keyword("FROM <a@b>", "FROM:"), None);
        assert_eq!(after_keyword("\u{e9}\u{e9}", "TO:"), None);
        assert_eq!(after_keyword("", "TO:"), None);
    }
}
