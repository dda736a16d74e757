//! Connections over a ring: the acceptor, the driver that carries octets between a connection and its session,
//! TLS, the PROXY header, and the limits.

mod acceptor;
mod buffer;
mod clocks;
mod connection;
mod finished;
mod input;
pub mod limits;
mod message;
mod pace;
mod present;
pub mod proxy;
mod stream;
pub mod tls;

pub use acceptor::{Ring, start};

use crate::config::Config;
use crate::delivery::Delivery;
use crate::message::Budget;
use crate::smtp::Settings;
use crate::stats::Stats;
use arc_swap::ArcSwap;
use limits::Limits;
use std::sync::Arc;
use tls::ServerTls;

/// What all connections of all rings share.
pub struct Shared {
    pub live: ArcSwap<Live>,
    pub tls: Arc<ServerTls>,
    pub limits: Arc<Limits>,
    pub budget: Arc<Budget>,
    pub delivery: Arc<Delivery>,
    pub stats: Arc<Stats>,
    /// 32 octets; the key of Webhook-Id.
    pub id_key: [u8; 32],
}

/// What a reload replaces; a connection keeps the settings it began with, each message sees the newest limits.
pub struct Live {
    pub config: Arc<Config>,
    pub settings: Arc<Settings>,
}

impl Live {
    #[must_use]
    pub fn of(config: Arc<Config>, postmaster: String) -> Self {
        let smtp = &config.smtp;
        let settings = Settings {
            hostname: smtp.hostname.clone(),
            postmaster,
            max_message_size: smtp.max_message_size,
            max_recipients: smtp.max_recipients,
            max_messages: smtp.max_messages_per_connection,
            max_errors: smtp.max_errors,
            max_junk: smtp.max_junk_commands,
            normalize_newlines: smtp.bare_newline == crate::config::BareNewline::Normalize,
            offer_starttls: smtp.tls.is_some(),
            require_tls: smtp.tls.as_ref().is_some_and(|tls| tls.require),
        };
        Self { config, settings: Arc::new(settings) }
    }
}

#[cfg(test)]
mod tests {
    /// A size of the allocator: one octet more costs each idle connection 64.
    #[test]
    fn an_idle_connection_is_small() {
        let octets = size_of::<super::connection::Connection>();
        assert!(octets <= 384, "{octets}");
    }
}
