//! Header fields one by one (RFC 5322 section 2.2).
//!
//! Logs nothing, cannot fail: a line that is no field is stepped over.

use memchr::memchr;

/// Stands in front of the first field of some messages.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// A line has no more octets (RFC 5322 section 2.1.1), so nothing that is longer is a name.
pub(super) const NAME_MAX: usize = 998;
/// No parameter's name is longer, its equals sign included.
pub(super) const PARAMETER_MAX: usize = 64;

/// One field; both slices as they came, the body still folded and encoded.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub body: &'a [u8],
}

/// The fields of a block, in order.
#[must_use]
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { rest: block.strip_prefix(BYTE_ORDER_MARK).unwrap_or(block) }
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
fn unfolded_line(from: &[u8]) -> (&[u8], &[u8]) {
    let content = from.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"content-"));
    let mut end = 0;
    while let Some(found) = from.get(end..).and_then(|rest| memchr(b'\n', rest)) {
        end += found + 1;
        let (line, next) = from.split_at_checked(end).unwrap_or((from, &[]));
        let goes_on =
            next.first().is_some_and(|octet| is_blank(*octet)) || content && line.trim_ascii_end().ends_with(b";") && is_parameter(next);
        if !goes_on {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            return (line.strip_suffix(b"\r").unwrap_or(line), next);
        }
    }
    // The last one may have lost half of its line end.
    (from.strip_suffix(b"\r").unwrap_or(from), &[])
}

/// The next parameter of a list whose fold has lost its blank.
fn is_parameter(from: &[u8]) -> bool {
    let len = from.iter().position(|octet| !is_of_name(*octet)).unwrap_or(from.len());
    let (name, rest) = from.split_at_checked(len).unwrap_or_default();
    let next = rest.iter().find(|octet| !is_blank(**octet));
    let equals = name.get(..PARAMETER_MAX).unwrap_or(name).contains(&b'=') || next == Some(&b'=') && rest.first() != next;
    len > 0 && (next != Some(&b':') || len > NAME_MAX) && equals
}

/// Printable US-ASCII but the colon (RFC 5322 section 2.2). Other octets make no name that anybody asks for, but no text of the line either.
pub(super) fn is_of_name(octet: u8) -> bool {
    octet != b':' && (octet.is_ascii_graphic() || !octet.is_ascii())
}

pub(super) fn is_blank(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

/// A line as a field. Blanks before the colon are obsolete syntax (RFC 5322 section 4.5) and still seen.
fn field(line: &[u8]) -> Option<Field<'_>> {
    let (name, rest) = line.split_at_checked(memchr(b':', line)?)?;
    let blanks = name.iter().rev().take_while(|octet| is_blank(**octet)).count();
    let name = name.get(..name.len() - blanks)?;
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    Some(Field { name, body: rest.get(1..)? })
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn names_and_bodies() {
        let block = b"A: 1\r\nB :2\r\n  folded\r\nno field\r\n: none\r\nC\xe9: x\r\n D: continued\r\nE:\r\n";
        let found: Vec<_> = fields(block).map(|field| (field.name, field.body)).collect();
        let expected: Vec<(&[u8], &[u8])> = vec![(b"A", b" 1"), (b"B", b"2\r\n  folded"), (b"E", b"")];
        assert_eq!(found, expected);
        assert!(fields(b"\xef\xbb\xbfA: 1\r\n").next().is_some_and(|field| field.name == b"A"));
    }
}
