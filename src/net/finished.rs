//! A message at its end of data: delivered or refused, with its record.

use crate::delivery::{Content, Delivery, Desk, Destination, Received};
use crate::envelope::Envelope;
use crate::message::Body;
use crate::smtp::{Reply, reply};
use std::sync::Arc;
use std::time::Instant;

/// A message at its end of data. `body` is there unless it is refused.
pub(super) struct Finished {
    pub(super) envelope: Envelope,
    pub(super) destination: Option<Box<Destination>>,
    pub(super) body: Option<Body>,
    pub(super) header_len: usize,
    pub(super) message_id: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) webhook_id: String,
    pub(super) size_octets: u64,
    pub(super) refusal: Option<Reply>,
}

impl Finished {
    /// The reply to its end. `Err`: there was nothing to deliver, and there is no record.
    pub(super) async fn deliver(self, delivery: &Delivery, desk: &Desk) -> Result<Reply, Reply> {
        let Self { envelope, destination, body, header_len, message_id, subject, webhook_id, size_octets, refusal } = self;
        let Some(destination) = destination else { return Err(reply::NO_VALID_RECIPIENTS) };
        let received = Received {
            envelope: Arc::new(envelope),
            route: destination.route,
            message_id,
            subject,
            webhook_id,
            size_octets,
            ended: Instant::now(),
            date: jiff::Timestamp::now(),
        };
        match (refusal, body) {
            (None, Some(body)) => {
                let content = Content { body, header_len, target: destination.target, place: destination.place, spf: destination.spf };
                Ok(delivery.deliver(received, content, desk).await)
            }
            (Some(refusal), _) => Ok(delivery.refuse(received, refusal, desk).await),
            (None, None) => Err(reply::OUT_OF_MEMORY),
        }
    }
}
