//! The contract, part by part.

mod accept;
mod admin;
mod answers;
mod cli;
mod config;
mod data;
mod dialogs;
mod proxy;
mod record;
mod recipients;
mod reload;
mod shutdown;
mod smuggling;
mod tls;
