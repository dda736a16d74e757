//! One recipient: does a route take it, is it the transaction's route, does the user's application want it?

use super::Delivery;
use crate::config::{Format, Route, Target};
use crate::envelope::Envelope;
use crate::format::rfc822;
use crate::forward::{Authorization, Authorized, Place};
use crate::smtp::{Reply, reply};
use crate::verify::SpfResult;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An SPF check that was started at the first recipient of a route that wants it.
pub enum Spf {
    NotAsked,
    Pending(oneshot::Receiver<SpfResult>),
    Known(SpfResult),
}

impl Spf {
    /// Waits for a pending result (the verifier bounds it by `[dns] timeout`); `None` if it was not asked for or got lost.
    async fn known(&mut self) -> Option<SpfResult> {
        if let Self::Pending(receiver) = self {
            match receiver.await {
                Ok(result) => *self = Self::Known(result),
                Err(_) => *self = Self::NotAsked,
            }
        }
        match self {
            Self::Known(result) => Some(result.clone()),
            Self::NotAsked | Self::Pending(_) => None,
        }
    }

    /// What travels with the job.
    #[must_use]
    pub fn into_receiver(self) -> Option<oneshot::Receiver<SpfResult>> {
        match self {
            Self::NotAsked => None,
            Self::Pending(receiver) => Some(receiver),
            Self::Known(result) => {
                let (sender, receiver) = oneshot::channel();
                // The receiver is right here, so the value cannot be refused.
                drop(sender.send(result));
                Some(receiver)
            }
        }
    }
}

/// What a transaction has settled on: set by its first accepted recipient.
pub struct Destination {
    pub route: Arc<Route>,
    pub target: Arc<Target>,
    /// Where the application has it go instead.
    pub place: Option<Arc<Place>>,
    pub spf: Spf,
}

impl Delivery {
    /// The verdict on one `RCPT TO`; the `first` recipient that is accepted chooses the route. `envelope` makes what MAIL FROM said, for
    /// the routes that want to know.
    pub async fn recipient(
        &self,
        mailbox: &str,
        first: bool,
        envelope: impl Fn() -> Envelope,
        destination: &mut Option<Destination>,
    ) -> Result<(), Reply> {
        let recipients = &self.stats.recipients;
        let settled = {
            let live = self.live.load();
            let route = live.routes.find(mailbox).cloned();
            route.and_then(|route| Some((route.target_of(mailbox, &live.hostname)?, route)))
        };
        let Some((target, route)) = settled else {
            recipients.refused_no_route.add(1);
            return Err(reply::NO_ROUTE);
        };
        if destination.as_ref().is_some_and(|settled| settled.route.name != route.name || settled.target != target) {
            recipients.refused_other_route.add(1);
            return Err(reply::OTHER_ROUTE);
        }
        if route.format == Format::Rfc822 && !first && !rfc822::takes_another(&envelope().recipients, mailbox) {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        // Later, its data end it.
        if route.max_message_size.is_some_and(|octets| envelope().declared_size.is_some_and(|declared| declared > octets)) {
            return Err(reply::MESSAGE_TOO_LARGE);
        }
        let mut candidate = destination.take().unwrap_or_else(|| Destination {
            spf: if route.verify.spf || route.verify.dmarc {
                let envelope = envelope();
                Spf::Pending(self.verifier.spf(envelope.peer.ip, &envelope.helo, &envelope.reverse_path))
            } else {
                Spf::NotAsked
            },
            route,
            target,
            place: None,
        });
        let verdict = if candidate.route.authorize_url.is_some() {
            Box::pin(self.authorize(mailbox, first, &envelope(), &mut candidate)).await
        } else {
            Ok(())
        };
        match &verdict {
            Ok(()) => recipients.accepted.add(1),
            Err(reply) if *reply == reply::OTHER_ROUTE => recipients.refused_other_route.add(1),
            Err(_) => recipients.refused_authorization.add(1),
        }
        // A refused first recipient does not bind the transaction to its route.
        if verdict.is_ok() || !first {
            *destination = Some(candidate);
        }
        verdict
    }

    /// The first recipient that is accepted also chooses the place.
    async fn authorize(&self, mailbox: &str, first: bool, envelope: &Envelope, destination: &mut Destination) -> Result<(), Reply> {
        let spf = if destination.route.verify.spf { destination.spf.known().await } else { None };
        let question = Authorization {
            to: mailbox.to_owned(),
            from: envelope.reverse_path.clone(),
            size: envelope.declared_size,
            remote_ip: envelope.peer.ip.to_string(),
            helo_domain: envelope.helo.clone(),
            spf,
        };
        match self.forwarders.authorize(&destination.route, &destination.target, &question).await {
            Authorized::Yes(place) if first => {
                destination.place = place;
                Ok(())
            }
            Authorized::Yes(place) if place == destination.place => Ok(()),
            Authorized::Yes(_) => Err(reply::OTHER_ROUTE),
            Authorized::No(text) => Err(Reply::with_text(
                550,
                "5.7.1",
                text.as_deref().unwrap_or("The application does not accept mail for this recipient"),
                envelope.smtputf8,
            )),
            Authorized::Unknown => Err(reply::AUTHORIZATION_FAILED),
        }
    }
}
