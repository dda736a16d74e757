//! An HTTP client: one for each route. What its rings share is what a connection needs; the kept-alive connections themselves
//! belong to each ring (`idle.rs`). Logs nothing.

use super::call::{self, Called};
use super::connect::{self, To};
use super::failure::{NoAnswer, Phase};
use super::idle;
use super::names::Names;
use super::origin::Origin;
use super::proxy::{self, Proxy};
use super::request::{self, Request};
use super::response::Answer;
use super::trust::Tls;
use super::wire::Progress;
use std::sync::Arc;
use std::time::Instant;

pub struct Client {
    /// For the route's own origin.
    tls: Tls,
    /// For others: shows nothing of ourselves.
    elsewhere: Tls,
    names: Names,
    proxy: Option<Arc<Proxy>>,
}

impl Client {
    #[must_use]
    pub fn new(tls: Tls, elsewhere: Tls, names: Names, proxy: Option<Arc<Proxy>>) -> Self {
        Self { tls, elsewhere, names, proxy }
    }

    /// Whether it asks under these settings.
    #[must_use]
    pub fn is_with(&self, tls: &Tls, elsewhere: &Tls) -> bool {
        (self.tls.id, self.elsewhere.id) == (tls.id, elsewhere.id)
    }

    /// One POST and its answer: one call, repeated once if a kept-alive connection turned out to be closed.
    ///
    /// # Errors
    /// Nobody answered before the deadline.
    pub async fn post(&self, request: &Request<'_>) -> Result<Answer, NoAnswer> {
        if Instant::now() >= request.deadline {
            return Err(NoAnswer::new(Phase::Connect, "timed out"));
        }
        let refused = |why| NoAnswer::new(Phase::Connect, why);
        let origin = Origin::of(request.url, request.socket).ok_or_else(|| refused("a URL without a host".to_owned()))?;
        let tls = if request.at_home { &self.tls } else { &self.elsewhere };
        let proxy = self.proxy.as_deref().filter(|_| proxy::is_for(&origin));
        let kept = idle::take(tls.id, &origin, request.only_public)?;
        let in_the_clear = proxy.filter(|_| !origin.is_tls());
        let head = request::head(request, in_the_clear).map_err(refused)?;
        // A call's future is boxed: as a part of those around it, it would be copied once for each of them.
        if let Some(wire) = kept {
            let mut progress = Progress::default();
            let called = Box::pin(call::call(wire, &head, request, &mut progress)).await;
            // The one repetition (RFC 9110 section 9.2.2): the endpoint had closed the kept-alive connection before it said a word.
            let closed = called.is_err() && !progress.received && !progress.timed_out;
            if !closed {
                return done(tls, origin, called, &progress, in_the_clear);
            }
        }
        let to = To { origin: &origin, redirected: request.redirected, only_public: request.only_public, proxy };
        let wire = connect::connect(&self.names, &tls.config, &to, request.deadline).await?;
        let mut progress = Progress::default();
        let called = Box::pin(call::call(wire, &head, request, &mut progress)).await;
        done(tls, origin, called, &progress, in_the_clear)
    }
}

fn done(
    tls: &Tls,
    origin: Origin,
    called: Result<Called, NoAnswer>,
    progress: &Progress,
    proxy: Option<&Proxy>,
) -> Result<Answer, NoAnswer> {
    let Called { answer, wire } = called?;
    // The proxy's word about us, and none of the endpoint's about the message.
    if proxy.is_some() && answer.response.status == 407 {
        return Err(NoAnswer::new(Phase::Connect, "the proxy refuses: 407"));
    }
    if let Some(wire) = wire.filter(|_| proxy.is_none()) {
        idle::put(tls.id, origin, wire);
    }
    // A 2xx counts only from an endpoint that took the whole request: else it cannot have what it says it has.
    if progress.incomplete && (200..=299).contains(&answer.response.status) {
        return Err(NoAnswer::new(Phase::Sending, "a 2xx before the whole request was taken"));
    }
    Ok(answer)
}
