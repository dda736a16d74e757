//! `multipart/form-data` (RFC 7578) as the formats need it. Logs nothing; fails with [`OverBudget`].

use super::Rendered;
use super::out::{Hold, Out};
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::verify::Verification;
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};

pub(super) struct Form<'h> {
    boundary: String,
    pub(super) out: Out<'h>,
}

impl<'h> Form<'h> {
    pub(super) fn new(hold: Hold<'h>) -> Self {
        Self { boundary: boundary(), out: Out::new(hold) }
    }

    /// A field; what follows is its value, until the next one.
    pub(super) fn open(&mut self, name: &str) -> Result<(), OverBudget> {
        self.delimiter()?;
        self.out.push(b"Content-Disposition: form-data; name=\"")?;
        self.quoted(name)?;
        self.out.push(b"\"\r\n\r\n")
    }

    /// A file; what follows is its content, until the next field. `content_type` is made of tokens.
    pub(super) fn open_file(&mut self, name: &str, file_name: &str, content_type: &str) -> Result<(), OverBudget> {
        self.delimiter()?;
        self.out.push(b"Content-Disposition: form-data; name=\"")?;
        self.quoted(name)?;
        self.out.push(b"\"; filename=\"")?;
        self.quoted(file_name)?;
        self.out.push(b"\"\r\nContent-Type: ")?;
        self.out.push(content_type.as_bytes())?;
        self.out.push(b"\r\n\r\n")
    }

    /// Ends a field's value.
    pub(super) fn close(&mut self) -> Result<(), OverBudget> {
        self.out.push(b"\r\n")
    }

    pub(super) fn field(&mut self, name: &str, value: &str) -> Result<(), OverBudget> {
        self.open(name)?;
        push_text(&mut self.out, value)?;
        self.close()
    }

    /// The envelope's fields.
    pub(super) fn envelope(&mut self, envelope: &Envelope, verification: &Verification) -> Result<(), OverBudget> {
        self.field("envelope[to]", envelope.recipients.first().map_or("", String::as_str))?;
        for (at, recipient) in envelope.recipients.iter().enumerate() {
            self.field(&format!("envelope[recipients][{at}]"), recipient)?;
        }
        self.field("envelope[from]", &envelope.reverse_path)?;
        self.field("envelope[helo_domain]", &envelope.helo)?;
        self.field("envelope[remote_ip]", &envelope.peer.ip.to_string())?;
        self.field("envelope[tls]", if envelope.tls.is_some() { "true" } else { "false" })?;
        if let Some(spf) = &verification.spf {
            self.field("envelope[spf][result]", spf.result)?;
            self.field("envelope[spf][domain]", &spf.domain)?;
        }
        let results =
            [("envelope[dkim]", &verification.dkim), ("envelope[dmarc]", &verification.dmarc), ("envelope[spam]", &verification.spam)];
        for (name, value) in results {
            if let Some(value) = value {
                self.value(name, value)?;
            }
        }
        Ok(())
    }

    /// A value of ours (a check's result), its structure in the names.
    fn value(&mut self, name: &str, value: &Value) -> Result<(), OverBudget> {
        match value {
            Value::Object(fields) => fields.iter().try_for_each(|(field, value)| self.value(&format!("{name}[{field}]"), value)),
            Value::Array(values) => values.iter().enumerate().try_for_each(|(at, value)| self.value(&format!("{name}[{at}]"), value)),
            Value::String(text) => self.field(name, text),
            Value::Null => self.field(name, ""),
            Value::Bool(_) | Value::Number(_) => self.field(name, &value.to_string()),
        }
    }

    pub(super) fn finish(mut self) -> Result<Rendered, OverBudget> {
        self.out.push(format!("--{}--\r\n", self.boundary).as_bytes())?;
        let content_type = format!("multipart/form-data; boundary={}", self.boundary);
        Ok(Rendered::new(content_type, Vec::new(), self.out.finish()?))
    }

    fn delimiter(&mut self) -> Result<(), OverBudget> {
        self.out.push(b"--")?;
        self.out.push(self.boundary.as_bytes())?;
        self.out.push(b"\r\n")
    }

    /// Within quotes, as browsers have it: what would end the quotes is percent-encoded. Names hold no controls and no backslash, which strict
    /// servers refuse or take for an escape; if one did, it would be encoded too. So is what careless servers find within quotes, and what
    /// others would make of an escape.
    fn quoted(&mut self, text: &str) -> Result<(), OverBudget> {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let (before, rest) = text.split_at_checked(at).unwrap_or_default();
            let special = match c {
                '"' | '\\' => true,
                '=' | ':' => is_misread(before, c),
                '%' => is_escape(rest.as_bytes()),
                c => c.is_control(),
            };
            if special {
                self.out.push(before.get(plain..).unwrap_or_default().as_bytes())?;
                for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                    self.out.push(format!("%{octet:02X}").as_bytes())?;
                }
                plain = at + c.len_utf8();
            }
        }
        self.out.push(text.get(plain..).unwrap_or_default().as_bytes())
    }
}

/// What is searched for by pattern in a part's head, as if quotes were not there: a parameter's name, a field's name.
fn is_misread(before: &str, sign: char) -> bool {
    let before = before.trim_end();
    let (before, names): (_, &[&str]) = match sign {
        '=' => (before.strip_suffix('*').unwrap_or(before), &["name"]),
        _ => (before, &["content-type", "content-disposition", "content-id"]),
    };
    let ends_with = |name: &&str| {
        before.len().checked_sub(name.len()).and_then(|at| before.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(name))
    };
    names.iter().any(ends_with)
}

/// An escape for what no name holds: a control, a quote, a separator.
fn is_escape(text: &[u8]) -> bool {
    let [b'%', high, low, ..] = text else { return false };
    matches!((high, low.to_ascii_lowercase()), (b'0' | b'1', b'0'..=b'9' | b'a'..=b'f') | (b'2', b'2' | b'f') | (b'5', b'c') | (b'7', b'f'))
}

/// With LF line ends and without NUL.
pub(super) fn push_text(out: &mut Out<'_>, text: &str) -> Result<(), OverBudget> {
    out.room(text.len())?;
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr2(b'\r', b'\0', rest) {
        let (plain, special) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.push(plain)?;
        rest = match special {
            [b'\r', after @ ..] => {
                out.push(b"\n")?;
                after.strip_prefix(b"\n").unwrap_or(after)
            }
            [_, after @ ..] => {
                out.push("\u{fffd}".as_bytes())?;
                after
            }
            [] => &[],
        };
    }
    out.push(rest)
}

/// A delimiter that no sender can have foreseen, so that no message holds it: 128 bits of SipHash under keys which the
/// standard library draws from the system's random source.
fn boundary() -> String {
    let octets = |salt: u8| RandomState::new().hash_one(salt);
    format!("mailsluice-{:016x}{:016x}", octets(0), octets(1))
}

#[cfg(test)]
mod tests {
    use super::super::Piece;
    use super::Form;

    #[test]
    fn what_stands_in_quotes_stays_there() {
        for (name, written) in [
            ("a b.pdf", "a b.pdf"),
            ("na\u{ef}ve=1:2;3.pdf", "na\u{ef}ve=1:2;3.pdf"),
            ("a\"b\\c\r\nd", "a%22b%5Cc%0D%0Ad"),
            ("a; name=plain", "a; name%3Dplain"),
            ("a; FileName* =x", "a; FileName* %3Dx"),
            ("rename=1", "rename%3D1"),
            ("a Content-Type: b", "a Content-Type%3A b"),
            ("note: b", "note: b"),
            ("100%.pdf", "100%.pdf"),
            ("a%20b%2e", "a%20b%2e"),
            ("a%0d%0A%22%2f%5C%7f%", "a%250d%250A%2522%252f%255C%257f%"),
        ] {
            let mut free = |_| Ok(());
            let mut form = Form::new(&mut free);
            form.quoted(name).unwrap();
            let [Piece::Octets(octets)] = &form.out.finish().unwrap()[..] else { panic!("one piece expected") };
            assert_eq!(String::from_utf8_lossy(octets), written);
        }
    }
}
