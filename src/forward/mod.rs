//! HTTP out: a bounded pool of forwarder threads, a bounded queue and a breaker per route.

pub mod format;

use crate::config::{Config, Route};
use crate::envelope::Envelope;
use crate::message::Body;
use crate::stats::Stats;
use crate::verify::{SpfResult, Verifier};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// One message on its way to its endpoint. Owns the body: it is freed as soon as the answer is there.
pub struct Job {
    pub route: Arc<Route>,
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

/// What the endpoint said: a complete status line and header; the body as far as it came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    /// First 2 KiB, lossy UTF-8.
    pub body: String,
    /// A redirect that was not followed (count, scheme, address): the status is the redirect's own.
    pub redirect_refused: Option<String>,
}

/// Why there was no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// DNS, connect or TLS: no octet of the request was sent.
    NotReached(String),
    /// Broken, malformed or timed out after that.
    Broken(String),
}

/// A job done.
pub struct Completed {
    pub answer: Result<Response, NoAnswer>,
    pub queue_us: u64,
    pub forward_us: u64,
}

/// A job that was not taken; its body is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    QueueFull,
    BreakerOpen,
    Draining,
    /// The rendered request does not fit the memory budget.
    OverBudget,
}

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

/// The pool.
pub struct Forwarders { _todo: () }

impl Forwarders {
    pub fn start(_config: &Config, _stats: &Arc<Stats>, _verifier: Arc<Verifier>) -> Result<Arc<Self>, String> { todo!() }
    /// Routes, limits and CAs of a re-read configuration; jobs under way finish with the route they carry.
    pub fn reload(&self, _config: &Config) -> Result<(), String> { todo!() }
    /// Never blocks: called on a ring thread. `Completed` comes through the receiver; a dropped sender means the job died (defer).
    /// `Err(OverBudget)` may also come as the receiver's answer.
    pub fn submit(&self, _job: Job) -> Result<oneshot::Receiver<Result<Completed, Refused>>, Refused> { todo!() }
    pub fn authorize(&self, _route: &Arc<Route>, _question: Authorization) -> Result<oneshot::Receiver<Authorized>, Refused> { todo!() }
    /// No new job from now on (`Refused::Draining`).
    pub fn drain(&self) { todo!() }
    /// Ends calls in flight (their jobs answer `Broken`) and joins idle threads.
    pub fn abort(&self) { todo!() }
}
