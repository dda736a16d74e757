//! SPF, DKIM and DMARC results for the envelope; never a decision.

use crate::config::Dns;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

/// `envelope.spf`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SpfResult {
    /// One of `none neutral pass fail softfail temperror permerror`.
    pub result: &'static str,
    pub domain: String,
}

/// Results of the checks a route asked for; a check that was not made is `None`.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    pub spf: Option<SpfResult>,
    pub dkim: Option<serde_json::Value>,
    pub dmarc: Option<serde_json::Value>,
}

/// Asks the DNS, on a thread of its own.
pub struct Verifier { _todo: () }

impl Verifier {
    pub fn start(_dns: &Dns, _hostname: &str) -> Result<Arc<Self>, String> { todo!() }
    /// Starts an SPF check of MAIL FROM (of HELO for the null reverse-path); never blocks.
    pub fn spf(&self, _ip: IpAddr, _helo: &str, _reverse_path: &str) -> oneshot::Receiver<SpfResult> { todo!() }
}
