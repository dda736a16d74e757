//! ureq agents: one for each set of trusted roots, each with its own pool of kept-alive connections.

use super::connect::Connect;
use super::resolver::CachedResolver;
use crate::config::{self, Route};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use ureq::Agent;
use ureq::config::{AutoHeaderValue, Config};

/// A kept-alive connection is not used after this: the usual servers close theirs after five seconds.
const IDLE_AGE_MAX: Duration = Duration::from_secs(4);
/// Per call; answers are short.
pub(super) const INPUT_OCTETS: usize = 16 * 1024;
pub(super) const OUTPUT_OCTETS: usize = 64 * 1024;

pub(super) struct Agents {
    workers: usize,
    /// All that somebody still holds: a lane its own, a call in flight one from before a reload.
    alive: Mutex<Vec<Weak<Agent>>>,
    resolver: CachedResolver,
}

impl Agents {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, alive: Mutex::default(), resolver: CachedResolver::default() }
    }

    /// The routes' agents in their order. System roots and CA files are read anew, so a reload takes up changed ones; kept-alive
    /// connections of the old agents end with their last call.
    pub(super) fn for_routes(&self, routes: &[Arc<Route>]) -> Result<Vec<Arc<Agent>>, String> {
        let mut known: HashMap<Option<PathBuf>, Arc<Agent>> = HashMap::new();
        let mut agents = Vec::new();
        for route in routes {
            let agent = match known.get(&route.ca_certificate) {
                Some(agent) => Arc::clone(agent),
                None => {
                    let agent = Arc::new(self.agent(roots(route)?)?);
                    known.insert(route.ca_certificate.clone(), Arc::clone(&agent));
                    agent
                }
            };
            agents.push(agent);
        }
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|agent| agent.strong_count() > 0);
        alive.extend(known.values().map(Arc::downgrade));
        Ok(agents)
    }

    /// Ends every call in flight, also those begun before a reload; later ones fail at once.
    pub(super) fn shutdown(&self) {
        for agent in self.alive.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            Agent::clone(&agent).shutdown();
        }
    }

    fn agent(&self, roots: RootCertStore) -> Result<Agent, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("no TLS for endpoints: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("mailsluice/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(INPUT_OCTETS)
            .max_idle_connections(self.workers)
            .max_idle_connections_per_host(self.workers)
            .max_idle_age(IDLE_AGE_MAX)
            .build();
        Ok(Agent::with_parts(config, Connect { tls: Arc::new(tls) }, self.resolver.clone()))
    }
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
