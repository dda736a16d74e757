//! One pass over the header block (RFC 5322 section 2.2): slices for the logged fields, nothing else kept.
//!
//! Works on any octets: what is no field is stepped over, a block without its blank line is the whole message.
//! Line ends are CRLF or LF (a CR alone is an ordinary octet: the session has refused or replaced it before).
//! Logs nothing, cannot fail, allocates nothing.

use super::encoded_word;
use super::field::{is_blank, unfolded_line};
use memchr::memchr;

/// Longest text of a field that is recorded, octets.
const TEXT_MAX: usize = 998;

/// What one pass found. All slices are of the message.
#[derive(Clone, Copy, Default)]
pub struct HeaderBlock<'a> {
    /// Raw field body of the first, still folded.
    pub message_id: Option<&'a [u8]>,
    /// Raw field body of the first, still folded and encoded.
    pub subject: Option<&'a [u8]>,
    /// Number of `Received` fields.
    pub received: u32,
    /// Octets of the block, its blank line included if there is one.
    pub len: usize,
}

/// Scans the header block at the start of `message`.
#[must_use]
pub fn scan(message: &[u8]) -> HeaderBlock<'_> {
    let mut block = HeaderBlock { len: message.len(), ..HeaderBlock::default() };
    let mut at = 0;
    // Only the first octet of a line decides whether the line is looked at; the rest is memchr's.
    while let Some(rest) = message.get(at..) {
        match rest.first() {
            Some(b'\n') => {
                block.len = at + 1;
                break;
            }
            Some(b'\r') if rest.get(1) == Some(&b'\n') => {
                block.len = at + 2;
                break;
            }
            Some(b'm' | b'M') if block.message_id.is_none() => {
                if let Some(body) = field_body(rest, b"message-id") {
                    let (body, next) = unfolded_line(body);
                    block.message_id = Some(body);
                    at = message.len() - next.len();
                    continue;
                }
            }
            Some(b's' | b'S') if block.subject.is_none() => {
                if let Some(body) = field_body(rest, b"subject") {
                    let (body, next) = unfolded_line(body);
                    block.subject = Some(body);
                    at = message.len() - next.len();
                    continue;
                }
            }
            Some(b'r' | b'R') => {
                if field_body(rest, b"received").is_some() {
                    block.received = block.received.saturating_add(1);
                }
            }
            Some(_) => {}
            None => break,
        }
        match memchr(b'\n', rest) {
            Some(end) => at += end + 1,
            None => break,
        }
    }
    block
}

/// What follows the colon if the line starts with this field name; blanks before the colon are obsolete syntax
/// (RFC 5322 section 4.5) and still seen.
fn field_body<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    match rest {
        [b':', body @ ..] => Some(body),
        [b' ' | b'\t', ..] => {
            let blanks = rest.iter().take_while(|octet| is_blank(**octet)).count();
            rest.get(blanks..)?.strip_prefix(b":")
        }
        _ => None,
    }
}

/// Message-ID unfolded and trimmed, valid UTF-8, at most 998 octets.
#[must_use]
pub fn message_id_text(raw: &[u8]) -> String {
    one_line(encoded_word::unfold(raw))
}

/// Subject unfolded, RFC 2047-decoded to UTF-8, cut at 998 octets on a character's border.
#[must_use]
pub fn subject_text(raw: &[u8]) -> String {
    one_line(encoded_word::decode(raw))
}

/// Controls to blanks (also those that came out of an encoded word), since this text ends up in lines; cut.
fn one_line(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    // Nearly every text stays as it is: looked at octet by octet, without a branch for each.
    if text.bytes().fold(true, |all, octet| all & (b' '..=b'~').contains(&octet)) {
        return text;
    }
    let ends_lines = |c: char| encoded_word::is_line_control(c) || c.is_control();
    if !text.contains(ends_lines) {
        return text;
    }
    text.chars().map(|c| if ends_lines(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{HeaderBlock, message_id_text, scan, subject_text};
    use proptest::prelude::*;

    fn found<'a>(block: &HeaderBlock<'a>) -> (Option<&'a [u8]>, Option<&'a [u8]>, u32, usize) {
        (block.message_id, block.subject, block.received, block.len)
    }

    /// The same by splitting into lines.
    fn reference(message: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>, u32, usize) {
        let (mut id, mut subject, mut received, mut len) = (None, None, 0, 0);
        let mut fields: Vec<Vec<u8>> = Vec::new();
        let mut ended = false;
        for line in message.split_inclusive(|octet| *octet == b'\n') {
            len += line.len();
            if line == b"\n" || line == b"\r\n" {
                ended = true;
                break;
            }
            match fields.last_mut() {
                Some(last) if line[0] == b' ' || line[0] == b'\t' => last.extend_from_slice(line),
                _ => fields.push(line.to_vec()),
            }
        }
        assert!(ended || len == message.len());
        for field in fields {
            let Some(colon) = field.iter().position(|octet| *octet == b':') else { continue };
            let blanks = field[..colon].iter().rev().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
            let name = field[..colon - blanks].to_ascii_lowercase();
            let mut body = &field[colon + 1..];
            body = body.strip_suffix(b"\n").map_or(body, |body| body.strip_suffix(b"\r").unwrap_or(body));
            match name.as_slice() {
                b"message-id" => id = id.or(Some(body.to_vec())),
                b"subject" => subject = subject.or(Some(body.to_vec())),
                b"received" => received += 1,
                _ => {}
            }
        }
        (id, subject, received, len)
    }

    #[test]
    fn blocks() {
        type Found<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, u32, usize);
        let table: &[(&str, Found<'_>)] = &[
            ("", (None, None, 0, 0)),
            ("\r\nSubject: body\r\n", (None, None, 0, 2)),
            ("\nSubject: body\n", (None, None, 0, 1)),
            ("Subject: a\r\n\r\nSubject: b\r\n", (None, Some(b" a"), 0, 14)),
            ("subject:a\nMESSAGE-ID:b\n\nx", (Some(b"b"), Some(b"a"), 0, 24)),
            ("Subject: one\r\nSubject: two\r\n\r\n", (None, Some(b" one"), 0, 30)),
            ("Subject:\r\nSubject: two\r\n\r\n", (None, Some(b""), 0, 26)),
            ("Subject \t : a\r\n\r\n", (None, Some(b" a"), 0, 17)),
            ("Subject: a\r\n b\r\n\tc\r\nX: y\r\n\r\n", (None, Some(b" a\r\n b\r\n\tc"), 0, 28)),
            ("Subject: a\r\n \r\n\r\n", (None, Some(b" a\r\n "), 0, 17)),
            ("Subject: no end", (None, Some(b" no end"), 0, 15)),
            ("Subject: no end\r", (None, Some(b" no end\r"), 0, 16)),
            ("Subject: header only\r\n", (None, Some(b" header only"), 0, 22)),
            ("Subject", (None, None, 0, 7)),
            ("Subjects: x\r\nX-Subject: y\r\n\r\n", (None, None, 0, 29)),
            ("no colon\r\nMessage-Id: <a@b>\r\n\r\n", (Some(b" <a@b>"), None, 0, 31)),
            ("X: a\r\n Subject: folded\r\n\r\n", (None, None, 0, 26)),
            ("Received: a\r\n b\r\nRECEIVED:c\r\nReceived-SPF: d\r\nreceived :e\r\n\r\n", (None, None, 3, 61)),
            ("Received: a\r\n\r\nReceived: b\r\n", (None, None, 1, 15)),
            ("X: a\rSubject: b\r\n\r\n", (None, None, 0, 19)),
            ("\rSubject: b\r\n\r\n", (None, None, 0, 15)),
            ("just\r\ntext\r\n", (None, None, 0, 12)),
        ];
        for (message, expected) in table {
            assert_eq!(found(&scan(message.as_bytes())), *expected, "{message:?}");
        }
    }

    #[test]
    fn texts() {
        assert_eq!(message_id_text(b" <a@b> "), "<a@b>");
        assert_eq!(message_id_text(b"\r\n <a@b>"), "<a@b>");
        assert_eq!(message_id_text(b"<\xe9@b>\0"), "<\u{e9}@b>\u{fffd}");
        assert_eq!(subject_text(b" =?utf-8?q?a=0D=0AX:_b?="), "a  X: b", "no line break out of an encoded word");
        assert_eq!(subject_text(b" =?utf-8?q?=1B[2J?="), " [2J", "no escape sequence for a terminal either");
        let cut = subject_text("é".repeat(600).as_bytes());
        assert_eq!((cut.len(), cut.chars().count()), (998, 499));
        let cut = subject_text(format!("a{}", "é".repeat(600)).as_bytes());
        assert_eq!(cut.len(), 997);
        assert_eq!(message_id_text(&[b'x'; 5000]).len(), 998);
    }

    /// Octets in which the interesting cases are frequent.
    fn header_like() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&[u8]; 14] =
            [b"Subject", b"message-id", b"Received", b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"x", b"\xe9", b"\0", b"S", b"-"];
        let piece = proptest::sample::select(&PIECES[..]);
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(message in prop_oneof![header_like(), proptest::collection::vec(any::<u8>(), 0..400)]) {
            let block = scan(&message);
            let (id, subject, received, len) = found(&block);
            prop_assert_eq!((id.map(<[u8]>::to_vec), subject.map(<[u8]>::to_vec), received, len), reference(&message));
            let within = message.as_ptr_range();
            for slice in [id, subject].into_iter().flatten() {
                prop_assert!(within.start <= slice.as_ptr() && slice.as_ptr_range().end <= within.end);
            }
        }

        #[test]
        fn texts_are_one_short_line(raw in prop_oneof![header_like(), proptest::collection::vec(any::<u8>(), 0..3000)]) {
            for text in [message_id_text(&raw), subject_text(&raw)] {
                prop_assert!(text.len() <= 998);
                prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
