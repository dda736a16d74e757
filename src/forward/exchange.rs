//! One message's exchange with its endpoint: POST, follow redirects. The body is freed when it returns.
//!
//! Logs why an endpoint could not be reached, at `warn`, with the route's name.

use super::client::Client;
use super::prepare::Prepared;
use super::redirect;
use super::request::{Answer, Post, post};
use super::{NoAnswer, Response};
use crate::config::Route;
use std::time::Instant;
use url::Url;

/// # Errors
/// There was no answer before the deadline.
pub(super) async fn ask(
    client: &Client,
    route: &Route,
    prepared: Prepared,
    webhook_id: &str,
    deadline: Instant,
) -> Result<Response, NoAnswer> {
    let rendered = &prepared.rendered;
    let mut common =
        vec![("content-type", rendered.content_type.as_str()), ("webhook-id", webhook_id), ("webhook-timestamp", &prepared.timestamp)];
    common.extend(rendered.headers.iter().map(|(name, value)| (*name, value.as_str())));
    let of_all = common.len();
    // These three kinds go to the route's own origin only.
    common.extend(route.headers.iter().map(|(name, value)| (name.as_str(), value.expose())));
    common.extend(route.authorization.as_ref().map(|authorization| ("authorization", authorization.expose())));
    common.extend(prepared.signature.as_deref().map(|signature| ("webhook-signature", signature)));
    let body = prepared.slices();
    let mut at_home = true;
    let answer = follow(&route.url, async |url: &Url, only_public| {
        // Once elsewhere, always elsewhere: another origin must not choose where they go in ours.
        at_home &= std::ptr::eq(&raw const route.url, url) || redirect::same_origin(&route.url, url);
        let headers = if at_home { common.as_slice() } else { common.get(..of_all).unwrap_or_default() };
        post(client, &Post { url, headers, len: rendered.len, body: &body, deadline, only_public }).await
    });
    let answer = answer.await;
    if let Err(NoAnswer::NotReached(why) | NoAnswer::Broken(why)) = &answer {
        tracing::warn!(route = route.name, why, "the endpoint gave no answer");
    }
    answer
}

/// Asks, and asks again where the answer says so.
pub(super) async fn follow(start: &Url, mut ask: impl AsyncFnMut(&Url, bool) -> Result<Answer, NoAnswer>) -> Result<Response, NoAnswer> {
    let mut elsewhere = None;
    // Once a hop was on the open internet, no later one may be inside.
    let mut only_public = false;
    let mut last: Option<Response> = None;
    for hop in 0..=redirect::HOPS_MAX {
        let url = elsewhere.as_ref().unwrap_or(start);
        let answer = match (ask(url, only_public).await, last.take()) {
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
        elsewhere = match redirect::target(url, &location) {
            Ok(target) => Some(target),
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
