//! The files that a configuration names: certificates, keys, roots. Read by `check`, at the start and at a reload, so
//! that a pair that does not belong together is an operator's line and not a failed handshake.

use super::error::{ConfigError, Place};
use super::{Config, Identity, Route, Tls};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// What is wrong with a file, before it is known where the configuration names it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {source}")]
    Unreadable { key: &'static str, path: String, source: std::io::Error },
    #[error("{path}: {what}; {mend}")]
    Unusable { key: &'static str, path: String, what: String, mend: &'static str },
}

impl FileError {
    fn at(self, place: impl FnOnce(&str) -> Place) -> ConfigError {
        let (Self::Unreadable { key, .. } | Self::Unusable { key, .. }) = &self;
        let place = place(key);
        match self {
            Self::Unreadable { path, source, .. } => ConfigError::NamedFile { place, file: path.into(), source },
            Self::Unusable { path, what, mend, .. } => place.invalid(format!("{path}: {what}"), mend),
        }
    }
}

/// The chain and its private key, once it is sure that they belong together.
pub fn certified_key(tls: &Tls) -> Result<CertifiedKey, FileError> {
    pair((&tls.certificate, "certificate"), (&tls.private_key, "private_key"))
}

/// As [`certified_key`], of what we show to an endpoint.
pub fn client_key(identity: &Identity) -> Result<CertifiedKey, FileError> {
    pair((&identity.certificate, "client_certificate"), (&identity.private_key, "client_key"))
}

fn pair(certificate: (&Path, &'static str), private_key: (&Path, &'static str)) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate.0, certificate.1)?;
    let unusable = |what: String, mend| FileError::Unusable { key: private_key.1, path: private_key.0.display().to_string(), what, mend };
    let octets = read(private_key.0, private_key.1)?;
    let key = match PrivateKeyDer::from_pem_slice(&octets) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return Err(unusable("holds no private key".to_owned(), "name the PEM file with BEGIN PRIVATE KEY, without a passphrase"));
        }
        Err(error) => return Err(unusable(format!("is no PEM: {error}"), "name the PEM file of the private key")),
    };
    let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key).map_err(|error| {
        unusable(format!("cannot be used: {error}"), "make a key of type RSA (2048 to 8192 bits), P-256, P-384 or Ed25519")
    })?;
    if !belongs_to(&chain, &*key) {
        return Err(unusable(format!("does not belong to {}", certificate.0.display()), "name the key that the certificate was made for"));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// As rustls does for itself, which knows no certificate of version 1: what `openssl x509 -req` makes.
fn belongs_to(chain: &[CertificateDer<'_>], key: &dyn SigningKey) -> bool {
    let of_certificate = chain.first().and_then(|certificate| x509_parser::parse_x509_certificate(certificate).ok());
    match (of_certificate, key.public_key()) {
        (Some((_, certificate)), Some(public)) => certificate.public_key().raw == public.as_ref(),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// The certificates of a PEM file; at least one.
pub fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let mend = "name a PEM file with BEGIN CERTIFICATE, the server's own first";
    let unusable = |what: String| FileError::Unusable { key, path: path.display().to_string(), what, mend };
    let octets = read(path, key)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    let chain = chain.map_err(|error| unusable(format!("is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(unusable("holds no certificate".to_owned()));
    }
    for certificate in &chain {
        x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| unusable(format!("holds a certificate that cannot be read: {error}")))?;
    }
    Ok(chain)
}

/// When a certificate ends, in seconds since 1970.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Unreadable { key, path: path.display().to_string(), source })
}

/// The files that routes name; `place` says where a route's key stands.
pub(super) fn check_routes(routes: &[Arc<Route>], place: impl Fn(usize, &str) -> Place) -> Result<(), ConfigError> {
    let mut checked = HashSet::new();
    for (index, route) in routes.iter().enumerate() {
        if let Some(path) = route.ca_certificate.as_ref().filter(|path| checked.insert(*path)) {
            certificates(path, "ca_certificate").map_err(|error| error.at(|key| place(index, key)))?;
        }
        if let Some(identity) = &route.identity {
            client_key(identity).map_err(|error| error.at(|key| place(index, key)))?;
        }
    }
    Ok(())
}

impl Config {
    /// Reads every file that the configuration names and checks that it can be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        self.check_files_of(&self.routes)
    }

    /// As [`Config::check_files`], at a reload: a broken included file is nobody else's matter.
    pub fn check_own_files(&self) -> Result<(), ConfigError> {
        self.check_files_of(self.own_routes())
    }

    fn check_files_of(&self, routes: &[Arc<Route>]) -> Result<(), ConfigError> {
        if let Some(tls) = &self.smtp.tls {
            certified_key(tls).map_err(|error| error.at(|key| self.place_of("[smtp.tls]", 0, key)))?;
        }
        if let Some(path) = &self.fleet.ca_certificate {
            certificates(path, "ca_certificate").map_err(|error| error.at(|key| self.place_of("[fleet]", 0, key)))?;
        }
        if let Some(identity) = &self.fleet.identity {
            client_key(identity).map_err(|error| error.at(|key| self.place_of("[fleet]", 0, key)))?;
        }
        check_routes(routes, |index, key| self.place_of("[[route]]", index, key))
    }

    /// Those of the configuration file itself.
    pub(super) fn own_routes(&self) -> &[Arc<Route>] {
        let of_files: usize = self.route_files.iter().map(|file| file.routes.len()).sum();
        self.routes.get(..self.routes.len().saturating_sub(of_files)).unwrap_or_default()
    }

    /// Where a key stands; the `index`-th table of that header, over all files.
    pub(super) fn place_of(&self, header: &str, index: usize, key: &str) -> Place {
        let dotted = format!("{}.{key}", header.trim_matches(['[', ']']));
        let own = self.own_routes().len();
        if let (Some(mut index), "[[route]]") = (index.checked_sub(own), header) {
            for file in &self.route_files {
                if let Some(block) = file.blocks.get(index) {
                    return Place { file: file.path.display().to_string(), line: block.line(key), key: dotted };
                }
                index -= file.blocks.len();
            }
        }
        let file = match &self.origin {
            super::Origin::Development => super::development::NAME.to_owned(),
            super::Origin::File(path) => path.display().to_string(),
        };
        Place { file, line: self.values.line(header, index, key), key: dotted }
    }
}
