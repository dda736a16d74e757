//! One message's exchange with its endpoint: POST, follow redirects. The body is freed when it returns.
//!
//! Logs why an endpoint could not be reached, at `warn`, with the route's name.

use super::job::NoAnswer;
use super::place::Place;
use super::prepare::Prepared;
use crate::config::{Route, Target};
use crate::http::{self, Client, Request, Response, Wanted};
use std::time::{Duration, Instant};
use url::Url;

/// Where a message goes: to the route's target for its recipients, or to the place that the application has named instead.
#[derive(Clone, Copy)]
pub(super) struct Goes<'a> {
    pub(super) route: &'a Route,
    pub(super) target: &'a Target,
    pub(super) place: Option<&'a Place>,
}

/// `waited`: from each request's last octet to its status line, all in all.
///
/// # Errors
/// There was no answer before the deadline.
pub(super) async fn ask(
    client: &Client,
    goes: Goes<'_>,
    prepared: Prepared,
    webhook_id: &str,
    deadline: Instant,
    waited: &mut Duration,
) -> Result<Response, NoAnswer> {
    let Goes { route, target, place } = goes;
    let rendered = &prepared.rendered;
    let start = place.map_or(&target.url, |place| &place.url);
    let socket = route.socket.as_deref().filter(|_| place.is_none());
    let own = place.is_none_or(|place| place.is_at_home(route));
    let mut common =
        vec![("content-type", rendered.content_type.as_str()), ("webhook-id", webhook_id), ("webhook-timestamp", &prepared.timestamp)];
    common.extend(rendered.headers.iter().map(|(name, value)| (*name, value.as_str())));
    let of_all = common.len();
    // The others go to the origin it starts from only: what a place has brought with it, what is the route's if it is that of its own
    // url, and the signature in any case.
    let brought = place.map_or(&[][..], |place| &place.headers);
    common.extend(brought.iter().map(|(name, value)| (name.as_str(), value.expose())));
    if own {
        let of_route = target.headers.iter().filter(|(name, _)| !brought.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        common.extend(of_route.map(|(name, value)| (name.as_str(), value.expose())));
        common.extend(route.authorization.as_ref().map(|authorization| ("authorization", authorization.expose())));
    }
    common.extend(prepared.signature.as_deref().map(|signature| ("webhook-signature", signature)));
    let body = prepared.slices();
    let mut stayed = true;
    let only_public = place.is_some_and(|place| place.only_public);
    let answer = http::follow(start, socket.is_some(), only_public, async |url: &Url, only_public| {
        // Once elsewhere, always elsewhere: another origin must not choose where they go in ours.
        stayed &= std::ptr::eq(&raw const *start, url) || http::same_origin(start, url);
        let headers = if stayed { common.as_slice() } else { common.get(..of_all).unwrap_or_default() };
        let request = Request {
            url,
            headers,
            len: rendered.len,
            body: &body,
            deadline,
            socket,
            at_home: stayed && own,
            redirected: !stayed || place.is_some_and(|place| place.foreign),
            only_public,
            wanted: Wanted::Start,
        };
        let answer = client.post(&request).await?;
        *waited += answer.waited;
        Ok(answer)
    });
    match answer.await {
        Ok(response) => Ok(Response { lost_credentials: !stayed && common.len() > of_all, ..response }),
        Err(none) => {
            tracing::warn!(route = route.name, why = %none, "the endpoint gave no answer");
            Err(NoAnswer::from(none))
        }
    }
}
