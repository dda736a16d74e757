//! What the checks of one message have to ask the DNS: the keys of its signatures, and the policies of its author and of who may belong to
//! the author's organization. Read from the header block alone. Pure.

use super::known::{Kind, may_belong_together, policy_names};
use super::{author, results, signatures};
use crate::config;
use crate::envelope::Envelope;
use mail_auth::AuthenticatedMessage;
use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::common::verify::VerifySignature as _;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What stands behind that much of a header is not asked for.
const HEADER_MAX: usize = 1024 * 1024;

/// Owned: it goes to whoever asks.
pub struct Questions {
    wanted: config::Verify,
    names: HashMap<Box<str>, Kind>,
    /// The domain of the first author.
    author: String,
    signed: bool,
}

impl Questions {
    /// For a message whose header block begins with these octets.
    #[must_use]
    pub fn of(wanted: config::Verify, envelope: &Envelope, header: &[u8]) -> Self {
        let mut questions = Self { wanted, names: HashMap::new(), author: String::new(), signed: false };
        if wanted.dkim || wanted.dmarc {
            // The parser works on what a stranger sent: its panic leaves nothing to ask, and nothing known.
            let read = catch_unwind(AssertUnwindSafe(|| questions.read(envelope, header)));
            questions.signed |= read.is_err();
        }
        questions
    }

    fn read(&mut self, envelope: &Envelope, header: &[u8]) {
        let Some(mut parsed) = AuthenticatedMessage::parse(header) else { return };
        drop(signatures::set_aside(&mut parsed));
        parsed.from = author::of_message(&parsed, header);
        self.signed = !parsed.dkim_headers.is_empty();
        for header in &parsed.dkim_headers {
            self.names.insert(header.header.domain_key().to_fqdn().into(), Kind::Key);
        }
        if self.wanted.dmarc {
            self.author = parsed.from().rsplit_once('@').map_or("", |(_, domain)| domain).to_owned();
            self.names.extend(policy_names(&self.author));
            let sender = results::mail_from_domain(envelope);
            let signers = parsed.dkim_headers.iter().map(|header| header.header.d.as_str());
            for other in signers.chain([sender.as_str()]).filter(|other| may_belong_together(other, &self.author)) {
                self.names.extend(policy_names(other));
            }
        }
    }

    pub(super) fn wanted(&self) -> config::Verify {
        self.wanted
    }

    pub(super) fn wants_spf(&self) -> bool {
        self.wanted.spf || self.wanted.dmarc
    }

    pub(super) fn author(&self) -> &str {
        &self.author
    }

    pub(super) fn is_signed(&self) -> bool {
        self.signed
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.names.iter().map(|(name, kind)| (&**name, *kind))
    }
}

/// The header block of a message, as the library finds its end; cut where no header goes on.
#[must_use]
pub fn header(message: &[u8]) -> &[u8] {
    let message = message.get(..HEADER_MAX).unwrap_or(message);
    let end = memchr::memchr_iter(b'\n', message).find_map(|at| match message.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    });
    end.and_then(|end| message.get(..end)).unwrap_or(message)
}
