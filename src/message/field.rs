//! Header fields one by one (RFC 5322 section 2.2).
//!
//! Logs nothing, cannot fail: a line that is no field is stepped over.

use memchr::memchr;

/// Stands in front of the first field of some messages.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
    // The last one may have lost half of its line end.
    (from.strip_suffix(b"\r").unwrap_or(from), &[])
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
