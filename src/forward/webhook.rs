//! Standard Webhooks: `Webhook-Id`, `Webhook-Timestamp`, `Webhook-Signature`
//! (the specification's `v1` scheme: HMAC-SHA256 over `id.timestamp.body`).

use crate::config::Secret;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::cell::RefCell;

const ID_CONTEXT: &str = "mailsluice 2026 webhook id key";

/// The key of Webhook-Id from the configured `id_secret`.
#[must_use]
pub fn id_key(id_secret: &str) -> [u8; 32] {
    blake3::derive_key(ID_CONTEXT, id_secret.as_bytes())
}

/// Hashes a message while it arrives: keyed BLAKE3 over the reverse-path, the sorted recipients (each behind its length, so
/// that no two envelopes look alike) and the message's octets. The same for every attempt, however it was cut.
pub struct WebhookIdHasher(blake3::Hasher);

/// A message up to here is copied behind its envelope, so that BLAKE3 gets all of it at once: its blocks of 1 KiB go faster together.
const TOGETHER: usize = 16 * 1024;

impl WebhookIdHasher {
    /// BLAKE3 takes whole trees of blocks at once, but only those that begin on a border of their own size.
    pub const STEP: usize = 64 * 1024;

    /// Nothing of the message has been hashed yet.
    #[must_use]
    pub fn new(key: &[u8; 32], reverse_path: &str, recipients: &[String]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        with_envelope(reverse_path, recipients, &[], |octets| {
            hasher.update(octets);
        });
        Self(hasher)
    }

    /// The Webhook-Id of a message that has come whole.
    #[must_use]
    pub fn of(key: &[u8; 32], reverse_path: &str, recipients: &[String], message: &[u8]) -> String {
        if message.len() > TOGETHER {
            let mut hasher = Self::new(key, reverse_path, recipients);
            hasher.update(message);
            return hasher.finish();
        }
        with_envelope(reverse_path, recipients, message, |octets| webhook_id(&blake3::keyed_hash(key, octets)))
    }

    /// Hashes up to the last border; the number of octets up to there.
    pub fn update_steps(&mut self, octets: &[u8]) -> usize {
        let behind = self.0.count().wrapping_add(octets.len() as u64) % Self::STEP as u64;
        let steps = octets.len().saturating_sub(usize::try_from(behind).unwrap_or(0));
        self.0.update(octets.get(..steps).unwrap_or_default());
        steps
    }

    pub fn update(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    /// `msg_` and 32 hexadecimal digits.
    #[must_use]
    pub fn finish(&self) -> String {
        webhook_id(&self.0.finalize())
    }
}

/// What is hashed up to the end of `message`, in one piece.
fn with_envelope<T>(reverse_path: &str, recipients: &[String], message: &[u8], hash: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        /// Only its memory stays from one message to the next.
        static OCTETS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    OCTETS.with_borrow_mut(|octets| {
        octets.clear();
        let mut text = |text: &str| {
            octets.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            octets.extend_from_slice(text.as_bytes());
        };
        text(reverse_path);
        let mut sorted: Vec<&str> = recipients.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        text(&sorted.len().to_string());
        sorted.into_iter().for_each(&mut text);
        octets.extend_from_slice(message);
        let hashed = hash(octets);
        octets.shrink_to(2 * TOGETHER);
        hashed
    })
}

fn webhook_id(hash: &blake3::Hash) -> String {
    let hash = hash.to_hex();
    ["msg_", hash.as_str().get(..32).unwrap_or_default()].concat()
}

/// The value of `Webhook-Signature`: one signature per secret, so that secrets can rotate.
pub(super) fn signature<'a>(secrets: &[Secret], id: &str, timestamp: u64, body: impl Iterator<Item = &'a [u8]> + Clone) -> String {
    let signatures = secrets.iter().map(|secret| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret_octets(secret)));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        body.clone().for_each(|octets| context.update(octets));
        format!("v1,{}", STANDARD.encode(context.sign()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

/// `whsec_` and base64, as the configuration has checked.
fn secret_octets(secret: &Secret) -> Vec<u8> {
    let text = secret.expose();
    STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).unwrap_or_else(|_| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::{Secret, WebhookIdHasher, id_key, signature};
    use proptest::prelude::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_specifications_vector() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body: [&[u8]; 2] = [b"{\"test\": ", b"2432232314}"];
        let value = signature(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body.iter().copied());
        assert_eq!(value, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn one_signature_per_secret() {
        let secrets = [Secret::new("whsec_AAAA"), Secret::new("whsec_BBBB")];
        let value = signature(&secrets, "id", 1, std::iter::once(b"x".as_slice()));
        assert_eq!(value.split(' ').count(), 2);
        assert!(value.split(' ').all(|one| one.starts_with("v1,")));
    }

    #[test]
    fn envelopes_that_join_alike_differ() {
        let id = |from: &str, to: &[&str]| {
            let to: Vec<String> = to.iter().map(|&to| to.to_owned()).collect();
            WebhookIdHasher::of(&id_key("k"), from, &to, b"")
        };
        assert_ne!(id("a", &["b", "c"]), id("a", &["bc"]));
        assert_ne!(id("ab", &["c"]), id("a", &["bc"]));
        assert_eq!(id("a", &["b", "c"]), id("a", &["c", "b"]), "the order of RCPT TO does not matter");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_id(octets in proptest::collection::vec(any::<u8>(), 0..200_000), cuts in [0..200_000_usize, 0..200_000]) {
            let (key, to) = (id_key("k"), ["c@d".to_owned()]);
            let mut parts = WebhookIdHasher::new(&key, "a@b", &to);
            let mut hashed = 0;
            for cut in cuts.into_iter().filter(|cut| *cut <= octets.len()) {
                hashed += parts.update_steps(octets.get(hashed..cut).unwrap_or_default());
            }
            parts.update(&octets[hashed..]);
            prop_assert_eq!(WebhookIdHasher::of(&key, "a@b", &to, &octets), parts.finish());
        }
    }
}
