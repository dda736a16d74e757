//! What the tests stand on: the daemon as a process, an HTTP endpoint that misbehaves on demand, an SMTP client that sends any octets.

pub(crate) mod admin;
pub(crate) mod busy;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod endpoint;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod messages;
pub(crate) mod name_server;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod small_disk;
pub(crate) mod turn;
pub(crate) mod wait;

pub(crate) use client::Client;
pub(crate) use config::Config;
pub(crate) use daemon::Daemon;
pub(crate) use endpoint::{Answer, Endpoint, Gate, Request};
pub(crate) use name_server::{NameServer, Says};
pub(crate) use wait::{PATIENCE, eventually, eventually_within};
