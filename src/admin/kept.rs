//! One request as the inspector keeps it, and what can be said of it in a line. It has a body: no `Debug`.

use serde_json::{Value, json};

/// A request as it came.
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) date: jiff::Timestamp,
    pub(super) path: String,
    /// What it was answered.
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// The body's start.
    pub(super) body: Vec<u8>,
    /// The body's length.
    pub(super) size: u64,
    pub(super) about: About,
}

/// What tells one message from another, where it can be read.
#[derive(Default)]
pub(super) struct About {
    subject: Option<String>,
    recipient: Option<String>,
}

impl About {
    /// Of JSON from its fields, else from our own header fields.
    pub(super) fn of(headers: &[(String, Vec<u8>)], body: &[u8]) -> Self {
        let header = |wanted: &str| {
            let (_, value) = headers.iter().find(|(name, _)| name == wanted)?;
            std::str::from_utf8(value).ok()
        };
        if header("content-type").is_some_and(|value| value.starts_with("application/json"))
            && let Ok(body) = serde_json::from_slice::<Value>(body)
        {
            let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let subject = text("/headers/subject").or_else(|| text("/headers/subject/0"));
            return Self { subject, recipient: text("/envelope/to") };
        }
        Self { subject: None, recipient: header("mailsluice-rcpt-to").map(str::to_owned) }
    }
}

impl Kept {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(given, _)| given == name)?;
        std::str::from_utf8(value).ok()
    }

    pub(super) fn summary(&self) -> Value {
        json!({
            "number": self.number,
            "date": self.date,
            "subject": self.about.subject,
            "recipient": self.about.recipient,
            "path": self.path,
            "status": self.status,
            "content_type": self.header("content-type"),
            "webhook_id": self.header("webhook-id"),
            "size": self.size,
            "truncated": self.size > self.body.len() as u64,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::admin) fn kept(path: &str, headers: &[(&str, &str)], body: &[u8], size: u64) -> Kept {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        let about = About::of(&headers, body);
        Kept { number: 7, date: jiff::Timestamp::UNIX_EPOCH, path: path.into(), status: 200, headers, body: body.to_vec(), size, about }
    }

    #[test]
    fn a_row_says_which_message_it_is() {
        let json =
            kept("/", &[("content-type", "application/json")], br#"{"headers":{"subject":"S"},"envelope":{"to":"a@b"}}"#, 1).summary();
        assert_eq!((&json["subject"], &json["recipient"]), (&"S".into(), &"a@b".into()));
        let raw = kept("/", &[("content-type", "message/rfc822"), ("mailsluice-rcpt-to", "c@d")], b"Subject: x", 1).summary();
        assert_eq!((&raw["subject"], &raw["recipient"]), (&Value::Null, &"c@d".into()));
        let broken = kept("/", &[("content-type", "application/json")], b"{", 1).summary();
        assert_eq!(broken["subject"], Value::Null);
    }
}
