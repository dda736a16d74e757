//! What we show of ourselves to endpoints that ask: a certificate and its key, replaced when the files change. Logs a renewed pair, and one
//! that cannot be used.

use crate::config::{self, files};
use crate::stats::Stats;
use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Identity {
    files: config::Identity,
    current: ArcSwap<CertifiedKey>,
    /// The files' content when it was last looked at: a copy with an old time stamp is new all the same.
    seen: Mutex<Option<[blake3::Hash; 2]>>,
    stats: Arc<Stats>,
}

impl Identity {
    /// # Errors
    /// The pair cannot be read, or does not belong together.
    pub(super) fn load(files: &config::Identity, stats: &Arc<Stats>) -> Result<Arc<Self>, String> {
        let seen = content(files);
        let key = files::client_key(files).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { files: files.clone(), current: ArcSwap::from_pointee(key), seen: Mutex::new(seen), stats: Arc::clone(stats) }))
    }

    /// Looks at the files: a renewed pair is shown from now on, with a broken one the old one stays. Says when what is shown ends.
    pub(super) fn watch(&self) -> Option<(String, i64)> {
        let now = content(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now != *seen {
            *seen = now;
            self.renew();
        }
        let end = files::not_after(self.current.load().cert.first()?)?;
        Some((self.files.certificate.display().to_string(), end))
    }

    fn renew(&self) {
        let file = self.files.certificate.display();
        // Who shows one that has expired is refused, often for good.
        let used = files::client_key(&self.files).map_err(|error| error.to_string()).and_then(|key| match has_expired(&key) {
            true if !has_expired(&self.current.load()) => Err("it has expired".to_owned()),
            true | false => Ok(key),
        });
        match used {
            Ok(key) => {
                self.current.store(Arc::new(key));
                tracing::info!(%file, "a renewed client certificate is in use");
            }
            Err(error) => {
                self.stats.certificates.reload_failures.add(1);
                tracing::error!(%file, %error, "a changed client certificate cannot be used, the old one stays");
            }
        }
    }
}

/// As rustls asks of it.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.files.certificate).finish()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.current.load_full();
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn has_expired(key: &CertifiedKey) -> bool {
    let end = key.cert.first().and_then(files::not_after);
    end.is_some_and(|end| end < jiff::Timestamp::now().as_second())
}

fn content(files: &config::Identity) -> Option<[blake3::Hash; 2]> {
    let hash = |path| std::fs::read(path).map(|octets| blake3::hash(&octets)).ok();
    Some([hash(&files.certificate)?, hash(&files.private_key)?])
}
