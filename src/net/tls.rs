//! TLS without I/O (RFC 3207): ciphertext in, plaintext out, and the other way round; and the configuration that a renewed
//! certificate replaces while connections go on.
//!
//! No tickets and no resumption: large senders have dropped sessions over them. Logs each reload and each refused pair.

use crate::config::files::{FileError, certificates, certified_key, not_after};
use crate::config::{self, TlsVersion};
use crate::stats::{Counter, TlsFailure};
use arc_swap::ArcSwapOption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{CipherSuite, ServerConfig, ServerConnection};
use server_name::Hello;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

mod server_name;
mod transcript;

/// Why a TLS session, or its configuration, came to nothing; never quotes what the peer sent.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Session(#[from] rustls::Error),
    #[error("{0}")]
    Files(#[from] FileError),
    #[error("record layer: {0}")]
    Records(std::io::Error),
    #[error("a handshake of more than {HANDSHAKE_MAX} octets")]
    Handshake,
}

impl TlsError {
    /// Why a handshake failed, for its counter.
    #[must_use]
    pub fn failure(&self) -> TlsFailure {
        use rustls::{AlertDescription as Alert, Error, PeerIncompatible as Incompatible};
        let Self::Session(error) = self else { return TlsFailure::Other };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the library may get more; they are told apart by the ones that are named")]
        match error {
            Error::PeerIncompatible(
                Incompatible::ServerTlsVersionIsDisabledByOurConfig
                | Incompatible::SupportedVersionsExtensionRequired
                | Incompatible::Tls12NotOffered
                | Incompatible::Tls12NotOfferedOrEnabled
                | Incompatible::Tls13RequiredForQuic,
            ) => TlsFailure::Version,
            Error::PeerIncompatible(_) => TlsFailure::NothingShared,
            Error::AlertReceived(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::DecryptError,
            ) => TlsFailure::Certificate,
            Error::AlertReceived(_) => TlsFailure::Alert,
            Error::InvalidMessage(_) => TlsFailure::NotTls,
            _ => TlsFailure::Other,
        }
    }
}

/// Taken where the client knows one of them, whatever it would rather have: no weaker for mail than those with SHA-384, for which few
/// processors have instructions, so that it makes a quarter of a handshake's time.
const FIRST: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// One connection's TLS session.
pub struct Tls {
    session: ServerConnection,
    /// Until the client's hello is known, what is to serve it if its server name is no name.
    nameless: Option<Arc<ServerConfig>>,
    /// A hello that has not come whole.
    hello: Vec<u8>,
    hidden: bool,
    /// Octets of the handshake so far.
    shaken: usize,
    /// Ciphertext for which the record layer had no room; looked at before anything else.
    waiting: Vec<u8>,
    peer_closed: bool,
}

/// Plaintext in the record layer, from which on it gets no more.
const PLAINTEXT_MAX: usize = 16 * 1024;

/// A client's part of a handshake is some hundred octets, a few thousand with what is new in it. Whoever sends more sends parts of a
/// message that the record layer would have to keep.
const HANDSHAKE_MAX: usize = 16 * 1024;

impl Tls {
    /// # Errors
    /// The configuration serves no suite at all.
    pub fn new(configs: &Configs) -> Result<Self, TlsError> {
        Ok(Self {
            session: ServerConnection::new(Arc::clone(&configs.usual))?,
            nameless: Some(Arc::clone(&configs.nameless)),
            hello: Vec::new(),
            hidden: false,
            shaken: 0,
            waiting: Vec::new(),
            peer_closed: false,
        })
    }

    /// Works on ciphertext, once all plaintext has been taken; on none, if it [is behind](Tls::is_behind). After an error [`Tls::take_out`] holds the alert for the peer, and the
    /// session is over.
    ///
    /// # Errors
    /// What came is no TLS, or not this session's, or a handshake without end.
    pub fn feed(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        if self.session.is_handshaking() {
            self.shaken = self.shaken.saturating_add(ciphertext.len());
            if self.shaken > HANDSHAKE_MAX {
                return Err(TlsError::Handshake);
            }
        }
        if let Some(nameless) = &self.nameless {
            self.hello.extend_from_slice(ciphertext);
            match server_name::hide(&mut self.hello) {
                Hello::Part => return Ok(()),
                Hello::Other => self.nameless = None,
                // A second hello is looked for: with a key of another group it is the same once more.
                Hello::Hidden if !self.hidden => {
                    self.session = ServerConnection::new(Arc::clone(nameless))?;
                    self.hidden = true;
                }
                Hello::Hidden => self.nameless = None,
            }
            let hello = std::mem::take(&mut self.hello);
            return self.work_on(&hello);
        }
        self.work_on(ciphertext)
    }

    fn work_on(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest = if waiting.is_empty() { ciphertext } else { &waiting };
        while !rest.is_empty() && !self.peer_closed {
            self.session.read_tls(&mut rest).map_err(TlsError::Records)?;
            let state = self.session.process_new_packets()?;
            self.peer_closed = state.peer_has_closed();
            if state.plaintext_bytes_to_read() >= PLAINTEXT_MAX {
                // The record layer refuses more while it holds so much; the end of a long record may bring it there.
                self.waiting = rest.to_vec();
                break;
            }
        }
        Ok(())
    }

    /// Ciphertext that was given is still to be worked on: feed nothing, and it is.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Plaintext in the order in which it came, as much as lies together; empty: there is none.
    pub fn plain(&mut self) -> &[u8] {
        // An error says that there is nothing now, or nothing any more.
        self.session.reader().into_first_chunk().unwrap_or_default()
    }

    /// So many octets of [`Tls::plain`] have been taken.
    pub fn consume(&mut self, octets: usize) {
        self.session.reader().consume(octets);
    }

    /// Encrypts; the records wait for [`Tls::take_out`].
    ///
    /// # Errors
    /// More was written than the record layer holds: replies are taken out after each write, so they never are.
    pub fn write_plain(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.session.writer().write_all(plaintext).map_err(TlsError::Records)
    }

    /// Appends the records that the peer has to get.
    pub fn take_out(&mut self, out: &mut Vec<u8>) {
        while self.session.wants_write() {
            // Writing to a vector cannot fail; an end is an end all the same.
            if !matches!(self.session.write_tls(out), Ok(n) if n > 0) {
                return;
            }
        }
    }

    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// The peer has said close_notify: nothing comes behind what can be taken now.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.peer_closed && self.waiting.is_empty()
    }

    /// Version and suite for the record: `TLSv1.3 TLS_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn description(&self) -> String {
        let version = self.session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let version = version.replace('_', ".");
        let suite = self.session.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        // TLS 1.3 suites are named after the version by the library (TLS13_AES_…); the registry's name has TLS_.
        let suite = suite.strip_prefix("TLS13_").map_or_else(|| suite.to_owned(), |rest| format!("TLS_{rest}"));
        format!("{version} {suite}")
    }

    /// Appends the close_notify alert (RFC 8446 section 6.1).
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.session.send_close_notify();
        self.take_out(out);
    }
}

/// The TLS configuration in use, replaced by a reload or by a renewed certificate.
pub struct ServerTls {
    current: ArcSwapOption<Configs>,
    watched: Mutex<Watched>,
}

/// One pair of files, as it is served.
pub struct Configs {
    usual: Arc<ServerConfig>,
    /// For a hello whose server name is hidden.
    nameless: Arc<ServerConfig>,
}

/// What the files were when they were last looked at.
#[derive(Default)]
struct Watched {
    files: Option<config::Tls>,
    seen: Fingerprint,
    /// Of the certificate in use, seconds since 1970.
    not_after: Option<i64>,
    /// Why what the files hold now is not in use.
    broken: Option<String>,
}

/// Content, not times: a copy with an old time stamp is still a new certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint(Option<[blake3::Hash; 2]>);

impl ServerTls {
    /// # Errors
    /// The pair cannot be read, parsed, or does not match.
    pub fn load(files: Option<&config::Tls>) -> Result<Arc<Self>, TlsError> {
        let tls = Self { current: ArcSwapOption::empty(), watched: Mutex::default() };
        tls.reload(files)?;
        Ok(Arc::new(tls))
    }

    /// # Errors
    /// As [`ServerTls::load`]; the old configuration stays.
    pub fn reload(&self, files: Option<&config::Tls>) -> Result<(), TlsError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = files.map(Fingerprint::of).unwrap_or_default();
        let configs = files.map(Configs::of).transpose()?;
        self.current.store(configs.map(Arc::new));
        let not_after = files.and_then(|files| end_of(&files.certificate));
        *watched = Watched { files: files.cloned(), seen, not_after, broken: None };
        Ok(())
    }

    /// The file of the certificate in use, and when that ends (seconds since 1970).
    #[must_use]
    pub fn not_after(&self) -> Option<(String, i64)> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        Some((watched.files.as_ref()?.certificate.display().to_string(), watched.not_after?))
    }

    /// What the next handshake uses; `None` without `[smtp.tls]`.
    #[must_use]
    pub fn config(&self) -> Option<Arc<Configs>> {
        self.current.load_full()
    }

    /// Looks at the files: a renewed pair is in use from now on; a broken one is logged and counted once, and the old one stays. Says
    /// what is wrong with the files as they are now.
    pub fn watch(&self, failures: &Counter) -> Option<String> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let files = watched.files.clone()?;
        let now = Fingerprint::of(&files);
        if now == watched.seen {
            return watched.broken.clone();
        }
        watched.seen = now;
        match Configs::of(&files) {
            Ok(configs) => {
                self.current.store(Some(Arc::new(configs)));
                watched.not_after = end_of(&files.certificate);
                watched.broken = None;
                tracing::info!(certificate = %files.certificate.display(), "renewed certificate in use");
            }
            Err(error) => {
                failures.add(1);
                tracing::error!(%error, "the changed certificate or key cannot be used, the old pair stays: mend smtp.tls");
                watched.broken = Some(format!("the changed certificate or key of smtp.tls cannot be used, the old pair stays: {error}"));
            }
        }
        watched.broken.clone()
    }
}

fn end_of(certificate: &Path) -> Option<i64> {
    not_after(certificates(certificate, "certificate").ok()?.first()?)
}

impl Fingerprint {
    fn of(files: &config::Tls) -> Self {
        let hash = |path: &Path| std::fs::read(path).ok().map(|octets| blake3::hash(&octets));
        Self(hash(&files.certificate).zip(hash(&files.private_key)).map(|(certificate, key)| [certificate, key]))
    }
}

/// What is ours of the suites, in our order.
static USUAL: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !FIRST.contains(&suite.suite()));
    Arc::new(provider)
});
static NAMELESS: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(transcript::over_what_was_sent(CryptoProvider::clone(&USUAL))));

impl Configs {
    fn of(files: &config::Tls) -> Result<Self, TlsError> {
        let versions: &[&rustls::SupportedProtocolVersion] = match files.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let resolver = Arc::new(SingleCertAndKey::from(certified_key(files)?));
        let with = |provider: &Arc<CryptoProvider>| -> Result<Arc<ServerConfig>, TlsError> {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(versions)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::<SingleCertAndKey>::clone(&resolver));
            config.ignore_client_order = true;
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Ok(Arc::new(config))
        };
        Ok(Self { usual: with(&USUAL)?, nameless: with(&NAMELESS)? })
    }
}

#[cfg(test)]
mod tests;
