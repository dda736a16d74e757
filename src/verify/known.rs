//! The TXT records that the library will ask for while it looks at one message, got before by our own resolver, which keeps them.

use super::records;
use super::resolver::{Answer, NoAnswer, Resolver};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::common::to_a_label;
use mail_auth::common::verify::DomainKey;
use mail_auth::dmarc::Dmarc;
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_auth::{DnsError, Error, ResolverCache, Txt};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// What a TXT record is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Policy,
}

/// By names as the library writes them: lower case, with the last dot.
#[derive(Default)]
pub(super) struct Known {
    records: HashMap<Box<str>, Txt>,
}

impl Known {
    /// What was asked for lately, and what is to be asked.
    pub(super) fn kept<'q>(resolver: &Resolver, names: impl Iterator<Item = (&'q str, Kind)>) -> (Self, Vec<(Box<str>, Kind)>) {
        let (mut known, mut missing) = (Self::default(), Vec::new());
        for (name, kind) in names {
            // As the library says it of what is no name.
            let Ok(question) = Name::from_str_relaxed(name) else {
                known.records.insert(name.into(), Txt::Error(Error::ParseError));
                continue;
            };
            match resolver.kept_answer(question, RecordType::TXT) {
                Some(answer) => drop(known.records.insert(name.into(), read(&answer, kind))),
                None => missing.push((name.into(), kind)),
            }
        }
        (known, missing)
    }

    /// Asks for all of them at once: a name whose servers are silent costs nothing but its own answer.
    pub(super) async fn learn(mut self, resolver: &Arc<Resolver>, names: Vec<(Box<str>, Kind)>, author: &str, until: Instant) -> Self {
        let mut asked = JoinSet::new();
        for (name, kind) in names {
            let resolver = Arc::clone(resolver);
            asked.spawn(async move {
                let Ok(question) = Name::from_str_relaxed(&*name) else { return (name, unknown()) };
                let answer = tokio::time::timeout_at(until.into(), resolver.ask(question, RecordType::TXT)).await;
                let record = answer.map(|answer| answer.map_or_else(|NoAnswer| unknown(), |answer| read(&answer, kind)));
                (name, record.unwrap_or_else(|_| unknown()))
            });
        }
        while let Some(answered) = asked.join_next().await {
            self.records.extend(answered);
        }
        if self.depends_on(author) {
            self.settle(author_exists(resolver, author, until).await);
        }
        self
    }

    /// A policy for names that do not exist is another than for those that do (RFC 9989 section 4.7, "np"), and it is not the author's own.
    pub(super) fn depends_on(&self, author: &str) -> bool {
        let own = policy_name(&to_a_label(author));
        let differ = |record: &Txt| matches!(record, Txt::Dmarc(policy) if policy.np != policy.sp);
        self.records.iter().any(|(name, record)| *name != own && differ(record))
    }

    /// Both become the one that counts: the library would ask by itself whether the author's name exists.
    fn settle(&mut self, exists: bool) {
        for record in self.records.values_mut() {
            if let Txt::Dmarc(policy) = record {
                let policy = Arc::make_mut(policy);
                if exists { policy.np = policy.sp } else { policy.sp = policy.np }
            }
        }
    }
}

async fn author_exists(resolver: &Resolver, author: &str, until: Instant) -> bool {
    let Ok(name) = Name::from_str_relaxed(&*to_a_label(author).to_fqdn()) else { return true };
    let found = tokio::time::timeout_at(until.into(), resolver.ask(name, RecordType::A)).await;
    !matches!(found, Ok(Ok(answer)) if matches!(*answer, Answer::Nothing(ResponseCode::NXDomain)))
}

fn read(answer: &Answer, kind: Kind) -> Txt {
    // The library reads what a stranger has published: its panic is a record that could not be had.
    let read = catch_unwind(AssertUnwindSafe(|| match (answer, kind) {
        (Answer::Records(records), Kind::Key) => first_key(records).into(),
        (Answer::Records(records), Kind::Policy) => only_policy(records).into(),
        (Answer::Nothing(code), _) => Txt::Error(Error::Dns(DnsError::RecordNotFound(*code))),
    }));
    read.unwrap_or_else(|_| unknown())
}

/// Nobody could say in time.
fn unknown() -> Txt {
    Txt::Error(Error::Dns(DnsError::Resolver(String::new())))
}

fn policy_name(domain: &str) -> Box<str> {
    format!("_dmarc.{domain}").to_fqdn().into()
}

/// The policy records from this domain up to its top label, as RFC 9989 section 4.10 walks them.
pub(super) fn policy_names(domain: &str) -> impl Iterator<Item = (Box<str>, Kind)> {
    let domain = to_a_label(domain).into_owned();
    let labels = domain.split('.').filter(|label| !label.is_empty()).count();
    let counts = std::iter::successors(Some(labels).filter(|labels| *labels >= 2), |left| match left {
        8.. => Some(7),
        left => Some(left - 1).filter(|left| *left > 0),
    });
    counts.map(move |count| (policy_name(last_labels(&domain, count)), Kind::Policy))
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

impl ResolverCache<Box<str>, Txt> for Known {
    /// What was not asked for is not known either: nobody is asked behind our back.
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        Some(self.records.get(name).cloned().unwrap_or_else(unknown))
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
