//! The requests that the inspector keeps, and what can be said of one in a line. They have bodies: no `Debug`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

const MAX_REQUESTS: usize = 50;
const MAX_KEPT_IN_ALL: usize = 32 * 1024 * 1024;
/// Bodies read at once; others wait, so that not every forwarder's request lies here in part.
const READERS: usize = 16;

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

/// The last requests, and what the next ones are answered. Has bodies: no `Debug`.
pub(super) struct Inspector {
    kept: Mutex<Log>,
    pub(super) readers: Semaphore,
    next: Mutex<Next>,
}

/// What the next messages are answered; until it is set anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) delay_ms: u64,
}

impl Default for Next {
    fn default() -> Self {
        Self { status: 200, delay_ms: 0 }
    }
}

#[derive(Default)]
struct Log {
    requests: VecDeque<Arc<Kept>>,
    last: u64,
}

impl Default for Inspector {
    fn default() -> Self {
        Self { kept: Mutex::default(), readers: Semaphore::new(READERS), next: Mutex::default() }
    }
}

impl Inspector {
    pub(super) fn keep(&self, make: impl FnOnce(u64) -> Kept) -> u64 {
        let mut log = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        log.last += 1;
        let number = log.last;
        log.requests.push_back(Arc::new(make(number)));
        let octets = |log: &Log| log.requests.iter().map(|request| request.body.len()).sum::<usize>();
        while log.requests.len() > MAX_REQUESTS || (octets(&log) > MAX_KEPT_IN_ALL && log.requests.len() > 1) {
            log.requests.pop_front();
        }
        number
    }

    pub(super) fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Newest first.
    pub(super) fn all(&self) -> Vec<Arc<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).requests.iter().rev().cloned().collect()
    }

    pub(super) fn find(&self, number: u64) -> Option<Arc<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).requests.iter().find(|request| request.number == number).cloned()
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

    #[test]
    fn the_log_is_bounded_in_requests_and_octets() {
        let inspector = Inspector::default();
        for _ in 0..60 {
            inspector.keep(|number| Kept { number, ..kept("/inspector", &[], &[], 0) });
        }
        let numbers: Vec<_> = inspector.all().iter().map(|request| request.number).collect();
        assert_eq!(numbers, (11..=60).rev().collect::<Vec<_>>());
        for _ in 0..60 {
            inspector.keep(|number| Kept { number, ..kept("/inspector", &[], &vec![0; 1 << 20], 5_000_000) });
        }
        let octets: usize = inspector.all().iter().map(|request| request.body.len()).sum();
        assert_eq!(octets, MAX_KEPT_IN_ALL);
        assert!(inspector.find(120).is_some());
        assert!(inspector.find(60).is_none());
    }
}
