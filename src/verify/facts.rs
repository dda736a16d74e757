//! One message's checks, once all is known that the DNS says: parsing, hashing, comparing. Asks nobody, waits for nothing.

use super::known::Known;
use super::questions::Questions;
use super::results::{self, SpfResult, Verification};
use super::{author, signatures};
use crate::envelope::Envelope;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::{AuthenticatedMessage, MessageAuthenticator, Parameters, SpfOutput};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What is known of one message.
pub struct Facts {
    questions: Questions,
    spf: Option<SpfResult>,
    known: Known,
}

impl Facts {
    pub(super) fn new(questions: Questions, spf: Option<SpfResult>, known: Known) -> Self {
        Self { questions, spf, known }
    }

    /// Signatures are to be verified: the whole message is hashed.
    #[must_use]
    pub fn hash(&self) -> bool {
        self.questions.is_signed()
    }

    /// All the checks the route asks for.
    pub(super) fn judge(self, library: &MessageAuthenticator, envelope: &Envelope, message: &[u8]) -> Verification {
        let wanted = self.questions.wanted();
        let mut verification = Verification::default();
        if wanted.dkim || wanted.dmarc {
            // The parser and the verifier work on what a stranger sent: their panic is a result that could not be had.
            let checked = catch_unwind(AssertUnwindSafe(|| self.judge_message(library, envelope, message)));
            verification = checked.ok().flatten().unwrap_or_else(|| results::cut_off(wanted, envelope, self.spf.as_ref()));
        }
        verification.spf = self.spf.filter(|_| wanted.spf);
        verification
    }

    /// `None`: the library wants to know something that was not asked for.
    fn judge_message(&self, library: &MessageAuthenticator, envelope: &Envelope, message: &[u8]) -> Option<Verification> {
        let (wanted, spf) = (self.questions.wanted(), self.spf.as_ref());
        let Some(mut parsed) = AuthenticatedMessage::parse(message) else {
            return Some(results::unparsed(wanted, envelope, spf));
        };
        let aside = signatures::set_aside(&mut parsed);
        parsed.from = author::of_message(&parsed, message);
        let dkim = at_once(library.verify_dkim(Parameters::new(&parsed).with_txt_cache(&self.known)))?;
        let dmarc = match spf {
            Some(spf) if wanted.dmarc => Some(self.dmarc(library, envelope, &parsed, &dkim, spf)?),
            _ => None,
        };
        let signatures: Vec<_> = dkim.iter().map(results::judged).chain(aside).collect();
        Some(Verification {
            spf: None,
            dkim: wanted.dkim.then(|| results::dkim(&signatures)),
            dmarc: dmarc.zip(spf).map(|(output, spf)| results::dmarc(&output, &signatures, spf)),
            spam: None,
        })
    }

    fn dmarc(
        &self,
        library: &MessageAuthenticator,
        envelope: &Envelope,
        parsed: &AuthenticatedMessage<'_>,
        dkim: &[mail_auth::DkimOutput<'_>],
        spf: &SpfResult,
    ) -> Option<mail_auth::DmarcOutput> {
        let domain = results::mail_from_domain(envelope);
        let spf_output = SpfOutput::new(domain.clone()).with_result(results::spf_of_word(spf.result));
        let parameters = DmarcParameters {
            message: parsed,
            dkim_output: dkim,
            dkim2_output: None,
            rfc5321_mail_from_domain: &domain,
            spf_output: &spf_output,
        };
        at_once(library.verify_dmarc(Parameters::new(parameters).with_txt_cache(&self.known)))
    }
}

/// Futures of the library wait for the DNS only, and here all is known.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
