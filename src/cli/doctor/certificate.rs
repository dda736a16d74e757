//! The certificate of `[smtp.tls]`: it belongs to its key, names this host, and does not end soon.

use super::Finding;
use crate::config::{Config, files};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use std::time::{SystemTime, UNIX_EPOCH};

const SOON_DAYS: i64 = 14;
const DAY: i64 = 86_400;
const RENEW: &str = "renew it (certbot renew, or lego renew); the daemon takes the new one by itself within a minute";

pub(super) fn inspect(config: &Config) -> Vec<Finding> {
    if let Err(error) = config.check_files() {
        return vec![Finding::problem(error.to_string(), "")];
    }
    let Some(tls) = &config.smtp.tls else {
        if config.smtp.listen.iter().all(|address| address.ip().is_loopback()) {
            return vec![Finding::fine("no [smtp.tls], and nothing outside can connect")];
        }
        return vec![Finding::warning(
            "no [smtp.tls]: mail comes in the clear",
            "set smtp.tls.certificate and smtp.tls.private_key (see tls.md)",
        )];
    };
    let chain = match files::certificates(&tls.certificate, "certificate") {
        Ok(chain) => chain,
        Err(error) => return vec![Finding::problem(error.to_string(), "")],
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let path = tls.certificate.display().to_string();
    let mut findings: Vec<_> = chain.iter().enumerate().map(|(index, certificate)| expiry(&path, index, certificate, now)).collect();
    findings.extend(chain.first().map(|own| name(&path, own, &config.smtp.hostname)));
    findings
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
