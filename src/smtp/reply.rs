//! Every reply we send, one line each, and text made safe for a reply. Logs nothing, cannot fail.

use std::borrow::Cow;

/// One SMTP reply line without its CRLF, at most 510 octets: `250 2.0.0 Ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub Cow<'static, str>);

// Everything went well.
pub const OK: Reply = Reply::fixed("250 2.0.0 Ok");
pub const SENDER_OK: Reply = Reply::fixed("250 2.1.0 Ok");
pub const RECIPIENT_OK: Reply = Reply::fixed("250 2.1.5 Ok");
pub const CHUNK_OK: Reply = Reply::fixed("250 2.0.0 Chunk received");
pub const START_DATA: Reply = Reply::fixed("354 End data with <CR><LF>.<CR><LF>");
pub const BYE: Reply = Reply::fixed("221 2.0.0 Bye");
pub const READY_FOR_TLS: Reply = Reply::fixed("220 2.0.0 Ready to start TLS");
pub const CANNOT_VERIFY: Reply = Reply::fixed("252 2.1.5 Cannot verify an address, but will take mail and try");
pub const HELP: Reply = Reply::fixed("214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT STARTTLS, see RFC 5321");

// The command line itself (RFC 5321 section 4.2.4).
pub const UNKNOWN_COMMAND: Reply = Reply::fixed("500 5.5.2 Unknown command");
pub const LINE_TOO_LONG: Reply = Reply::fixed("500 5.5.2 Command line too long");
pub const NUL_IN_COMMAND: Reply = Reply::fixed("500 5.5.2 NUL in a command line");
pub const BARE_NEWLINE_IN_COMMAND: Reply = Reply::fixed("500 5.5.2 Bare CR or LF in a command line");
pub const NOT_UTF8: Reply = Reply::fixed("500 5.5.2 Command line is neither ASCII nor UTF-8");
pub const NOT_IMPLEMENTED: Reply = Reply::fixed("502 5.5.1 Command not implemented");

// Arguments and parameters.
pub const NO_ARGUMENT: Reply = Reply::fixed("501 5.5.4 No argument allowed");
pub const HELLO_SYNTAX: Reply = Reply::fixed("501 5.5.4 A name is needed, without control characters");
pub const MAIL_SYNTAX: Reply = Reply::fixed("501 5.5.4 Syntax: MAIL FROM:<address>");
pub const RCPT_SYNTAX: Reply = Reply::fixed("501 5.5.4 Syntax: RCPT TO:<address>");
pub const VRFY_SYNTAX: Reply = Reply::fixed("501 5.5.4 Syntax: VRFY address");
pub const BDAT_SYNTAX: Reply = Reply::fixed("501 5.5.4 Syntax: BDAT size [LAST], closing");
pub const PARAMETER_SYNTAX: Reply = Reply::fixed("501 5.5.4 Bad parameter");
pub const UNKNOWN_PARAMETER: Reply = Reply::fixed("555 5.5.4 Parameter not recognized or not implemented");

// Paths (RFC 5321 sections 4.1.2 and 4.5.3.1).
pub const SENDER_SYNTAX: Reply = Reply::fixed("501 5.1.7 Bad sender address syntax");
pub const SENDER_PATH_TOO_LONG: Reply = Reply::fixed("501 5.1.7 Sender's path is longer than 1000 octets");
pub const RECIPIENT_SYNTAX: Reply = Reply::fixed("501 5.1.3 Bad recipient address syntax");
pub const RECIPIENT_PATH_TOO_LONG: Reply = Reply::fixed("501 5.1.3 Recipient's path is longer than 1000 octets");
pub const NON_ASCII_ADDRESS: Reply = Reply::fixed("553 5.6.7 Non-ASCII address without SMTPUTF8");

// Order of commands (RFC 5321 section 4.1.4).
pub const HELLO_FIRST: Reply = Reply::fixed("503 5.5.1 EHLO or HELO first");
pub const NESTED_MAIL: Reply = Reply::fixed("503 5.5.1 Mail transaction already open");
pub const MAIL_FIRST: Reply = Reply::fixed("503 5.5.1 MAIL first");
pub const RCPT_FIRST: Reply = Reply::fixed("503 5.5.1 RCPT first");
pub const CHUNKS_BEGUN: Reply = Reply::fixed("503 5.5.1 Message already begun with BDAT");
pub const TLS_ACTIVE: Reply = Reply::fixed("503 5.5.1 TLS already active");
pub const TLS_REQUIRED: Reply = Reply::fixed("530 5.7.0 STARTTLS first");
pub const NO_VALID_RECIPIENTS: Reply = Reply::fixed("554 5.5.1 No valid recipients");

// The end of a session.
pub const TOO_MANY_CONNECTIONS: Reply = Reply::fixed("421 4.7.0 Too many connections, try again later");
pub const TOO_MANY_MESSAGES: Reply = Reply::fixed("421 4.7.0 Too many messages in this connection, open another");
pub const TOO_MANY_ERRORS: Reply = Reply::fixed("421 4.7.0 Too many errors");
pub const TOO_MUCH_JUNK: Reply = Reply::fixed("421 4.7.0 Too many commands without a message");
pub const NOT_HTTP: Reply = Reply::fixed("421 4.7.0 This is SMTP, not HTTP");
pub const TIMEOUT: Reply = Reply::fixed("421 4.4.2 Timeout");
pub const SHUTTING_DOWN: Reply = Reply::fixed("421 4.3.2 Shutting down, try again later");

// Recipients.
pub const NO_ROUTE: Reply = Reply::fixed("550 5.1.1 No such recipient here");
pub const OTHER_ROUTE: Reply = Reply::fixed("452 4.5.3 Send this recipient in another transaction");
pub const TOO_MANY_RECIPIENTS: Reply = Reply::fixed("452 4.5.3 Too many recipients");
pub const AUTHORIZATION_FAILED: Reply = Reply::fixed("450 4.3.0 Recipient cannot be checked now, try again later");

// The message.
pub const MESSAGE_TOO_LARGE: Reply = Reply::fixed("552 5.3.4 Message too large");
pub const HEADER_TOO_LARGE: Reply = Reply::fixed("552 5.3.4 Message header too large");
pub const BARE_NEWLINE: Reply = Reply::fixed("550 5.6.0 Message with a bare CR or LF");
pub const MAIL_LOOP: Reply = Reply::fixed("554 5.4.6 Too many Received header fields, a mail loop");
pub const STORE_DEGRADED: Reply = Reply::fixed("452 4.3.1 Record store not writable, try again later");
pub const OUT_OF_MEMORY: Reply = Reply::fixed("452 4.3.1 Not enough memory now, try again later");

// Delivery without an answer of the endpoint.
pub const QUEUE_FULL: Reply = Reply::fixed("451 4.3.2 Too many messages waiting, try again later");
pub const BREAKER_OPEN: Reply = Reply::fixed("451 4.3.2 Endpoint not answering, try again later");
pub const ENDPOINT_PAUSES: Reply = Reply::fixed("451 4.3.2 Endpoint asks to be left alone for a while, try again later");
pub const DRAINING: Reply = Reply::fixed("451 4.3.2 Shutting down, try again later");
pub const ENDPOINT_UNREACHABLE: Reply = Reply::fixed("450 4.4.1 Endpoint cannot be reached, try again later");
pub const ENDPOINT_BROKE_OFF: Reply = Reply::fixed("450 4.4.2 Endpoint gave no usable answer, try again later");

/// A reply line stays under 512 octets with its CRLF (RFC 5321 section 4.5.3.1.5).
const LINE_MAX: usize = 509;

impl Reply {
    const fn fixed(line: &'static str) -> Self {
        Self(Cow::Borrowed(line))
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.0.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// `554 5.7.1` of `554 5.7.1 No such ticket`.
    pub fn codes(&self) -> &str {
        codes(&self.0)
    }

    /// It says "later" or "no".
    pub fn refuses(&self) -> bool {
        self.code() >= 400
    }

    /// The command itself was wrong; refusals of a message or a recipient are not the client's mistakes.
    pub(super) fn says_command_was_wrong(&self) -> bool {
        matches!(self.code(), 500..=503 | 530 | 553 | 555)
    }

    /// `code enhanced text`, the text made safe: one line, printable ASCII (UTF-8 if `utf8`), controls replaced,
    /// an enhanced status code of its own taken off, cut so that the line stays under 512 octets with its CRLF.
    /// Text of which nothing is left becomes a short sentence that fits the code.
    pub fn with_text(code: u16, enhanced: &str, text: &str, utf8: bool) -> Self {
        let mut line = format!("{code} {enhanced} ");
        let before = line.len();
        // Each character yields at least one octet or closes a gap, so more than this cannot be seen in the line.
        let words = printable(text, utf8);
        for c in without_enhanced_code(words.trim()).chars() {
            if line.len() + c.len_utf8() > LINE_MAX {
                break;
            }
            line.push(c);
        }
        if line.trim_end().len() < before {
            line.truncate(before);
            line.push_str(match code {
                200..=299 => "Ok",
                400..=499 => "Try again later",
                _ => "Refused",
            });
        }
        line.truncate(line.trim_end().len());
        Self(Cow::Owned(line))
    }

    /// The `250` to the end of data of a delivered message; `id` is its record's.
    pub fn delivered(id: impl std::fmt::Display) -> Self {
        Self(Cow::Owned(format!("250 2.0.0 Ok: {id}")))
    }

    /// Appends the line with its CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A reply's line without its text.
pub fn codes(line: &str) -> &str {
    let is_code = |word: &str| !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    let mut end = 0;
    for word in line.split(' ').take(2).take_while(|word| is_code(word)) {
        end += word.len() + usize::from(end > 0);
    }
    line.get(..end).unwrap_or_default()
}

/// One line of printable characters; controls, line separators and runs of white space become one space. Looks at no more of the text
/// than could matter.
fn printable(text: &str, utf8: bool) -> String {
    let mut line = String::new();
    for c in text.chars().take(4 * LINE_MAX) {
        if c.is_whitespace() || c.is_control() || c == '\u{feff}' {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if utf8 || c.is_ascii() {
            line.push(c);
        } else {
            line.push('?');
        }
    }
    line
}

/// Ours stands before the text already (RFC 2034 section 4).
fn without_enhanced_code(text: &str) -> &str {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parts = first.split('.');
    let class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    let numeric = |part: Option<&str>| part.is_some_and(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
    if class && numeric(parts.next()) && numeric(parts.next()) && parts.next().is_none() { rest } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        Reply::with_text(554, "5.7.1", text, false).0.into_owned()
    }

    #[test]
    fn text_is_made_safe() {
        for (from, to) in [
            ("no", "554 5.7.1 no"),
            ("  two\r\n250 2.0.0 Ok\r\n", "554 5.7.1 two 250 2.0.0 Ok"),
            ("tab\tand \0 nul \x1b[31m", "554 5.7.1 tab and nul [31m"),
            ("5.1.1 unknown user", "554 5.7.1 unknown user"),
            ("4.2.2", "554 5.7.1 Refused"),
            ("3.1.1 is no class", "554 5.7.1 3.1.1 is no class"),
            ("5.1 is too short", "554 5.7.1 5.1 is too short"),
            ("5.1.1.1 is too long", "554 5.7.1 5.1.1.1 is too long"),
            ("5.1234.1 has too many digits", "554 5.7.1 5.1234.1 has too many digits"),
            ("caf\u{e9}", "554 5.7.1 caf?"),
            ("a\u{2028}b\u{85}c", "554 5.7.1 a b c"),
            ("", "554 5.7.1 Refused"),
            (" \r\n ", "554 5.7.1 Refused"),
        ] {
            assert_eq!(text(from), to, "{from:?}");
        }
        assert_eq!(Reply::with_text(450, "4.3.0", "", false).0, "450 4.3.0 Try again later");
        assert_eq!(Reply::with_text(554, "5.7.1", "caf\u{e9}\u{9b}", true).0, "554 5.7.1 caf\u{e9}");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(text(&"x".repeat(5000)).len(), LINE_MAX);
        let cut = Reply::with_text(554, "5.7.1", &"\u{20ac}".repeat(500), true).0;
        assert!(cut.len() <= LINE_MAX && cut.len() > LINE_MAX - 3 && cut.ends_with('\u{20ac}'));
    }

    #[test]
    fn the_code_is_the_three_digits() {
        assert_eq!(OK.code(), 250);
        assert_eq!(TOO_MANY_ERRORS.code(), 421);
        assert_eq!(Reply(Cow::Borrowed("x")).code(), 0);
        for (line, expected) in [("554 5.7.1 No: 1 2", "554 5.7.1"), ("550 no 5.1.1", "550"), ("450 4.3.0", "450 4.3.0"), ("", "")] {
            assert_eq!(codes(line), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_more_than_one_short_line(t in proptest::collection::vec(proptest::prelude::any::<char>(), 0..600), utf8: bool) {
            let t: String = t.into_iter().collect();
            let line = Reply::with_text(550, "5.7.1", &t, utf8).0;
            assert!(line.len() <= LINE_MAX && line.starts_with("550 5.7.1 ") && !line.chars().any(char::is_control));
            assert!(utf8 || line.is_ascii());
        }
    }
}
