//! Header fields one by one (RFC 5322 section 2.2), and where a header block ends when nobody kept to the grammar.
//!
//! Logs nothing, cannot fail: a line that is no field is stepped over.

use memchr::memchr;

/// One field; both slices as they came, the body still folded and encoded.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub body: &'a [u8],
}

/// The fields of a block, in order.
#[must_use]
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { rest: block }
}

pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        while !self.rest.is_empty() {
            let (line, next) = unfolded_line(self.rest);
            self.rest = next;
            if let Some(field) = field(line) {
                return Some(field);
            }
        }
        None
    }
}

/// Splits behind the first line that no blank follows: one field with its folding. It comes without its line end.
pub(super) fn unfolded_line(from: &[u8]) -> (&[u8], &[u8]) {
    let mut end = 0;
    while let Some(found) = from.get(end..).and_then(|rest| memchr(b'\n', rest)) {
        end += found + 1;
        if !from.get(end).is_some_and(|octet| is_blank(*octet)) {
            let (line, next) = from.split_at_checked(end).unwrap_or((from, &[]));
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            return (line.strip_suffix(b"\r").unwrap_or(line), next);
        }
    }
    (from, &[])
}

pub(super) fn is_blank(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

/// A line as a field. Blanks before the colon are obsolete syntax (RFC 5322 section 4.5) and still seen.
fn field(line: &[u8]) -> Option<Field<'_>> {
    let (name, rest) = line.split_at_checked(memchr(b':', line)?)?;
    let name = name.trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    Some(Field { name, body: rest.get(1..)? })
}

/// A header block and the body behind it, as places in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// End of the fields.
    pub end: usize,
    /// Start of the body.
    pub body: usize,
}

/// Finds the end of the header block that starts at `start`. `is_delimiter` says whether a line that starts with two
/// hyphens (given by its place) ends the part that the block belongs to.
///
/// A block is closed by its blank line. Where there is none, the first line that is no field starts the body; where
/// no line at all is a field, all of it is body.
pub fn head(message: &[u8], start: usize, is_delimiter: impl Fn(usize) -> bool) -> Head {
    let mut at = start;
    let mut any_field = false;
    let mut first_stray = None;
    let end = loop {
        let rest = message.get(at..).unwrap_or_default();
        match rest {
            [] => break Head { end: at, body: at },
            [b'\n', ..] => break Head { end: at, body: at + 1 },
            [b'\r', b'\n', ..] => break Head { end: at, body: at + 2 },
            [b'-', b'-', ..] if is_delimiter(at) => break Head { end: at, body: at },
            _ => {}
        }
        let (line, next) = match memchr(b'\n', rest) {
            Some(end) => rest.split_at_checked(end + 1).unwrap_or((rest, &[])),
            None => (rest, &[][..]),
        };
        if field(line).is_some() {
            any_field = true;
        } else if !(line.first().is_some_and(|octet| is_blank(*octet)) && at > start) {
            first_stray = first_stray.or(Some(at));
        }
        at = message.len() - next.len();
    };
    match first_stray {
        Some(_) if !any_field => Head { end: start, body: start },
        Some(stray) if end.end == end.body => Head { end: stray, body: stray },
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, fields, head};

    #[test]
    fn names_and_bodies() {
        let block = b"A: 1\r\nB :2\r\n  folded\r\nno field\r\n: none\r\nC\xe9: x\r\n D: continued\r\nE:\r\n";
        let found: Vec<_> = fields(block).map(|field| (field.name, field.body)).collect();
        let expected: Vec<(&[u8], &[u8])> = vec![(b"A", b" 1"), (b"B", b"2\r\n  folded"), (b"E", b"")];
        assert_eq!(found, expected);
    }

    #[test]
    fn ends_of_blocks() {
        let table: &[(&str, usize, usize)] = &[
            ("", 0, 0),
            ("A: b\r\n\r\nbody", 6, 8),
            ("A: b\n\nbody", 5, 6),
            ("\r\nbody", 0, 2),
            ("A: b\r\n", 6, 6),
            ("A: b", 4, 4),
            // Without a blank line the body starts where the fields end.
            ("A: b\r\ntext\r\n", 6, 6),
            ("A: b\r\n folded\r\ntext\r\n", 15, 15),
            // With one, a stray line is only a stray line.
            ("From x@y Mon\r\nA: b\r\n\r\nbody", 20, 22),
            // No field at all: all is body.
            ("text\r\n\r\nmore", 0, 0),
            (" text\r\n", 0, 0),
            ("A: b\r\n--delimiter\r\n\r\n", 6, 6),
            ("A: b\r\n--other\r\n\r\nbody", 15, 17),
        ];
        for (message, end, body) in table {
            let found = head(message.as_bytes(), 0, |at| message.as_bytes()[at..].starts_with(b"--delimiter"));
            assert_eq!(found, Head { end: *end, body: *body }, "{message:?}");
        }
    }
}
