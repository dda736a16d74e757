//! What `authorize_url` is asked, and says. Plain values.

use super::place::Place;
use crate::verify::SpfResult;
use std::sync::Arc;

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
    /// Where it goes instead of the route's own url.
    Yes(Option<Arc<Place>>),
    /// 4xx, with the text of a `text/plain` body.
    No(Option<String>),
    /// 5xx, silence, no capacity: defer.
    Unknown,
}

impl Authorized {
    /// Octets in memory beside itself, about.
    pub(super) fn octets(&self) -> usize {
        match self {
            Self::Yes(place) => place.as_ref().map_or(0, |place| place.octets()),
            Self::No(text) => text.as_ref().map_or(0, String::len),
            Self::Unknown => 0,
        }
    }
}
