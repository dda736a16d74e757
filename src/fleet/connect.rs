//! One connection to the fleet's database. Files are read anew for each: a renewed certificate or password needs no signal. Logs nothing.

use crate::config::{self, files};
use crate::http::{Roots, Tls};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A handshake, and whatever else an answer takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What a role or a database may have set for all who come, and our statements are not made for; clocks are ours. Set where the server knows it.
const SETTINGS: [(&str, &str); 9] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    // To compile a question takes longer than any of ours.
    ("jit", "off"),
];

/// Why the database could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Files(String),
    #[error("{}", said(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// It answers, but not to us.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    #[error("the fleet has been stopped")]
    Stopped,
}

/// What the server said, in one line; what the driver says of itself hides its cause.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Trouble {
    /// The server took it for bad data, and would again.
    pub(super) fn is_data(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        // Classes of SQLSTATE: data exception, program limit exceeded. A constraint that is broken is a fault of the tables.
        error.code().is_some_and(|code| ["22", "54"].contains(&code.code().get(..2).unwrap_or_default()))
    }

    /// Somebody else's work was in the way of this statement, and of no other.
    pub(super) fn is_passing(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        let passing = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED];
        error.code().is_some_and(|code| passing.contains(code))
    }
}

/// The connection lives in a task of its own, which ends with the client.
pub(super) async fn connect(fleet: &config::Fleet) -> Result<Client, Trouble> {
    let postgres = fleet.postgres.as_ref().ok_or(Trouble::Stopped)?.fresh();
    let client = with_clock(async {
        if postgres.tls {
            let tls = MakeRustlsConnect::new(tls(fleet)?);
            let (client, connection) = postgres.client.connect(tls).await?;
            tokio::spawn(connection);
            Ok(client)
        } else {
            let (client, connection) = postgres.client.connect(NoTls).await?;
            tokio::spawn(connection);
            Ok(client)
        }
    })
    .await?;
    // Of a user whose name is the schema's, names would be written without it.
    let wanted: Vec<_> = SETTINGS.iter().map(|(name, wanted)| format!("('{name}', '{wanted}')")).collect();
    let settings = format!(
        "SET search_path = pg_catalog; SELECT set_config(s.name, s.wanted, false) FROM pg_settings JOIN (VALUES {}) AS s(name, wanted) USING (name)",
        wanted.join(", ")
    );
    with_clock(async { Ok(client.batch_execute(&settings).await?) }).await?;
    Ok(client)
}

/// Nothing waits without a clock.
pub(super) async fn with_clock<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Trouble::Silent))
}

/// Trusts what `fleet.ca_certificate` names, else the system's roots.
pub(super) fn tls(fleet: &config::Fleet) -> Result<rustls::ClientConfig, Trouble> {
    let files_error = |error: files::FileError| Trouble::Files(error.to_string());
    let trusted = match &fleet.ca_certificate {
        Some(path) => files::certificates(path, "ca_certificate").map_err(files_error)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let identity = fleet.identity.as_ref().map(files::client_key).transpose().map_err(files_error)?;
    let identity = identity.map(|key: CertifiedKey| Arc::new(SingleCertAndKey::from(key)) as Arc<dyn ResolvesClientCert>);
    let tls = Roots::new(trusted).and_then(|roots| Tls::new(&roots, identity)).map_err(Trouble::Files)?;
    let mut config = rustls::ClientConfig::clone(&tls.config());
    // This is no HTTP.
    config.alpn_protocols.clear();
    Ok(config)
}
