//! The routes' HTTP clients: what they trust, and what they show. Logs missing system roots.

use super::identity::Identity;
use crate::config::{self, Route};
use crate::http::{Client, Proxy, Resolver, Roots, Tls};
use crate::stats::Stats;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes the clients of a configuration.
pub(super) struct Clients {
    resolver: Arc<Resolver>,
    /// Of the configuration in use.
    trusted: Mutex<HashMap<Settings, Trusted>>,
    /// The proxy that they ask through.
    proxied: Mutex<Option<config::Proxy>>,
    stats: Arc<Stats>,
}

/// The authority's file, and what is shown.
type Settings = (Option<PathBuf>, Option<config::Identity>);

/// What was made of settings, and of which certificates: while these are the same, kept-alive connections are good.
#[derive(Clone)]
struct Trusted {
    certificates: blake3::Hash,
    identity: Option<Arc<Identity>>,
    tls: Tls,
}

impl Clients {
    /// # Errors
    /// There is no thread for the names of hosts.
    pub(super) fn start(dns: &config::Dns, stats: &Arc<Stats>) -> Result<Self, String> {
        let resolver =
            Resolver::start(&dns.servers, dns.timeout).map_err(|error| format!("no thread for the names of endpoints: {error}"))?;
        Ok(Self { resolver, trusted: Mutex::default(), proxied: Mutex::default(), stats: Arc::clone(stats) })
    }

    /// The routes' clients in their order. System roots and files are read anew, so a reload takes up changed ones; where nothing has changed
    /// `before` stays, with its kept-alive connections. What cannot be made is an error for its routes.
    pub(super) fn for_routes(
        &self,
        routes: &[Arc<Route>],
        proxy: Option<&config::Proxy>,
        before: impl Fn(&Route) -> Option<Arc<Client>>,
    ) -> Vec<Result<Arc<Client>, String>> {
        if self.proxied().as_ref() != proxy {
            // Connections that were made in another way are not used again.
            *self.proxied() = proxy.cloned();
            self.trusted().clear();
        }
        let proxy = proxy.map(asked_through);
        let mut read = HashMap::new();
        let mut new: HashMap<Settings, Result<Trusted, String>> = HashMap::new();
        let mut clients = Vec::with_capacity(routes.len());
        for route in routes {
            let mut of = |shown: &Option<config::Identity>| {
                let settings = (route.ca_certificate.clone(), shown.clone());
                if let Some(made) = new.get(&settings) {
                    return made.as_ref().map(|made| made.tls.clone()).map_err(Clone::clone);
                }
                let certificates = read.entry(route.ca_certificate.clone()).or_insert_with(|| Certificates::read(&route.ca_certificate));
                let old = self.trusted().get(&settings).cloned();
                let made = certificates
                    .as_mut()
                    .map_err(|error| error.clone())
                    .and_then(|certificates| certificates.trusted(shown, old, &self.stats));
                let made = made.map_err(|error| format!("route {}: {error}", route.name));
                let tls = made.as_ref().map(|made| made.tls.clone()).map_err(Clone::clone);
                new.insert(settings, made);
                tls
            };
            let both = of(&None).and_then(|elsewhere| Ok((of(&route.identity)?, elsewhere)));
            clients.push(both.map(|(tls, elsewhere)| {
                let same = before(route).filter(|client| client.is_with(&tls, &elsewhere));
                same.unwrap_or_else(|| Arc::new(Client::new(tls, elsewhere, self.resolver.names(), proxy.clone())))
            }));
        }
        let mut trusted = self.trusted();
        // What is broken now stays in use as it was.
        let broken = new.iter().filter(|(_, made)| made.is_err()).filter_map(|(settings, _)| trusted.get_key_value(settings));
        let broken: Vec<_> = broken.map(|(settings, old)| (settings.clone(), old.clone())).collect();
        *trusted = new.into_iter().filter_map(|(settings, made)| Some((settings, made.ok()?))).chain(broken).collect();
        clients
    }

    /// Those of the routes that came instead of others, where neither whom all routes trust nor what they show has changed. `None`: all have to
    /// be looked at.
    pub(super) fn for_changed(
        &self,
        gone: &[Arc<Route>],
        come: &[Arc<Route>],
        before: impl Fn(&Route) -> Option<Arc<Client>>,
    ) -> Option<Vec<Arc<Client>>> {
        let trusted = self.trusted();
        let settings = |route: &Route| (route.ca_certificate.clone(), route.identity.clone());
        let shown: HashSet<Settings> = come.iter().map(|route| settings(route)).chain([(None, None)]).collect();
        let files: HashSet<&Option<PathBuf>> = trusted.keys().map(|(file, _)| file).collect();
        let hashes: HashMap<_, _> = files.into_iter().map(|file| (file, Certificates::read(file).ok().map(|read| read.hash))).collect();
        let as_before = |(settings, made): (&Settings, &Trusted)| hashes.get(&settings.0) == Some(&Some(made.certificates));
        // Nobody else may have had what is of no use any more.
        if !trusted.iter().all(as_before) || !gone.iter().all(|route| shown.contains(&settings(route))) {
            return None;
        }
        trusted.values().filter_map(|made| made.identity.as_ref()).for_each(|identity| _ = identity.watch());
        let proxy = self.proxied().as_ref().map(asked_through);
        let client = |route: &Arc<Route>| {
            let tls = &trusted.get(&settings(route))?.tls;
            let elsewhere = &trusted.get(&(route.ca_certificate.clone(), None))?.tls;
            let same = before(route).filter(|client| client.is_with(tls, elsewhere));
            Some(same.unwrap_or_else(|| Arc::new(Client::new(tls.clone(), elsewhere.clone(), self.resolver.names(), proxy.clone()))))
        };
        come.iter().map(client).collect()
    }

    /// Looks at the files of what is shown; says which, and when each ends (seconds since 1970).
    pub(super) fn watch(&self) -> Vec<(String, i64)> {
        let identities: Vec<_> = self.trusted().values().filter_map(|trusted| trusted.identity.clone()).collect();
        identities.iter().filter_map(|identity| identity.watch()).collect()
    }

    fn proxied(&self) -> MutexGuard<'_, Option<config::Proxy>> {
        self.proxied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trusted(&self) -> MutexGuard<'_, HashMap<Settings, Trusted>> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asked_through(proxy: &config::Proxy) -> Arc<Proxy> {
    let authorization = proxy.authorization.as_ref().map(|value| value.expose().to_owned());
    Arc::new(Proxy { host: proxy.host.clone(), port: proxy.port, authorization })
}

/// Whom a route trusts.
struct Certificates {
    path: Option<PathBuf>,
    all: Vec<CertificateDer<'static>>,
    hash: blake3::Hash,
    /// Made of them once, however many identities are shown to who has them.
    roots: Option<Roots>,
}

impl Certificates {
    fn read(path: &Option<PathBuf>) -> Result<Self, String> {
        let all = match path {
            Some(path) => config::files::certificates(path, "ca_certificate").map_err(|error| error.to_string())?,
            None => {
                let system = rustls_native_certs::load_native_certs().certs;
                if system.is_empty() {
                    tracing::warn!("no system roots found, https endpoints need ca_certificate: install ca-certificates");
                }
                system
            }
        };
        let mut hasher = blake3::Hasher::new();
        all.iter().for_each(|certificate| _ = hasher.update(certificate));
        Ok(Self { path: path.clone(), all, hash: hasher.finalize(), roots: None })
    }

    /// `old` is what was made of the same settings before.
    fn trusted(&mut self, shown: &Option<config::Identity>, old: Option<Trusted>, stats: &Arc<Stats>) -> Result<Trusted, String> {
        if let Some(old) = old.as_ref().filter(|old| old.certificates == self.hash) {
            // It looks after its own files.
            old.identity.iter().for_each(|identity| _ = identity.watch());
            return Ok(old.clone());
        }
        let identity = match (shown, old.and_then(|old| old.identity)) {
            (Some(_), Some(identity)) => Some(identity),
            (Some(files), None) => Some(Identity::load(files, stats)?),
            (None, _) => None,
        };
        let resolver = identity.clone().map(|identity| identity as Arc<dyn ResolvesClientCert>);
        let failed = |error| match &self.path {
            Some(path) => format!("ca_certificate: {error} in {}", path.display()),
            None => format!("no TLS for endpoints: {error}"),
        };
        let roots = match self.roots.take() {
            Some(roots) => roots,
            None => Roots::new(self.all.clone()).map_err(failed)?,
        };
        let tls = Tls::new(self.roots.insert(roots), resolver).map_err(failed)?;
        Ok(Trusted { certificates: self.hash, identity, tls })
    }
}
