//! From a job to a request body: verify, render, sign. Work for the processor and the DNS, not for a ring.
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
use crate::verify::{Verification, Verifier};
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

/// Why there is nothing to be sent.
pub(super) enum Unprepared {
    Refused(Refused),
    NoAnswer(NoAnswer),
}

/// On its ring or on a thread, as the message is.
pub(super) async fn prepare(
    job: Job,
    envelope: &Arc<Envelope>,
    verifier: &Arc<Verifier>,
    pool: &Arc<Pool<Work>>,
) -> Result<Prepared, Unprepared> {
    let failed = || Unprepared::NoAnswer(NoAnswer::Broken("the forwarder failed".to_owned()));
    if is_light(&job) {
        return catch_unwind(AssertUnwindSafe(|| work(job, envelope, verifier))).unwrap_or_else(|_| {
            tracing::error!("a forwarder's work ended by a panic");
            Err(failed())
        });
    }
    let deadline = job.deadline();
    let (done, prepared) = oneshot::channel();
    let (envelope, verifier) = (Arc::clone(envelope), Arc::clone(verifier));
    // Where no thread is free, it waits for one: its permit bounds how many there are.
    pool.give(Box::new(move || {
        // Nobody waits any more for what was too long in coming.
        if !done.is_closed() {
            drop(done.send(work(job, &envelope, &verifier)));
        }
    }));
    match ring::timeout_at(deadline, prepared).await {
        Some(prepared) => prepared.unwrap_or_else(|_| Err(failed())),
        // What is made of it later is dropped where it is made.
        None => Err(Unprepared::Refused(Refused::TooLate)),
    }
}

fn is_light(job: &Job) -> bool {
    let (route, octets) = (&job.route, job.body.len());
    let parsed = matches!(route.format, Format::Json | Format::Multipart);
    route.verify == Verify::default()
        && (!parsed || octets <= PARSED_ON_RING_MAX)
        && (route.signing_secrets.is_empty() || octets <= SIGNED_ON_RING_MAX)
}

fn work(job: Job, envelope: &Envelope, verifier: &Verifier) -> Result<Prepared, Unprepared> {
    let deadline = job.deadline();
    let Job { route, body, webhook_id, spf, .. } = job;
    let message = body.octets();
    let verification = if route.verify == Verify::default() {
        Verification::default()
    } else {
        verifier.check(route.verify, envelope, message, spf, deadline)
    };
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
