//! The library's results in the words of the contract's JSON envelope.

use super::signatures::{Judged, NAME_MAX};
use crate::config;
use crate::envelope::Envelope;
use mail_auth::dkim::DkimError;
use mail_auth::dmarc::Policy;
use mail_auth::{DkimOutput, DkimResult, DmarcOutput, DmarcResult, DnsError, Error};
use serde_json::{Value, json};

/// `envelope.spf`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SpfResult {
    /// One of `none neutral pass fail softfail temperror permerror`.
    pub result: &'static str,
    pub domain: String,
}

/// Results of the checks a route asked for; a check that was not made is `None`.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    pub spf: Option<SpfResult>,
    /// `{success, result: [{result, domain, selector}]}`.
    pub dkim: Option<Value>,
    /// `{success, result, details: {domain, policy, spf_result, dmarc_spf_result, dmarc_dkim_result, dkim_results}}`.
    pub dmarc: Option<Value>,
    /// Rspamd's: `{score, required, action, symbols}`.
    pub spam: Option<Value>,
}

pub(super) fn word_of_spf(result: mail_auth::SpfResult) -> &'static str {
    use mail_auth::SpfResult as Word;
    match result {
        Word::Pass => "pass",
        Word::Fail => "fail",
        Word::SoftFail => "softfail",
        Word::Neutral => "neutral",
        Word::TempError => "temperror",
        Word::PermError => "permerror",
        Word::None => "none",
    }
}

pub(super) fn spf_of_word(result: &str) -> mail_auth::SpfResult {
    use mail_auth::SpfResult as Word;
    match result {
        "pass" => Word::Pass,
        "fail" => Word::Fail,
        "softfail" => Word::SoftFail,
        "neutral" => Word::Neutral,
        "temperror" => Word::TempError,
        "permerror" => Word::PermError,
        _ => Word::None,
    }
}

/// The domain of the reverse-path, of HELO for the null one.
pub(super) fn mail_from_domain(envelope: &Envelope) -> String {
    envelope.reverse_path.rsplit_once('@').map_or(envelope.helo.as_str(), |(_, domain)| domain).to_owned()
}

/// RFC 8601 section 2.7.1: a signature that does not verify is `fail`; one that cannot be judged is an error.
fn dkim_word(result: &DkimResult) -> &'static str {
    match result {
        DkimResult::Pass => "pass",
        DkimResult::Fail(_) => "fail",
        DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch | DkimError::SignatureExpired)) => "fail",
        DkimResult::Neutral(Error::Dns(DnsError::RecordNotFound(_))) => "permerror",
        DkimResult::Neutral(_) => "neutral",
        DkimResult::PermError(_) => "permerror",
        DkimResult::TempError(_) => "temperror",
        DkimResult::None => "none",
    }
}

pub(super) fn judged(output: &DkimOutput<'_>) -> Judged {
    Judged::new(dkim_word(output.result()), output.signature())
}

pub(super) fn dkim(signatures: &[Judged]) -> Value {
    let success = signatures.iter().any(|signature| signature.result == "pass");
    json!({ "success": success, "result": signatures })
}

fn dmarc_word(result: &DmarcResult) -> &'static str {
    match result {
        DmarcResult::Pass => "pass",
        DmarcResult::Fail(_) => "fail",
        DmarcResult::TempError(_) => "temperror",
        DmarcResult::PermError(_) => "permerror",
        DmarcResult::None => "none",
    }
}

pub(super) fn dmarc(output: &DmarcOutput, signatures: &[Judged], spf: &SpfResult) -> Value {
    let policy = match output.policy() {
        Policy::Reject => "reject",
        Policy::Quarantine => "quarantine",
        Policy::None => "none",
        Policy::Unspecified => "",
    };
    let published = output.dmarc_record().is_some();
    let (by_spf, by_dkim) = (output.spf_result(), output.dkim_result());
    let result = match (by_spf, by_dkim) {
        (DmarcResult::Pass, _) | (_, DmarcResult::Pass) => "pass",
        (DmarcResult::TempError(_), _) | (_, DmarcResult::TempError(_)) => "temperror",
        (DmarcResult::PermError(_), _) | (_, DmarcResult::PermError(_)) => "permerror",
        // Nothing aligned passed although a policy asks for it (RFC 9989 section 4.10).
        _ if published => "fail",
        _ => "none",
    };
    json!({
        "success": result == "pass",
        "result": result,
        "details": {
            "domain": Some(output.domain()).filter(|domain| domain.len() <= NAME_MAX).unwrap_or_default(),
            "policy": policy,
            "spf_result": spf.result,
            "dmarc_spf_result": dmarc_word(by_spf),
            "dmarc_dkim_result": dmarc_word(by_dkim),
            "dkim_results": signatures,
        }
    })
}

/// What is said when time ran out or the library gave up.
pub(super) fn cut_off(wanted: config::Verify, envelope: &Envelope, spf: Option<&SpfResult>) -> Verification {
    without_message(wanted, envelope, spf, "temperror")
}

/// A message without a header has no signature and no author.
pub(super) fn unparsed(wanted: config::Verify, envelope: &Envelope, spf: Option<&SpfResult>) -> Verification {
    without_message(wanted, envelope, spf, "none")
}

fn without_message(wanted: config::Verify, envelope: &Envelope, spf: Option<&SpfResult>, word: &'static str) -> Verification {
    let signatures = match word {
        "none" => json!([]),
        _ => json!([{ "result": word, "domain": null, "selector": null }]),
    };
    let dmarc = json!({
        "success": false,
        "result": word,
        "details": {
            "domain": mail_from_domain(envelope),
            "policy": "",
            "spf_result": spf.map(|spf| spf.result),
            "dmarc_spf_result": word,
            "dmarc_dkim_result": word,
            "dkim_results": signatures,
        }
    });
    Verification {
        spf: None,
        dkim: wanted.dkim.then(|| json!({ "success": false, "result": signatures })),
        dmarc: wanted.dmarc.then_some(dmarc),
        spam: None,
    }
}
