//! A message on its way to its endpoint, and what came of it. Plain values.

use super::place::Place;
use crate::config::{Route, Target};
use crate::envelope::Envelope;
use crate::http::{self, Response};
use crate::message::Body;
use crate::verify::SpfResult;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// One message on its way to its endpoint. Owns the body: it is freed as soon as the answer is there.
pub struct Job {
    pub route: Arc<Route>,
    pub target: Arc<Target>,
    /// Where it goes instead.
    pub place: Option<Arc<Place>>,
    pub envelope: Arc<Envelope>,
    pub body: Body,
    /// Octets of the header block.
    pub header_len: usize,
    pub webhook_id: String,
    /// End of data.
    pub received: Instant,
    /// SPF asked for after MAIL FROM, if the route verifies it.
    pub spf: Option<oneshot::Receiver<SpfResult>>,
}

impl Job {
    pub(super) fn deadline(&self) -> Instant {
        self.received + self.route.timeout
    }

    pub(super) fn octets(&self) -> u64 {
        u64::try_from(self.body.len()).unwrap_or(u64::MAX)
    }
}

/// Why there was no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// DNS, connect or TLS: no octet of the request was sent.
    NotReached(String),
    /// Broken, malformed or timed out after that.
    Broken(String),
}

impl From<http::NoAnswer> for NoAnswer {
    fn from(none: http::NoAnswer) -> Self {
        if none.phase.is_reached() { Self::Broken(none.to_string()) } else { Self::NotReached(none.to_string()) }
    }
}

/// A job done.
pub struct Completed {
    pub answer: Result<Response, NoAnswer>,
    pub queue_us: u64,
    /// `None`: the endpoint was not asked.
    pub forward_us: Option<u64>,
}
