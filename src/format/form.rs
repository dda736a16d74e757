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
        for (name, value) in [("envelope[dkim]", &verification.dkim), ("envelope[dmarc]", &verification.dmarc)] {
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
    /// servers refuse or take for an escape; if one did, it would be encoded too.
    fn quoted(&mut self, text: &str) -> Result<(), OverBudget> {
        let special = |c: char| c == '"' || c == '\\' || c.is_control();
        for piece in text.split_inclusive(special) {
            let plain = piece.trim_end_matches(special);
            self.out.push(plain.as_bytes())?;
            for octet in piece.get(plain.len()..).unwrap_or_default().bytes() {
                self.out.push(format!("%{octet:02X}").as_bytes())?;
            }
        }
        Ok(())
    }
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
