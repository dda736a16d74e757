//! What `authorize_url` is asked, and says. Plain values.

use crate::verify::SpfResult;

/// A question to `authorize_url` at RCPT TO.
pub struct Authorization {
    pub to: String,
    pub from: String,
    pub size: Option<u64>,
    pub remote_ip: String,
    pub helo_domain: String,
    pub spf: Option<SpfResult>,
}

/// The callback's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorized {
    Yes,
    /// 4xx, with the text of a `text/plain` body.
    No(Option<String>),
    /// 5xx, silence, no capacity: defer.
    Unknown,
}
