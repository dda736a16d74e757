//! The running fleet, as it is asked: over a connection of its own, on the fleet's thread. Logs a thread that ended with a panic.

use super::connect::{Trouble, connect, with_clock};
use super::session::check_format;
use super::shared::Shared;
use crate::config;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio_postgres::Client;

/// The running sinks.
pub struct Fleet {
    pub(super) shared: Arc<Shared>,
    pub(super) reader: Arc<Reader>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: watch::Sender<bool>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// The connection over which questions go, made at the first.
#[derive(Default)]
pub(super) struct Reader(tokio::sync::Mutex<Option<Arc<Client>>>);

impl Reader {
    async fn client(&self, shared: &Shared) -> Result<Arc<Client>, Trouble> {
        let mut kept = self.0.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = connect(&shared.config).await?;
        with_clock(async { Ok(client.batch_execute("SET statement_timeout = '20s'; SET timezone = 'UTC'").await?) }).await?;
        check_format(&client, None).await?;
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl Fleet {
    /// Asks on the fleet's own thread, with a clock.
    pub(super) async fn ask<T: Send + 'static, F>(&self, question: impl FnOnce(Arc<Client>) -> F + Send + 'static) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        if self.shared.config.postgres.is_none() {
            return Err(Trouble::Refused("there is no database of a fleet: set fleet.postgres".to_owned()));
        }
        let (shared, reader) = (Arc::clone(&self.shared), Arc::clone(&self.reader));
        let asked = self.runtime.spawn(with_clock(async move { question(reader.client(&shared).await?).await }));
        let answer = asked.await.unwrap_or(Err(Trouble::Stopped));
        if matches!(answer, Err(Trouble::Silent)) {
            // Something between may have forgotten this connection.
            *self.reader.0.lock().await = None;
        }
        answer
    }

    /// Whether these are the settings it runs with.
    #[must_use]
    pub fn is_of(&self, settings: &config::Fleet) -> bool {
        self.shared.config == *settings
    }

    /// It ends soon, whatever the database does.
    pub fn begin_to_end(&self) {
        self.stop.send_replace(true);
    }

    /// Returns when it has ended.
    pub fn stop(&self) {
        self.begin_to_end();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the fleet's thread ended with a panic");
        }
    }
}
