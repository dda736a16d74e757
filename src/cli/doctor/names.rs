//! The name in the banner resolves, forth and back, and the MX records of the routes' domains point to it.

use super::Finding;
use crate::config::Config;
use crate::route::Routes;
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::net::NetError;
use mail_auth::hickory_resolver::proto::rr::{RData, Record};
use std::net::IpAddr;

/// Domains that are looked up; more routes than this are no different.
const DOMAINS: usize = 20;

pub(super) fn inspect(config: &Config) -> Vec<Finding> {
    let hostname = &config.smtp.hostname;
    if !hostname.contains('.') {
        // Where others can connect it is a warning of the configuration's.
        let all_local = config.listens_on_loopback_only();
        let finding = || Finding::fine(format!("smtp.hostname {hostname} is no name of the internet, and nothing outside can connect"));
        return all_local.then(finding).into_iter().collect();
    }
    let lookup = match Lookup::new(config) {
        Ok(lookup) => lookup,
        Err(error) => {
            return vec![Finding::warning(format!("DNS cannot be asked: {error}"), "set dns.servers, or correct /etc/resolv.conf")];
        }
    };
    let mut findings = Vec::new();
    match lookup.addresses(hostname) {
        Ok(addresses) if addresses.is_empty() => {
            findings.push(Finding::warning(format!("smtp.hostname {hostname} has no address in DNS"), "add an A (and AAAA) record for it"));
        }
        Ok(addresses) => {
            let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            findings.push(Finding::fine(format!("smtp.hostname {hostname} is {}", list.join(", "))));
            findings.extend(addresses.into_iter().map(|address| pointer(address, hostname, lookup.names_of(address))));
        }
        Err(error) => {
            // Nor would it answer the other questions, each in its own time.
            return vec![Finding::warning(
                format!("smtp.hostname {hostname}: the DNS does not say: {error}"),
                format!("set dns.servers, or mend the name server of /etc/resolv.conf; to see it: dig +short A {hostname}"),
            )];
        }
    }
    let domains = Routes::new(&config.routes).domains();
    findings.extend(domains.into_iter().take(DOMAINS).map(|domain| exchange(&domain, hostname, lookup.exchanges(&domain))));
    findings
}

fn pointer(address: IpAddr, hostname: &str, names: Result<Vec<String>, String>) -> Finding {
    let mend = format!("let the owner of the address set its PTR record to {hostname}");
    match names {
        Ok(names) if names.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Finding::fine(format!("{address} points back to {hostname}"))
        }
        Ok(names) if names.is_empty() => Finding::warning(format!("{address} has no PTR record"), mend),
        Ok(names) => Finding::warning(format!("{address} points to {}, not to {hostname}", names.join(", ")), mend),
        Err(error) => Finding::warning(format!("{address}: its PTR record is not known: {error}"), mend),
    }
}

fn exchange(domain: &str, hostname: &str, exchanges: Result<Vec<String>, String>) -> Finding {
    let mend = format!("set its MX record: {domain}. MX 10 {hostname}.");
    match exchanges {
        Ok(exchanges) if exchanges.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Finding::fine(format!("the MX record of {domain} names {hostname}"))
        }
        Ok(exchanges) if exchanges.is_empty() => Finding::warning(format!("{domain} has no MX record"), mend),
        Ok(exchanges) => Finding::warning(format!("the MX record of {domain} names {}, not {hostname}", exchanges.join(", ")), mend),
        Err(error) => Finding::warning(format!("{domain}: its MX record is not known: {error}"), mend),
    }
}

/// DNS as the daemon asks it, so `[dns]` is tried as well.
struct Lookup {
    runtime: tokio::runtime::Runtime,
    resolver: MessageAuthenticator,
}

impl Lookup {
    fn new(config: &Config) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let resolver = crate::verify::resolver(&config.dns, runtime.handle())?;
        Ok(Self { runtime, resolver })
    }

    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().lookup_ip(absolute(name)).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => none_or(error),
            }
        })
    }

    fn names_of(&self, address: IpAddr) -> Result<Vec<String>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().reverse_lookup(address).await {
                Ok(found) => Ok(names_in(found.answers())),
                Err(error) => none_or(error),
            }
        })
    }

    fn exchanges(&self, domain: &str) -> Result<Vec<String>, String> {
        self.runtime.block_on(async {
            match self.resolver.resolver().mx_lookup(absolute(domain)).await {
                Ok(found) => Ok(names_in(found.answers())),
                Err(error) => none_or(error),
            }
        })
    }
}

fn names_in(records: &[Record]) -> Vec<String> {
    let names = records.iter().filter_map(|record| {
        if let RData::MX(exchange) = &record.data {
            return Some(exchange.exchange.to_ascii());
        }
        if let RData::PTR(name) = &record.data { Some(name.to_ascii()) } else { None }
    });
    names.map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect()
}

/// That there is no record is an answer.
fn none_or<T>(error: NetError) -> Result<Vec<T>, String> {
    if error.is_no_records_found() { Ok(Vec::new()) } else { Err(error.to_string()) }
}

fn absolute(name: &str) -> String {
    format!("{name}.")
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn records_of_the_dns() {
        let address = "192.0.2.1".parse().expect("an address");
        let names = |list: &[&str]| Ok(list.iter().map(|&name| name.to_owned()).collect());
        for (found, severity, what) in [
            (names(&["MX.example.com"]), Severity::Fine, "points back"),
            (names(&["a.example.net"]), Severity::Warning, "points to a.example.net, not to"),
            (names(&[]), Severity::Warning, "has no PTR record"),
            (Err("timed out".to_owned()), Severity::Warning, "timed out"),
        ] {
            let finding = pointer(address, "mx.example.com", found);
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
        }
        for (found, severity, what) in [
            (names(&["mx2.example.com", "mx.example.com"]), Severity::Fine, "names mx.example.com"),
            (names(&["mx2.example.com"]), Severity::Warning, "not mx.example.com"),
            (names(&[]), Severity::Warning, "has no MX record"),
        ] {
            let finding = exchange("example.com", "mx.example.com", found);
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
        }
    }
}
