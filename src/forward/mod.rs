//! HTTP out: who may ask an endpoint when (`lanes.rs`, `lane/`), and what is sent to it.

mod answers;
mod authorize;
mod clients;
mod exchange;
mod forwarders;
mod identity;
mod job;
mod lane;
mod lanes;
mod line;
mod place;
mod pool;
mod prepare;
mod question;
mod refused;
mod scan;
#[cfg(test)]
mod tests;
pub mod webhook;

pub use crate::http::Response;
pub use forwarders::Forwarders;
pub use job::{Completed, Job, NoAnswer};
pub use place::Place;
pub use question::{Authorization, Authorized};
pub use refused::Refused;
