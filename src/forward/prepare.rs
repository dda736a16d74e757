//! From a job to a request body: verify, render, sign. Work for the processor: what the DNS says of the sender is asked for before, while
//! the message holds neither a permit nor a thread.
//!
//! What is light is done where the message is, on its ring; the rest on threads of its own. Logs a panic of what works on a
//! stranger's octets (never its text).

use super::job::{Job, NoAnswer};
use super::pool::Pool;
use super::refused::Refused;
use super::webhook;
use crate::config::{Format, Verify};
use crate::envelope::Envelope;
use crate::format::{self, Rendered};
use crate::message::{Body, Lease};
use crate::ring;
use crate::verify::{self, Facts, Questions, SpfResult, Verification, Verifier};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// A message that is taken apart on its ring: some tens of microseconds.
const PARSED_ON_RING_MAX: usize = 16 * 1024;
/// A message that is signed on its ring.
const SIGNED_ON_RING_MAX: usize = 64 * 1024;

pub(super) type Work = Box<dyn FnOnce() + Send>;

/// A request body, all of it in memory, with what its headers need.
pub(super) struct Prepared {
    message: Body,
    pub(super) rendered: Rendered,
    /// Of `Webhook-Timestamp`, seconds.
    pub(super) timestamp: String,
    pub(super) signature: Option<String>,
    /// Pays for what was rendered.
    _lease: Lease,
}

impl Prepared {
    /// The body's octets, in order.
    pub(super) fn slices(&self) -> Vec<&[u8]> {
        self.rendered.slices(self.message.octets()).collect()
    }
}

/// What others say of a message, asked before it has a permit.
#[derive(Default)]
pub(super) struct Found {
    pub(super) facts: Option<Facts>,
    /// Rspamd's verdict.
    pub(super) spam: Option<Value>,
}

/// Why there is nothing to be sent.
pub(super) enum Unprepared {
    Refused(Refused),
    NoAnswer(NoAnswer),
}

/// What the route's checks need to know of the DNS. Half of the time that is left is for the endpoint: a check that is cut off says so,
/// and no message is late for it.
///
/// # Errors
/// There was no thread to read a long header.
pub(super) async fn facts(
    job: &Job,
    spf: Option<oneshot::Receiver<SpfResult>>,
    verifier: &Verifier,
    pool: &Arc<Pool<Work>>,
) -> Result<Option<Facts>, Refused> {
    let wanted = job.route.verify;
    if wanted == Verify::default() {
        return Ok(None);
    }
    let (now, deadline) = (Instant::now(), job.deadline());
    let until = now + deadline.saturating_duration_since(now) / 2;
    let header = verify::header(job.body.octets());
    let questions = if header.len() <= PARSED_ON_RING_MAX {
        Questions::of(wanted, &job.envelope, header)
    } else {
        // A copy: the body stays where it is.
        let (header, envelope) = (header.to_vec(), Arc::clone(&job.envelope));
        on_thread(pool, deadline, move || Questions::of(wanted, &envelope, &header)).await?.ok_or(Refused::TooLate)?
    };
    Ok(Some(verifier.ask(questions, &job.envelope, spf, until).await))
}

/// On its ring or on a thread, as the message is.
pub(super) async fn prepare(
    job: Job,
    found: Found,
    envelope: &Arc<Envelope>,
    verifier: &Arc<Verifier>,
    pool: &Arc<Pool<Work>>,
) -> Result<Prepared, Unprepared> {
    let failed = || Unprepared::NoAnswer(NoAnswer::Broken("the forwarder failed".to_owned()));
    if is_light(&job, found.facts.as_ref()) {
        return catch_unwind(AssertUnwindSafe(|| work(job, found, envelope, verifier))).unwrap_or_else(|_| {
            tracing::error!("a forwarder's work ended by a panic");
            Err(failed())
        });
    }
    let deadline = job.deadline();
    let (envelope, verifier) = (Arc::clone(envelope), Arc::clone(verifier));
    // Where no thread is free, it waits for one: its permit bounds how many there are.
    match Box::pin(on_thread(pool, deadline, move || work(job, found, &envelope, &verifier))).await {
        Ok(prepared) => prepared.unwrap_or_else(|| Err(failed())),
        Err(refused) => Err(Unprepared::Refused(refused)),
    }
}

/// `None`: it ended by a panic.
async fn on_thread<T: Send + 'static>(
    pool: &Arc<Pool<Work>>,
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, Refused> {
    let (done, made) = oneshot::channel();
    pool.give(Box::new(move || {
        // Nobody waits any more for what was too long in coming.
        if !done.is_closed() {
            drop(done.send(work()));
        }
    }));
    match ring::timeout_at(deadline, made).await {
        Some(made) => Ok(made.ok()),
        // What is made of it later is dropped where it is made.
        None => Err(Refused::TooLate),
    }
}

fn is_light(job: &Job, facts: Option<&Facts>) -> bool {
    let (route, octets) = (&job.route, job.body.len());
    let parsed = matches!(route.format, Format::Json | Format::Multipart) || route.verify.dkim || route.verify.dmarc;
    !facts.is_some_and(Facts::hash)
        && (!parsed || octets <= PARSED_ON_RING_MAX)
        && (route.signing_secrets.is_empty() || octets <= SIGNED_ON_RING_MAX)
}

fn work(job: Job, found: Found, envelope: &Envelope, verifier: &Verifier) -> Result<Prepared, Unprepared> {
    let deadline = job.deadline();
    let Job { route, body, webhook_id, .. } = job;
    let message = body.octets();
    let verification = found.facts.map_or_else(Verification::default, |facts| verifier.judge(facts, envelope, message));
    let verification = Verification { spam: found.spam, ..verification };
    let mut lease = body.lease().sibling();
    let rendered = format::render(&route, envelope, &verification, message, &mut |octets| lease.resize(octets))
        .map_err(|_| Unprepared::Refused(Refused::OverBudget))?;
    if Instant::now() >= deadline {
        return Err(Unprepared::Refused(Refused::TooLate));
    }
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let signature = (!route.signing_secrets.is_empty())
        .then(|| webhook::signature(&route.signing_secrets, &webhook_id, timestamp, rendered.slices(message)));
    Ok(Prepared { rendered, timestamp: timestamp.to_string(), signature, _lease: lease, message: body })
}
