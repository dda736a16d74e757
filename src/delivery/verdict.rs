//! The endpoint's answer becomes the SMTP reply: the contract's table, row by row. Pure.

use crate::config::Route;
use crate::forward::{NoAnswer, Refused, Response};
use crate::record::{Outcome, RecordId, ServerResponse};
use crate::smtp::{Reply, reply};
use jiff::Timestamp;

const NOT_ASKED: &str = "the endpoint was not asked";

/// What became of a message: told to the sender, and recorded.
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) reply: Reply,
    pub(super) server_response: ServerResponse,
}

/// The row of the table for an answer. `utf8`: the client used SMTPUTF8, so the text may.
#[must_use]
pub(super) fn of_answer(answer: Result<Response, NoAnswer>, route: &Route, id: RecordId, utf8: bool) -> Verdict {
    let response = match answer {
        Ok(response) => response,
        Err(none) => return of_no_answer(none),
    };
    let text = |standard: &'static str| response.text().unwrap_or(standard).to_owned();
    let (outcome, reply) = match response.status {
        200..=299 => (Outcome::Delivered, Reply::delivered(id)),
        // Where the credentials did not go along, their absence is nobody's decision on the message.
        status if route.defer_statuses.contains(&status) || response.lost_credentials && matches!(status, 401 | 403 | 407) => {
            (Outcome::Deferred, Reply::with_text(450, "4.3.0", &text("The application asks to try again later"), utf8))
        }
        400..=499 => (Outcome::Rejected, Reply::with_text(554, "5.7.1", &text("The application refused this message"), utf8)),
        500..=599 => (Outcome::Deferred, Reply::with_text(450, "4.3.0", &text("The application failed, try again later"), utf8)),
        _ => (Outcome::Deferred, reply::ENDPOINT_BROKE_OFF),
    };
    // A refused redirect says why where its own body says nothing.
    let body = match response.redirect_refused {
        Some(why) if response.body.is_empty() => why,
        _ => response.body,
    };
    Verdict {
        outcome,
        reply,
        server_response: ServerResponse {
            status: response.status,
            body,
            content_type: response.content_type,
            retry_after: response.retry_after,
        },
    }
}

fn of_no_answer(none: NoAnswer) -> Verdict {
    let (reply, why) = match none {
        NoAnswer::NotReached(why) => (reply::ENDPOINT_UNREACHABLE, why),
        NoAnswer::Broken(why) => (reply::ENDPOINT_BROKE_OFF, why),
    };
    Verdict { outcome: Outcome::Deferred, reply, server_response: no_response(why) }
}

/// A job that no forwarder took: "later", and it costs the endpoint nothing. `open_since`: when the breaker opened.
#[must_use]
pub(super) fn of_refusal(refused: Refused, open_since: Option<Timestamp>) -> Verdict {
    let (reply, why) = match refused {
        Refused::QueueFull => (reply::QUEUE_FULL, "the route's queue is full"),
        Refused::WaitTooLong => (reply::QUEUE_FULL, "those in front of it would take all its time"),
        Refused::TooLate => (reply::QUEUE_FULL, "less time was left than the endpoint takes"),
        Refused::BreakerOpen => (reply::BREAKER_OPEN, "breaker open"),
        Refused::Paused => (reply::ENDPOINT_PAUSES, "it had asked for a pause (Retry-After)"),
        Refused::Draining => (reply::DRAINING, "the daemon is draining"),
        Refused::OverBudget => (reply::OUT_OF_MEMORY, "no memory for the rendered request"),
    };
    let since = open_since.filter(|_| refused == Refused::BreakerOpen).map_or_else(String::new, |since| format!(" since {since:.0}"));
    Verdict { outcome: Outcome::Deferred, reply, server_response: no_response(format!("{NOT_ASKED}: {why}{since}")) }
}

/// The daemon's own refusal at the end of data (size, newlines, a loop): the endpoint was not asked.
#[must_use]
pub(super) fn of_own_refusal(reply: Reply) -> Verdict {
    let outcome = if reply.code() >= 500 { Outcome::Rejected } else { Outcome::Deferred };
    // Behind the codes stands in words what was wrong.
    let why = reply.0.splitn(3, ' ').nth(2).unwrap_or_default();
    let server_response = no_response(format!("{NOT_ASKED}: {why}"));
    Verdict { outcome, reply, server_response }
}

fn no_response(why: String) -> ServerResponse {
    ServerResponse { status: 0, body: why, content_type: None, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_refusals_say_why_the_endpoint_was_not_asked() {
        let since = "2026-11-30T06:00:00Z".parse().unwrap();
        let of = |refused| of_refusal(refused, Some(since)).server_response.body;
        assert_eq!(of(Refused::BreakerOpen), "the endpoint was not asked: breaker open since 2026-11-30T06:00:00Z");
        assert_eq!(of(Refused::QueueFull), "the endpoint was not asked: the route's queue is full");
        let own = of_own_refusal(reply::MESSAGE_TOO_LARGE).server_response;
        assert!(own.status == 0 && own.body.starts_with("the endpoint was not asked: ") && !own.body.contains("552"), "{}", own.body);
        assert!(own.body.len() > 30, "{}", own.body);
    }
}
