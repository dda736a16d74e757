//! TLS with endpoints: whom we trust, and what we show of ourselves. A certificate that is given by name means exactly that
//! certificate, also where it calls itself an authority, as plain `openssl req -x509` makes them. Logs nothing.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Tells the connections under one set of settings from those under another, also over a reload.
static MADE: AtomicU64 = AtomicU64::new(0);

/// One set of settings.
#[derive(Clone)]
pub struct Tls {
    pub(super) id: u64,
    pub(super) config: Arc<ClientConfig>,
}

/// Certificates that are trusted, as authorities, and each for itself: made once for all who trust the same. Without any nobody is.
#[derive(Clone)]
pub struct Roots(Option<Arc<Trust>>);

impl Roots {
    /// # Errors
    /// None of them can be used, which is no error where there are none.
    pub fn new(trusted: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        if roots.is_empty() {
            return if trusted.is_empty() { Ok(Self(None)) } else { Err("no usable certificate".to_owned()) };
        }
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|error| error.to_string())?;
        Ok(Self(Some(Arc::new(Trust { authorities, named: trusted }))))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Tls {
    /// # Errors
    /// TLS cannot be had.
    pub fn new(roots: &Roots, identity: Option<Arc<dyn ResolvesClientCert>>) -> Result<Self, String> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = match &roots.0 {
            None => builder.with_root_certificates(RootCertStore::empty()),
            Some(trust) => builder.dangerous().with_custom_certificate_verifier(Arc::clone(trust) as Arc<dyn ServerCertVerifier>),
        };
        let mut config = match identity {
            Some(identity) => {
                let mut config = builder.with_client_cert_resolver(identity);
                // A session that is resumed is that of the certificate it began with, renewed or not.
                config.resumption = Resumption::disabled();
                config
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { id: MADE.fetch_add(1, Ordering::Relaxed), config: Arc::new(config) })
    }

    /// For who shakes hands elsewhere than on a ring.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

#[derive(Debug)]
struct Trust {
    authorities: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verified.is_ok() || !self.named.iter().any(|named| named == end_entity) {
            return verified;
        }
        // No chain is needed to the certificate itself; its time and its name count all the same.
        in_its_time(end_entity, now)?;
        is_for(end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn in_its_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = parsed(certificate)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

/// By its alternative names; one that has none is known by its common name, as curl takes it.
fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let by_names = verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
    let other = parsed(certificate)?;
    if by_names.is_ok() || other.subject_alternative_name().is_ok_and(|names| names.is_some()) {
        return by_names;
    }
    let common =
        other.subject().iter_common_name().any(|common| common.as_str().is_ok_and(|text| text.eq_ignore_ascii_case(&name.to_str())));
    if common { Ok(()) } else { by_names }
}
