//! The routes' HTTP clients: one for each set of trusted roots. Logs missing system roots.

use crate::config::{self, Route};
use crate::http::{Client, Resolver, Tls};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Makes the clients of a configuration.
pub(super) struct Clients {
    resolver: Arc<Resolver>,
}

impl Clients {
    /// # Errors
    /// There is no thread for the names of hosts.
    pub(super) fn start(dns: &config::Dns) -> Result<Self, String> {
        let resolver =
            Resolver::start(&dns.servers, dns.timeout).map_err(|error| format!("no thread for the names of endpoints: {error}"))?;
        Ok(Self { resolver })
    }

    /// The routes' clients in their order. System roots and CA files are read anew, so a reload takes up changed ones; kept-alive
    /// connections of the old clients are not used again.
    pub(super) fn for_routes(&self, routes: &[Arc<Route>]) -> Result<Vec<Arc<Client>>, String> {
        let mut known: HashMap<Option<PathBuf>, Tls> = HashMap::new();
        let mut clients = Vec::new();
        for route in routes {
            let tls = match known.get(&route.ca_certificate) {
                Some(tls) => tls.clone(),
                None => {
                    let tls = tls(route)?;
                    known.insert(route.ca_certificate.clone(), tls.clone());
                    tls
                }
            };
            clients.push(Arc::new(Client::new(tls, self.resolver.names())));
        }
        Ok(clients)
    }
}

fn tls(route: &Route) -> Result<Tls, String> {
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
    Tls::new(trusted, None).map_err(|error| match &route.ca_certificate {
        Some(path) => format!("route {}: ca_certificate: {error} in {}", route.name, path.display()),
        None => format!("no TLS for endpoints: {error}"),
    })
}
