//! The TXT records that the library will ask for while it looks at one message, got by our own resolver, which keeps them.

use super::records;
use super::resolver::{Answer, NoAnswer, Resolver};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::common::to_a_label;
use mail_auth::common::verify::{DomainKey, VerifySignature as _};
use mail_auth::dkim::Signature;
use mail_auth::dmarc::Dmarc;
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_auth::{DnsError, Error, ResolverCache, Txt};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Names as the library writes them: lower case, with the last dot.
pub(super) struct Known<'a> {
    resolver: &'a Resolver,
    records: HashMap<Box<str>, Txt>,
}

impl<'a> Known<'a> {
    pub(super) fn new(resolver: &'a Resolver) -> Self {
        Self { resolver, records: HashMap::new() }
    }

    pub(super) async fn learn_key(&mut self, signature: &Signature) {
        self.learn::<DomainKey>(&signature.domain_key(), first_key).await;
    }

    /// The policy records from this domain up to its top label, as RFC 9989 section 4.10 walks them.
    pub(super) async fn learn_policies(&mut self, domain: &str) {
        let domain = to_a_label(domain).into_owned();
        let mut left = domain.split('.').filter(|label| !label.is_empty()).count();
        if left < 2 {
            return;
        }
        while left > 0 {
            self.learn::<Dmarc>(&format!("_dmarc.{}", last_labels(&domain, left)), only_policy).await;
            left = if left >= 8 { 7 } else { left - 1 };
        }
    }

    async fn learn<T: Into<Txt>>(&mut self, name: &str, read: fn(&[RData]) -> Result<T, Error>) {
        let name = name.to_fqdn();
        // What is no name the library refuses itself, without a question.
        let Ok(question) = Name::from_str_relaxed(name.as_ref()) else { return };
        if self.records.contains_key(name.as_ref()) {
            return;
        }
        let record = match self.resolver.ask(question, RecordType::TXT).await.as_deref() {
            Ok(answer @ Answer::Records(_)) => read(answer.records()),
            Ok(Answer::Nothing(code)) => Err(Error::Dns(DnsError::RecordNotFound(*code))),
            Err(NoAnswer) => Err(Error::Dns(DnsError::Resolver(String::new()))),
        };
        self.records.insert(name.as_ref().into(), record.into());
    }
}

fn texts(records: &[RData]) -> impl Iterator<Item = Vec<u8>> {
    records.iter().filter_map(|record| if let RData::TXT(text) = record { Some(text.txt_data.concat()) } else { None })
}

/// The first record that is a key for mail, or what is wrong with the last; others are as good as none.
fn first_key(records: &[RData]) -> Result<DomainKey, Error> {
    let mut result = Err(Error::Dns(DnsError::RecordNotFound(ResponseCode::NoError)));
    for text in texts(records).filter(|text| records::is_key_for_mail(text)) {
        result = DomainKey::parse(&text);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn only_policy(records: &[RData]) -> Result<Dmarc, Error> {
    let texts: Vec<_> = texts(records).collect();
    match records::policy(texts.iter().map(Vec::as_slice)) {
        Some(text) => Dmarc::parse(text.as_bytes()),
        None => Err(Error::Dns(DnsError::InvalidRecordType)),
    }
}

fn last_labels(domain: &str, count: usize) -> &str {
    let from = domain.rmatch_indices('.').nth(count - 1).map_or(0, |(dot, _)| dot + 1);
    domain.get(from..).unwrap_or(domain)
}

/// Whether the last two labels are the same.
pub(super) fn may_belong_together(one: &str, other: &str) -> bool {
    last_labels(one, 2).eq_ignore_ascii_case(last_labels(other, 2))
}

impl ResolverCache<Box<str>, Txt> for Known<'_> {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.records.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}
