//! Certificates made for one test, and clients that trust them.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An authority of our own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key as files.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate chain and key, as PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_until(names, None)
    }

    /// The same, with the day on which it ends: after so many days from now.
    fn issue_until(&self, names: &[&str], days: Option<i64>) -> (String, String) {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        if let Some(days) = days {
            let end = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days));
            let [month, day] = [end.month(), end.day()].map(i8::cast_unsigned);
            params.not_after = rcgen::date_time_ymd(end.year().into(), month, day);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes `NAME.pem` and `NAME.key`, each replaced in one step.
    pub(crate) fn issue_into(&self, dir: &Path, name: &str, names: &[&str]) -> Files {
        self.issue_into_until(dir, name, names, None)
    }

    pub(crate) fn issue_into_until(&self, dir: &Path, name: &str, names: &[&str], days: Option<i64>) -> Files {
        let (certificate, key) = self.issue_until(names, days);
        let files = Files { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        for (path, text) in [(&files.certificate, certificate), (&files.key, key)] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
        files
    }

    /// A TLS client that trusts this authority and speaks these versions only.
    pub(crate) fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<rustls::ClientConfig> {
        Self::client_of_any([self], versions)
    }

    /// One that trusts each of them.
    pub(crate) fn client_of_any<'a>(
        authorities: impl IntoIterator<Item = &'a Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        }
        let builder = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// A TLS server with a certificate for these names.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.issue(names);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
