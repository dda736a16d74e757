//! ureq agents: one for each set of trusted roots, each with its own pool of kept-alive connections.

use super::resolver::CachedResolver;
use super::transport::WatchConnector;
use crate::config::{self, Route};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};

/// A kept-alive connection is not used after this: the usual servers close theirs after five seconds.
const IDLE_AGE_MAX: Duration = Duration::from_secs(4);
/// Per connection; answers are short.
const INPUT_OCTETS: usize = 16 * 1024;
const OUTPUT_OCTETS: usize = 64 * 1024;
/// A response's header; more is no answer.
const RESPONSE_HEADER_MAX: usize = 32 * 1024;

pub(super) struct Agents {
    workers: usize,
    known: Mutex<HashMap<Option<PathBuf>, Agent>>,
}

impl Agents {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, known: Mutex::default() }
    }

    /// The routes' agents in their order. System roots and CA files are read anew, so a reload takes up changed ones; kept-alive
    /// connections of the old agents end with their last call.
    pub(super) fn for_routes(&self, routes: &[Arc<Route>]) -> Result<Vec<Agent>, String> {
        let mut known: HashMap<Option<PathBuf>, Agent> = HashMap::new();
        let mut agents = Vec::new();
        for route in routes {
            let agent = match known.get(&route.ca_certificate) {
                Some(agent) => agent.clone(),
                None => {
                    let agent = agent(roots(route)?, self.workers);
                    known.insert(route.ca_certificate.clone(), agent.clone());
                    agent
                }
            };
            agents.push(agent);
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(agents)
    }

    /// Ends every call in flight.
    pub(super) fn shutdown(&self) {
        for (_, agent) in self.known.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            agent.shutdown();
        }
    }
}

fn roots(route: &Route) -> Result<RootCerts, String> {
    let certificates: Vec<Certificate<'static>> = if let Some(path) = &route.ca_certificate {
        let chain = config::certificates(path, "ca_certificate")
            .map_err(|error| format!("route {}: ca_certificate: {error}", route.name))?;
        chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
    } else {
        let system = rustls_native_certs::load_native_certs();
        if system.certs.is_empty() {
            tracing::warn!("no system roots found, https endpoints need ca_certificate: install ca-certificates");
        }
        system.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
    };
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

fn agent(roots: RootCerts, workers: usize) -> Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("mailsluice/", env!("CARGO_PKG_VERSION")))
        .accept("*/*")
        .accept_encoding(ureq::config::AutoHeaderValue::None)
        .max_response_header_size(RESPONSE_HEADER_MAX)
        .input_buffer_size(INPUT_OCTETS)
        .output_buffer_size(OUTPUT_OCTETS)
        .max_idle_connections(workers)
        .max_idle_connections_per_host(workers)
        .max_idle_age(IDLE_AGE_MAX)
        .tls_config(tls)
        .build();
    let connector =
        ().chain(TcpConnector::default()).chain(RustlsConnector::default()).chain(WatchConnector);
    Agent::with_parts(config, connector, CachedResolver::default())
}
