//! The routes' HTTP clients: one for each set of trusted roots. Logs missing system roots.

use crate::config::{self, Route};
use crate::http::{Client, Resolver, Tls};
use rustls::{ClientConfig, RootCertStore};
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
                    let tls = tls(roots(route)?)?;
                    known.insert(route.ca_certificate.clone(), tls.clone());
                    tls
                }
            };
            clients.push(Arc::new(Client::new(tls, self.resolver.names())));
        }
        Ok(clients)
    }
}

fn tls(roots: RootCertStore) -> Result<Tls, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS for endpoints: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls::new(config))
}

fn roots(route: &Route) -> Result<RootCertStore, String> {
    let certificates = if let Some(path) = &route.ca_certificate {
        config::files::certificates(path, "ca_certificate").map_err(|error| format!("route {}: {error}", route.name))?
    } else {
        rustls_native_certs::load_native_certs().certs
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        match &route.ca_certificate {
            Some(path) => return Err(format!("route {}: ca_certificate: no usable certificate in {}", route.name, path.display())),
            None => tracing::warn!("no system roots found, https endpoints need ca_certificate: install ca-certificates"),
        }
    }
    Ok(roots)
}
