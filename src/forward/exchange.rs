//! One message's exchange with its endpoint: POST, follow redirects. The body is freed when it returns.
//!
//! Logs why an endpoint could not be reached, at `warn`, with the route's name.

use super::job::NoAnswer;
use super::prepare::Prepared;
use crate::config::{Route, Target};
use crate::http::{self, Client, Request, Response};
use std::time::{Duration, Instant};
use url::Url;

/// `waited`: from each request's last octet to its status line, all in all.
///
/// # Errors
/// There was no answer before the deadline.
pub(super) async fn ask(
    client: &Client,
    route: &Route,
    target: &Target,
    prepared: Prepared,
    webhook_id: &str,
    deadline: Instant,
    waited: &mut Duration,
) -> Result<Response, NoAnswer> {
    let rendered = &prepared.rendered;
    let mut common =
        vec![("content-type", rendered.content_type.as_str()), ("webhook-id", webhook_id), ("webhook-timestamp", &prepared.timestamp)];
    common.extend(rendered.headers.iter().map(|(name, value)| (*name, value.as_str())));
    let of_all = common.len();
    // These three kinds go to the route's own origin only.
    common.extend(target.headers.iter().map(|(name, value)| (name.as_str(), value.expose())));
    common.extend(route.authorization.as_ref().map(|authorization| ("authorization", authorization.expose())));
    common.extend(prepared.signature.as_deref().map(|signature| ("webhook-signature", signature)));
    let body = prepared.slices();
    let mut at_home = true;
    let answer = http::follow(&target.url, route.socket.is_some(), async |url: &Url, only_public| {
        // Once elsewhere, always elsewhere: another origin must not choose where they go in ours.
        at_home &= std::ptr::eq(&raw const target.url, url) || http::same_origin(&target.url, url);
        let socket = route.socket.as_deref();
        let headers = if at_home { common.as_slice() } else { common.get(..of_all).unwrap_or_default() };
        let request =
            Request { url, headers, len: rendered.len, body: &body, deadline, socket, at_home, redirected: !at_home, only_public };
        let answer = client.post(&request).await?;
        *waited += answer.waited;
        Ok(answer)
    });
    match answer.await {
        Ok(response) => Ok(Response { lost_credentials: !at_home && common.len() > of_all, ..response }),
        Err(none) => {
            tracing::warn!(route = route.name, why = %none, "the endpoint gave no answer");
            Err(NoAnswer::from(none))
        }
    }
}
