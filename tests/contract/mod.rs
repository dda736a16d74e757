//! The contract, part by part.

mod accept;
mod admin;
mod answers;
mod cli;
mod config;
mod data;
mod dialogs;
mod documents;
mod formats;
mod logging;
mod places;
mod proxy;
mod recipients;
mod record;
mod refusals;
mod reload;
mod report;
mod shutdown;
mod smuggling;
mod systemd;
mod templates;
mod tls;
pub(crate) mod transcripts;
