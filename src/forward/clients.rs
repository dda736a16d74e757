//! The routes' HTTP clients: what they trust, and what they show. Logs missing system roots.

use super::identity::Identity;
use crate::config::{self, Route};
use crate::http::{Client, Proxy, Resolver, Tls};
use rustls::client::ResolvesClientCert;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Makes the clients of a configuration.
pub(super) struct Clients {
    resolver: Arc<Resolver>,
    /// Those of the configuration in use.
    identities: Mutex<Vec<Arc<Identity>>>,
}

impl Clients {
    /// # Errors
    /// There is no thread for the names of hosts.
    pub(super) fn start(dns: &config::Dns) -> Result<Self, String> {
        let resolver =
            Resolver::start(&dns.servers, dns.timeout).map_err(|error| format!("no thread for the names of endpoints: {error}"))?;
        Ok(Self { resolver, identities: Mutex::default() })
    }

    /// The routes' clients in their order. System roots and files are read anew, so a reload takes up changed ones; kept-alive
    /// connections of the old clients are not used again.
    pub(super) fn for_routes(&self, routes: &[Arc<Route>], proxy: Option<&config::Proxy>) -> Result<Vec<Arc<Client>>, String> {
        type Settings = (Option<PathBuf>, Option<config::Identity>);
        let mut known: HashMap<Settings, Tls> = HashMap::new();
        let mut identities = Vec::new();
        let mut clients = Vec::new();
        let proxy = proxy.map(|proxy| {
            let authorization = proxy.authorization.as_ref().map(|value| value.expose().to_owned());
            Arc::new(Proxy { host: proxy.host.clone(), port: proxy.port, authorization })
        });
        for route in routes {
            let mut of = |shown: &Option<config::Identity>| {
                let settings = (route.ca_certificate.clone(), shown.clone());
                if let Some(tls) = known.get(&settings) {
                    return Ok(tls.clone());
                }
                let identity = match shown {
                    Some(files) => Some(Identity::load(files).map_err(|error| format!("route {}: {error}", route.name))?),
                    None => None,
                };
                let tls = tls(route, identity.as_ref())?;
                identities.extend(identity);
                known.insert(settings, tls.clone());
                Ok::<_, String>(tls)
            };
            let elsewhere = of(&None)?;
            clients.push(Arc::new(Client::new(of(&route.identity)?, elsewhere, self.resolver.names(), proxy.clone())));
        }
        *self.identities() = identities;
        Ok(clients)
    }

    /// Looks at the files of what is shown; says which, and when each ends (seconds since 1970).
    pub(super) fn watch(&self) -> Vec<(String, i64)> {
        let identities = self.identities().clone();
        identities.iter().filter_map(|identity| identity.watch()).collect()
    }

    fn identities(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Identity>>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls(route: &Route, identity: Option<&Arc<Identity>>) -> Result<Tls, String> {
    let trusted = match &route.ca_certificate {
        Some(path) => config::files::certificates(path, "ca_certificate").map_err(|error| format!("route {}: {error}", route.name))?,
        None => {
            let system = rustls_native_certs::load_native_certs().certs;
            if system.is_empty() {
                tracing::warn!("no system roots found, https endpoints need ca_certificate: install ca-certificates");
            }
            system
        }
    };
    let identity = identity.map(|identity| Arc::clone(identity) as Arc<dyn ResolvesClientCert>);
    Tls::new(trusted, identity).map_err(|error| match &route.ca_certificate {
        Some(path) => format!("route {}: ca_certificate: {error} in {}", route.name, path.display()),
        None => format!("no TLS for endpoints: {error}"),
    })
}
