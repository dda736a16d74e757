//! The effective configuration: every value known, checked, in units the code computes with.
//!
//! `file` is the file as written, `load` makes it effective section by section (`smtp`, `route`, `other`) within
//! `limits`, `files` reads what it names, `effective` prints it. Nothing here logs; all fail with a one-line [`ConfigError`].

mod clash;
pub mod development;
mod effective;
mod error;
mod file;
pub mod files;
mod fleet;
mod header;
pub mod hostname;
mod include;
pub mod limits;
mod load;
mod named;
mod other;
mod route;
mod secret;
mod smtp;
mod stamp;
mod template;
#[cfg(test)]
mod tests;
pub mod unit;

pub use effective::Values;
pub use error::{ConfigError, Place, Warning};
pub use files::{FileError, certificates, certified_key};
pub use header::fault as header_fault;
pub use include::RouteFile;
pub use named::Changes;
pub use secret::Secret;
pub use template::Templates;

use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No file was named: the development configuration.
    Development,
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub origin: Origin,
    pub smtp: Smtp,
    /// All of them, those of included files last.
    pub routes: Vec<Arc<Route>>,
    pub route_files: Vec<Arc<RouteFile>>,
    pub forward: Forward,
    pub memory: Memory,
    pub store: Store,
    pub dns: Dns,
    pub admin: Admin,
    pub log: Log,
    pub fleet: Fleet,
    pub shutdown: Shutdown,
    /// For `check` and `doctor`.
    pub warnings: Vec<Warning>,
    /// Where values stand in files of their own: the text of the configuration file, and these files.
    named: Option<Box<(Secret, named::NamedFiles)>>,
    /// Every value with its origin, for [`Config::effective_text`].
    pub values: Values,
}

/// `[smtp]`; sizes in octets.
#[derive(Clone, Debug)]
pub struct Smtp {
    pub listen: Vec<SocketAddr>,
    pub hostname: String,
    pub max_message_size: u64,
    pub max_header_size: u64,
    pub max_received: u32,
    pub max_recipients: usize,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub max_messages_per_connection: u32,
    pub max_errors: u32,
    pub max_junk_commands: u32,
    /// From the connection's start, or the last message's end, to the next data.
    pub transaction_timeout: Duration,
    pub bare_newline: BareNewline,
    pub command_timeout: Duration,
    pub data_timeout: Duration,
    pub message_timeout: Duration,
    /// Octets per second, averaged over 60 s.
    pub min_data_rate: u64,
    pub proxy_protocol_from: Vec<IpNet>,
    /// Rings; never 0 here.
    pub threads: usize,
    pub tls: Option<Tls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    Reject,
    Normalize,
}

/// `[smtp.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    pub require: bool,
    pub min_version: TlsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// One `[[route]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: String,
    /// Globs with `*`, as written.
    pub recipients: Vec<String>,
    /// Of every recipient, or with templates of an example.
    pub target: Arc<Target>,
    pub templates: Option<Box<Templates>>,
    /// The socket of a `unix:` endpoint; the target's URL is what is asked of it.
    pub socket: Option<PathBuf>,
    /// The whole `Authorization` value made of the URL's percent-decoded userinfo.
    pub authorization: Option<Secret>,
    pub format: Format,
    pub attachments: Attachments,
    pub timeout: Duration,
    /// Forwarders this route may hold; 0: a fair share.
    pub max_concurrency: usize,
    /// How many of them it uses follows what the endpoint can do.
    pub adaptive: bool,
    pub defer_statuses: Vec<u16>,
    /// As written, `whsec_` and base64.
    pub signing_secrets: Vec<Secret>,
    /// Without userinfo.
    pub authorize_url: Option<url::Url>,
    pub authorize_socket: Option<PathBuf>,
    /// As `authorization`, of `authorize_url`.
    pub authorize_authorization: Option<Secret>,
    /// Where its answer may send a message.
    pub authorize_to: Vec<AuthorizeTo>,
    pub verify: Verify,
    /// Rspamd is asked for its verdict.
    pub scan: Option<Scan>,
    pub ca_certificate: Option<PathBuf>,
    /// What we show of ourselves to the origin of the target.
    pub identity: Option<Identity>,
    /// Octets; where it is less than `smtp.max_message_size`.
    pub max_message_size: Option<u64>,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Without userinfo.
    pub url: url::Url,
    /// The route's own.
    pub headers: Vec<(String, Secret)>,
}

impl Route {
    /// Whether this endpoint is asked in the same way as the other route's: only what is said to it differs.
    #[must_use]
    pub fn asks_alike(&self, other: &Self) -> bool {
        let way = |route: &Self| (route.timeout, route.max_concurrency, route.adaptive);
        way(self) == way(other)
            && (&self.name, &self.ca_certificate, &self.identity, &self.scan)
                == (&other.name, &other.ca_certificate, &other.identity, &other.scan)
    }

    /// Where mail for this recipient goes; one without a domain is at `hostname`. `None`: the URL's path has no place for it.
    #[must_use]
    pub fn target_of(&self, recipient: &str, hostname: &str) -> Option<Arc<Target>> {
        match &self.templates {
            None => Some(Arc::clone(&self.target)),
            Some(templates) => templates.fill(&self.target, recipient, hostname).map(Arc::new),
        }
    }
}

/// Origins that an answer of `authorize_url` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizeTo {
    /// That of the route's own `url`.
    Own,
    Origin(url::Url),
    /// Any by `https`, at a public address.
    AnyPublic,
}

/// Where Rspamd is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    pub url: url::Url,
    pub socket: Option<PathBuf>,
    /// As of a route.
    pub authorization: Option<Secret>,
}

/// A client's certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Multipart,
    Raw,
    Rfc822,
    Rails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachments {
    Embed,
    Metadata,
}

/// Which checks of the sender a route wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verify {
    pub spf: bool,
    pub dkim: bool,
    pub dmarc: bool,
}

#[derive(Clone, Debug)]
pub struct Forward {
    pub workers: usize,
    /// Jobs waiting per route.
    pub queue: usize,
    pub breaker: Breaker,
    pub proxy: Option<Proxy>,
    /// Empty: the key kept beside the store.
    pub id_secret: Secret,
}

/// Of all endpoints but sockets and this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// The whole value of `Proxy-Authorization`, made of the URL's userinfo.
    pub authorization: Option<Secret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// 0: off.
    pub failures: u32,
    pub cooldown: Duration,
}

#[derive(Clone, Debug)]
pub struct Memory {
    pub body_budget: u64,
    pub per_ip_share: f64,
    /// While other routes are configured.
    pub per_route_share: f64,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub path: PathBuf,
    pub retention: Duration,
    pub max_size: u64,
    pub redact: Redact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Redact {
    pub subject: bool,
    pub sender_ip: bool,
    pub response_body: bool,
}

#[derive(Clone, Debug)]
pub struct Dns {
    /// Empty: the system's.
    pub servers: Vec<SocketAddr>,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: AdminListen,
    pub token: Option<Secret>,
    /// Where it stands.
    pub token_path: Option<PathBuf>,
    /// Further names that a request's Host may have, in lower case.
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub messages: LogMessages,
    pub redact: LogRedact,
}

/// Which messages get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMessages {
    /// What was deferred, rejected or refused.
    Problems,
    All,
    None,
}

/// What the lines of messages and refusals leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogRedact {
    pub sender: bool,
    pub recipients: bool,
    pub sender_ip: bool,
    pub message_id: bool,
    pub subject: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Journald,
    Text,
    Json,
}

/// `[fleet]`: nothing of it is there by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    pub postgres: Option<Postgres>,
    /// This box's name for people.
    pub name: String,
    pub ca_certificate: Option<PathBuf>,
    pub identity: Option<Identity>,
    pub retention: Duration,
    pub redact: Redact,
    pub otlp: Option<url::Url>,
    pub otlp_headers: Vec<(String, Secret)>,
}

/// How the fleet's database is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    pub client: tokio_postgres::Config,
    /// Encrypted, and the server's certificate verified with its name.
    pub tls: bool,
    /// Where `text` came from.
    pub file: Option<PathBuf>,
    pub text: Secret,
}

#[derive(Clone, Debug)]
pub struct Shutdown {
    pub grace: Duration,
}
