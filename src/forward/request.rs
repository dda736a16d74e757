//! One POST and its answer: one call of ureq, repeated once if a kept-alive connection turned out to be closed.

use super::format::Rendered;
use super::progress::{self, progress};
use super::{NoAnswer, Response, redirect};
use std::io::Read;
use std::time::{Duration, Instant};
use ureq::{Agent, SendBody};
use url::Url;

/// Octets of a response body that are read, and that are kept.
const BODY_READ_MAX: usize = 64 * 1024;
const BODY_KEPT: usize = 2 * 1024;
/// The body of a redirect is of little interest; the deadline is for what it leads to.
const REDIRECT_BODY_PATIENCE: Duration = Duration::from_secs(1);

/// What a POST needs; read again for a repetition.
pub(super) struct Post<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) len: u64,
    pub(super) body: Source<'a>,
    pub(super) deadline: Instant,
    /// Uses no connection to a loopback, link-local or private address.
    pub(super) only_public: bool,
}

/// Where the octets of a body come from.
pub(super) enum Source<'a> {
    /// In one piece: ureq copies it into its output buffer and nowhere else.
    Whole(&'a [u8]),
    /// In pieces of our own and of the message, streamed.
    Pieces { rendered: &'a Rendered, message: &'a [u8] },
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
pub(super) fn post(agent: &Agent, post: &Post<'_>) -> Result<Answer, NoAnswer> {
    match call(agent, post, false) {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let progress = progress();
            // The one repetition (RFC 9110 section 9.2.2): the endpoint had closed the kept-alive connection before it said a word.
            if progress.reused && !progress.received && !matches!(error, ureq::Error::Timeout(_)) {
                return call(agent, post, true).map_err(no_answer);
            }
            Err(no_answer(error))
        }
    }
    .and_then(whole)
}

/// Promise 1: a 2xx counts only from an endpoint that took the whole request.
fn whole(answer: Answer) -> Result<Answer, NoAnswer> {
    if progress().incomplete && (200..=299).contains(&answer.response.status) {
        return Err(NoAnswer::Broken("a 2xx before the whole request was taken".to_owned()));
    }
    Ok(answer)
}

fn call(agent: &Agent, post: &Post<'_>, fresh: bool) -> Result<Answer, ureq::Error> {
    progress::begin(post.deadline, post.only_public, fresh);
    if Instant::now() >= post.deadline {
        return Err(ureq::Error::Timeout(ureq::Timeout::Global));
    }
    let mut request = agent.post(post.url.as_str());
    for (name, value) in post.headers {
        request = request.header(*name, *value);
    }
    let response = match &post.body {
        Source::Whole(octets) => request.send(*octets)?,
        Source::Pieces { rendered, message } => {
            let mut reader = rendered.reader(message);
            request.header("content-length", post.len.to_string()).send(SendBody::from_reader(&mut reader))?
        }
    };
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (content_type, retry_after, location) = (header("content-type"), header("retry-after"), header("location"));
    let status = response.status().as_u16();
    if location.is_some() && redirect::is_redirect(status) {
        progress::hurry(REDIRECT_BODY_PATIENCE);
    }
    let body = kept_body(response.into_body());
    Ok(Answer {
        response: Response { status, content_type, retry_after, body, redirect_refused: None },
        location,
        from_public: progress().peer.is_some_and(redirect::is_public),
    })
}

/// The start of the body as far as it comes: the status line has been the answer, whatever happens to the rest.
fn kept_body(mut body: ureq::Body) -> String {
    let mut reader = body.as_reader();
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    let mut total = 0;
    while total < BODY_READ_MAX {
        match reader.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                total += n;
                let room = BODY_KEPT.saturating_sub(kept.len()).min(n);
                kept.extend_from_slice(chunk.get(..room).unwrap_or_default());
            }
        }
    }
    // A character cut at the end becomes a replacement character, which is no help: it is left out.
    let text = String::from_utf8_lossy(&kept);
    if kept.len() == BODY_KEPT { text.trim_end_matches('\u{fffd}').to_owned() } else { text.into_owned() }
}

fn no_answer(error: ureq::Error) -> NoAnswer {
    let progress = progress();
    let why = if progress.not_public { redirect::NOT_PUBLIC.to_owned() } else { why(&error) };
    if progress.sent { NoAnswer::Broken(why) } else { NoAnswer::NotReached(why) }
}

/// One short line; ureq's own texts name no credential, for the URL has none.
fn why(error: &ureq::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "ureq's errors grow with its releases")]
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        ureq::Error::HostNotFound => "host not found".to_owned(),
        other => other.to_string(),
    }
}
