//! One message's exchange with its endpoint, on a forwarder's thread: verify, render, POST, follow redirects. The body is freed
//! when it returns.
//!
//! Logs why an endpoint could not be reached, at `warn`, with the route's name.

use super::format::{self, Piece, Rendered};
use super::redirect;
use super::request::{Answer, Post, Source, post};
use super::webhook;
use super::{Job, NoAnswer, Refused, Response};
use crate::verify::Verifier;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use ureq::Agent;
use url::Url;

/// What came of a job, as the breaker sees it.
pub(super) enum Asked {
    Answered(Response),
    InVain(NoAnswer),
    /// Its endpoint was not asked.
    No(NoAnswer),
}

impl Asked {
    pub(super) fn into_answer(self) -> Result<Response, NoAnswer> {
        match self {
            Self::Answered(response) => Ok(response),
            Self::InVain(none) | Self::No(none) => Err(none),
        }
    }
}

/// # Errors
/// The rendered request does not fit the memory budget: nothing was asked.
pub(super) fn forward(job: Job, agent: &Agent, verifier: &Verifier) -> Result<Asked, Refused> {
    let Job { route, envelope, body, webhook_id, received, spf, .. } = job;
    let deadline = received + route.timeout;
    let message = body.octets();
    let verification = if route.verify == crate::config::Verify::default() {
        crate::verify::Verification::default()
    } else {
        verifier.check(route.verify, &envelope, message, spf, deadline)
    };
    let mut lease = body.lease().sibling();
    let rendered =
        format::render(&route, &envelope, &verification, message, &mut |octets| lease.resize(octets)).map_err(|_| Refused::OverBudget)?;
    if Instant::now() >= deadline {
        return Ok(Asked::No(NoAnswer::Broken("timed out before the endpoint was asked".to_owned())));
    }
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let signature = if route.signing_secrets.is_empty() {
        None
    } else {
        let slices: Vec<&[u8]> = rendered.slices(message).collect();
        Some(webhook::signature(&route.signing_secrets, &webhook_id, timestamp, slices.iter().copied()))
    };
    let timestamp = timestamp.to_string();
    let common = common_headers(&rendered, &webhook_id, &timestamp);
    // These three kinds go to the route's own origin only.
    let mut confidential: Vec<(&str, &str)> = route.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    if let Some(authorization) = &route.authorization {
        confidential.push(("authorization", authorization.expose()));
    }
    if let Some(signature) = &signature {
        confidential.push(("webhook-signature", signature));
    }
    let source = || match rendered.pieces.as_slice() {
        [Piece::Octets(octets)] => Source::Whole(octets),
        [Piece::Message(range)] => Source::Whole(message.get(range.clone()).unwrap_or_default()),
        _ => Source::Pieces { rendered: &rendered, message },
    };
    let mut at_home = true;
    let answer = follow(&route.url, |url, only_public| {
        let mut headers = common.clone();
        // Once elsewhere, always elsewhere: another origin must not choose where they go in ours.
        at_home &= redirect::same_origin(&route.url, url);
        if at_home {
            headers.extend_from_slice(&confidential);
        }
        post(agent, &Post { url, headers: &headers, len: rendered.len, body: source(), deadline, only_public })
    });
    Ok(match answer {
        Ok(response) => Asked::Answered(response),
        Err(none) => {
            let (NoAnswer::NotReached(why) | NoAnswer::Broken(why)) = &none;
            tracing::warn!(route = route.name, why, "the endpoint gave no answer");
            Asked::InVain(none)
        }
    })
}

fn common_headers<'a>(rendered: &'a Rendered, webhook_id: &'a str, timestamp: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("content-type", rendered.content_type.as_str()), ("webhook-id", webhook_id), ("webhook-timestamp", timestamp)];
    headers.extend(rendered.headers.iter().map(|(name, value)| (*name, value.as_str())));
    headers
}

/// Asks, and asks again where the answer says so.
pub(super) fn follow(start: &Url, mut ask: impl FnMut(&Url, bool) -> Result<Answer, NoAnswer>) -> Result<Response, NoAnswer> {
    let mut url = start.clone();
    // Once a hop was on the open internet, no later one may be inside.
    let mut only_public = false;
    let mut last: Option<Response> = None;
    for hop in 0..=redirect::HOPS_MAX {
        let answer = match (ask(&url, only_public), last.take()) {
            (Err(NoAnswer::NotReached(why)), Some(before)) if why == redirect::NOT_PUBLIC => return Ok(refused(before, &why)),
            (Err(none), _) => return Err(none),
            (Ok(answer), _) => answer,
        };
        let Answer { response, location, from_public } = answer;
        let Some(location) = location.filter(|_| redirect::is_redirect(response.status)) else { return Ok(response) };
        only_public |= from_public;
        if hop == redirect::HOPS_MAX {
            return Ok(refused(response, "more than 3 redirects"));
        }
        url = match redirect::target(&url, &location) {
            Ok(target) => target,
            Err(why) => return Ok(refused(response, why)),
        };
        last = Some(response);
    }
    // The loop returns in its last turn.
    Err(NoAnswer::Broken("more than 3 redirects".to_owned()))
}

fn refused(response: Response, why: &str) -> Response {
    Response { redirect_refused: Some(why.to_owned()), ..response }
}
