//! The certificate of `[smtp.tls]`: it belongs to its key, names this host, and does not end soon.

use super::Finding;
use crate::cli::as_daemon::AsDaemon;
use crate::config::{Config, files};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const SOON_DAYS: i64 = 14;
const DAY: i64 = 86_400;
const RENEW: &str = "renew it (certbot renew, or lego renew); the daemon takes the new one by itself within a minute";

pub(super) fn inspect(config: &Config, seen_by: &AsDaemon) -> Vec<Finding> {
    if let Err(error) = config.check_files() {
        let (what, mend) = error.what_and_mend();
        return vec![Finding::problem(seen_by.saw(&what), mend)];
    }
    let Some(tls) = &config.smtp.tls else {
        if config.listens_on_loopback_only() {
            return vec![Finding::fine("no [smtp.tls], and nothing outside can connect")];
        }
        return vec![Finding::warning(
            "no [smtp.tls]: mail comes in the clear",
            "set smtp.tls.certificate and smtp.tls.private_key (see tls.md)",
        )];
    };
    let Ok(chain) = files::certificates(&tls.certificate, "certificate") else { return Vec::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let path = tls.certificate.display().to_string();
    let mut findings: Vec<_> = chain.iter().enumerate().map(|(index, certificate)| expiry(&path, index, certificate, now)).collect();
    findings.extend(chain.first().map(|own| name(&path, own, &config.smtp.hostname)));
    findings.extend(roots().and_then(|roots| trust(&path, &chain, roots)));
    findings.extend(renewal(Path::new(LIVE), &tls.certificate, &chain));
    findings
}

/// Where certbot has what it renewed.
const LIVE: &str = "/etc/letsencrypt/live";

/// A renewed certificate that never came to where the daemon looks: the hook is missing or fails.
fn renewal(live: &Path, path: &Path, chain: &[CertificateDer<'static>]) -> Option<Finding> {
    let ours = files::not_after(chain.first()?)?;
    let names = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        Some(format!("{:?}", names.value.general_names))
    };
    let wanted = names(chain.first()?)?;
    let entries = std::fs::read_dir(live).ok()?.flatten().map(|entry| entry.path().join("fullchain.pem"));
    let newer = entries.filter(|file| file != path).find(|file| {
        let own = files::certificates(file, "certificate").ok().and_then(|chain| chain.into_iter().next());
        own.is_some_and(|own| names(&own).as_ref() == Some(&wanted) && files::not_after(&own).is_some_and(|end| end > ours))
    })?;
    let lineage = newer.parent()?.display();
    Some(Finding::warning(
        format!("{}: {} is newer: it was renewed, and not brought to where the daemon looks", path.display(), newer.display()),
        format!("RENEWED_LINEAGE={lineage} /usr/lib/mailsluice/install-certificate, and certbot reconfigure with it as --deploy-hook"),
    ))
}

/// The authorities of this machine.
fn roots() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

/// Senders that look (MTA-STS) want a chain to an authority that everybody knows.
fn trust(path: &str, chain: &[CertificateDer<'static>], roots: RootCertStore) -> Option<Finding> {
    let (own, others) = chain.split_first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(own).ok()?;
    if parsed.issuer() == parsed.subject() {
        let what = format!("{path}: signed by itself: senders that look (MTA-STS) refuse it, the others do not mind");
        return Some(Finding::warning(what, "get one of a public authority (see tls.md)"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    // Its name and its end are looked at above.
    let any = ServerName::try_from("mx.invalid").ok()?;
    let start = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(UnixTime::now().as_secs().max(start)));
    match verifier.verify_server_cert(own, others, &any, &[], now) {
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) if others.is_empty() => Some(Finding::warning(
            format!(
                "{path}: its chain is incomplete: only the server's own certificate is there, and no authority of this machine made it"
            ),
            "name the file with the whole chain (fullchain.pem, not cert.pem)",
        )),
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Some(Finding::warning(
            format!("{path}: its chain leads to no authority that this machine knows: senders that look (MTA-STS) refuse it"),
            "name a file with all certificates between the server's own and a public authority",
        )),
        _ => None,
    }
}

fn expiry(path: &str, index: usize, certificate: &CertificateDer<'_>, now: i64) -> Finding {
    let which = if index == 0 { path.to_owned() } else { format!("{path}, certificate {} of the chain", index + 1) };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Finding::problem(format!("{which}: cannot be read"), RENEW);
    };
    let validity = parsed.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let day = |seconds: i64| jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |moment| moment.to_string());
    if now < from {
        return Finding::problem(format!("{which}: not valid before {}", day(from)), "correct the clock, or take another certificate");
    }
    if now > to {
        return Finding::problem(format!("{which}: expired on {}", day(to)), RENEW);
    }
    let days = (to - now) / DAY;
    if days < SOON_DAYS {
        return Finding::warning(format!("{which}: expires in {days} days, on {}", day(to)), RENEW);
    }
    Finding::fine(format!("{which}: valid until {}", day(to)))
}

fn name(path: &str, certificate: &CertificateDer<'_>, hostname: &str) -> Finding {
    let named = ParsedCertificate::try_from(certificate).and_then(|parsed| {
        let name = ServerName::try_from(hostname).map_err(|error| rustls::Error::General(error.to_string()))?;
        rustls::client::verify_server_name(&parsed, &name)
    });
    match named {
        Ok(()) => Finding::fine(format!("{path}: names smtp.hostname {hostname}")),
        // Most senders do not look, those with MTA-STS or DANE do.
        Err(_) => Finding::warning(
            format!("{path}: does not name smtp.hostname {hostname}"),
            "get a certificate for that name, or correct smtp.hostname",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn certificate(name: &str, days: i64) -> (CertificateDer<'static>, i64) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 3, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let start = 1_767_225_600; // 2026-01-01
        (certificate.der().clone(), start + days * DAY)
    }

    #[test]
    fn expiry_in_time() {
        for (days, severity, what) in [
            (-1, Severity::Problem, "a.pem: not valid before 2026-01-01T00:00:00Z"),
            (10, Severity::Fine, "a.pem: valid until 2026-03-01T00:00:00Z"),
            (50, Severity::Warning, "a.pem: expires in 9 days, on 2026-03-01T00:00:00Z"),
            (60, Severity::Problem, "a.pem: expired on 2026-03-01T00:00:00Z"),
        ] {
            let (certificate, now) = certificate("mx.example.com", days);
            let finding = expiry("a.pem", 0, &certificate, now);
            assert_eq!((finding.severity, finding.what.as_str()), (severity, what));
        }
        let (certificate, now) = certificate("mx.example.com", 10);
        assert_eq!(expiry("a.pem", 1, &certificate, now).what, "a.pem, certificate 2 of the chain: valid until 2026-03-01T00:00:00Z");
    }

    #[test]
    fn the_name() {
        let (certificate, _) = certificate("mx.example.com", 0);
        assert_eq!(name("a.pem", &certificate, "mx.example.com").severity, Severity::Fine);
        assert_eq!(name("a.pem", &certificate, "mx2.example.com").severity, Severity::Warning);
        assert_eq!(name("a.pem", &certificate, "localhost").severity, Severity::Warning);
    }
}
