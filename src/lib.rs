//! mailsluice: SMTP in, HTTP out, nothing kept.
//!
//! The map, the promises and the index from each row of the contract to its line and its test are in
//! `ARCHITECTURE.md`. Imports point one way:
//!
//! ```text
//! main -> cli -> daemon -> net, admin -> delivery -> forward, store, route -> format, http -> verify, ring
//!      -> smtp, message, envelope, mailbox, record, stats, config, log
//! ```

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod envelope;
pub mod fleet;
pub mod format;
pub mod forward;
pub mod http;
pub mod log;
pub mod mailbox;
pub mod message;
pub mod net;
pub mod record;
pub mod ring;
pub mod route;
pub mod smtp;
pub mod stats;
pub mod store;
pub mod verify;
