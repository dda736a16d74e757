//! One POST and its answer: one call, repeated once if a kept-alive connection turned out to be closed.

use super::call::{self, Progress};
use super::client::Client;
use super::idle::{self, Origin};
use super::{NoAnswer, Response, connect, head};
use std::time::Instant;
use url::Url;

/// What a POST needs.
pub(super) struct Post<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// Octets of `body`.
    pub(super) len: u64,
    pub(super) body: &'a [&'a [u8]],
    pub(super) deadline: Instant,
    /// Uses no connection to a loopback, link-local or private address.
    pub(super) only_public: bool,
}

/// An answer, and what only redirects look at.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) location: Option<String>,
    /// The connection went to an address of the open internet.
    pub(super) from_public: bool,
}

/// # Errors
/// Nobody answered before the deadline.
pub(super) async fn post(client: &Client, post: &Post<'_>) -> Result<Answer, NoAnswer> {
    if Instant::now() >= post.deadline {
        return Err(NoAnswer::NotReached("timed out".to_owned()));
    }
    let origin = Origin::of(post.url).ok_or_else(|| NoAnswer::NotReached("a URL without a host".to_owned()))?;
    let kept = idle::take(client.id, &origin, post.only_public).map_err(|why| NoAnswer::NotReached(why.to_owned()))?;
    let head = head::head(post).map_err(NoAnswer::NotReached)?;
    // A call's future is boxed: as a part of those around it, it would be copied once for each of them.
    if let Some(wire) = kept {
        let mut progress = Progress::default();
        let called = Box::pin(call::call(wire, &head, post.body, &mut progress, post.deadline)).await;
        // The one repetition (RFC 9110 section 9.2.2): the endpoint had closed the kept-alive connection before it said a word.
        let closed = called.is_err() && !progress.received && !progress.timed_out;
        if !closed {
            return done(client, origin, called, &progress);
        }
    }
    let wire = connect::connect(client, &origin, post.only_public, post.deadline).await.map_err(NoAnswer::NotReached)?;
    let mut progress = Progress::default();
    let called = Box::pin(call::call(wire, &head, post.body, &mut progress, post.deadline)).await;
    done(client, origin, called, &progress)
}

fn done(
    client: &Client,
    origin: Origin,
    called: Result<(Answer, Option<super::wire::Wire>), String>,
    progress: &Progress,
) -> Result<Answer, NoAnswer> {
    let (answer, wire) = called.map_err(|why| if progress.sent { NoAnswer::Broken(why) } else { NoAnswer::NotReached(why) })?;
    if let Some(wire) = wire {
        idle::put(client.id, origin, wire);
    }
    // Promise 1: a 2xx counts only from an endpoint that took the whole request.
    if progress.incomplete && (200..=299).contains(&answer.response.status) {
        return Err(NoAnswer::Broken("a 2xx before the whole request was taken".to_owned()));
    }
    Ok(answer)
}
