//! The DKIM signatures of one message: which of them are verified at all, and what is said of the others.

use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::Algorithm;
use mail_auth::dkim::Signature;
use serde::Serialize;

/// Signatures looked at in one message: each costs a look-up and hashes.
const SIGNATURES_MAX: usize = 10;
/// Fields that one signature may name: each is looked for among all of the message's.
const FIELDS_MAX: usize = 256;

/// Octets of a name of the DNS; a longer one is none, and is not handed on.
pub(super) const NAME_MAX: usize = 253;

/// One of `dkim.result`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Judged {
    pub(super) result: &'static str,
    pub(super) domain: Option<String>,
    pub(super) selector: Option<String>,
}

impl Judged {
    pub(super) fn new(result: &'static str, signature: Option<&Signature>) -> Self {
        let name = |of: fn(&Signature) -> &String| signature.map(of).filter(|name| name.len() <= NAME_MAX).cloned();
        Self { result, domain: name(|signature| &signature.d), selector: name(|signature| &signature.s) }
    }
}

/// Takes out of the message what the library would accept and the standards do not, or what it would pass over in silence.
pub(super) fn set_aside(message: &mut AuthenticatedMessage<'_>) -> Vec<Judged> {
    let mut aside = Vec::new();
    message.dkim_headers.truncate(SIGNATURES_MAX);
    message.dkim_headers.retain(|header| {
        let refused = refusal(&header.header);
        aside.extend(refused.map(|result| Judged::new(result, Some(&header.header))));
        refused.is_none()
    });
    for header in &mut message.dkim_headers {
        // Experiments that would have more asked of the DNS, and say nothing of the signature itself (RFC 6541, RFC 6651).
        (header.header.atps, header.header.r) = (None, false);
    }
    // Fields that are no signature for their syntax; the library's errors are of other fields too.
    let room = SIGNATURES_MAX.saturating_sub(message.dkim_headers.len() + aside.len());
    let malformed = message.errors.iter().filter(|header| header.name.trim_ascii().eq_ignore_ascii_case(b"dkim-signature")).count();
    aside.extend(std::iter::repeat_n(Judged::new("neutral", None), malformed.min(room)));
    message.errors.clear();
    aside
}

fn refusal(signature: &Signature) -> Option<&'static str> {
    let names_good = signature.d.len() <= NAME_MAX && signature.s.len() <= NAME_MAX;
    if !names_good || !signature.h.iter().any(|field| field.eq_ignore_ascii_case("from")) {
        // Without the field of the author it says nothing about him (RFC 6376 sections 5.4 and 6.1.1).
        return Some("permerror");
    }
    // SHA-1 proves nothing any more (RFC 8301 section 3.1).
    (signature.a == Algorithm::RsaSha1 || signature.h.len() > FIELDS_MAX).then_some("neutral")
}
