//! The running fleet, as it is asked: over a connection of its own, on the fleet's thread. Logs a thread that ended with a panic.

use super::connect::{Trouble, connect, with_clock};
use super::session::check_format;
use super::shared::Shared;
use crate::config;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

/// The running sinks.
pub struct Fleet {
    pub(super) shared: Arc<Shared>,
    pub(super) reader: Arc<Reader>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: watch::Sender<bool>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// Questions that a connection keeps: to plan one over many partitions takes longer than to answer it.
const KEPT_MOST: usize = 32;
/// Tables grow, and a plan that was good for a few rows is not for many.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The connection over which questions go, made at the first.
#[derive(Default)]
pub(super) struct Reader(tokio::sync::Mutex<Option<Arc<Asked>>>);

pub(super) struct Asked {
    pub(super) client: Client,
    /// `records.settled` is there.
    pub(super) has_marks: bool,
    kept: Mutex<HashMap<String, (Instant, Statement)>>,
}

impl Asked {
    /// A question that comes again and again, planned once.
    pub(super) async fn query(&self, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Trouble> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept().get(sql).filter(|(since, _)| since.elapsed() < KEPT_FOR).map(|(_, statement)| statement.clone());
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await?;
                let mut kept = kept();
                if kept.len() >= KEPT_MOST {
                    kept.clear();
                }
                kept.insert(sql.to_owned(), (Instant::now(), statement.clone()));
                statement
            }
        };
        let answer = self.client.query(&statement, arguments).await;
        if answer.is_err() {
            // The tables may be others than when it was prepared.
            kept().remove(sql);
        }
        Ok(answer?)
    }
}

impl Reader {
    async fn asked(&self, shared: &Shared) -> Result<Arc<Asked>, Trouble> {
        let mut kept = self.0.lock().await;
        if let Some(asked) = kept.as_ref().filter(|asked| !asked.client.is_closed()) {
            return Ok(Arc::clone(asked));
        }
        let client = connect(&shared.config).await?;
        let settings = "SET statement_timeout = '20s'; SET timezone = 'UTC'; \
            SELECT set_config(name, 'force_generic_plan', false) FROM pg_settings WHERE name = 'plan_cache_mode'";
        with_clock(async { Ok(client.batch_execute(settings).await?) }).await?;
        let revision = check_format(&client, None).await?;
        let asked = Arc::new(Asked { client, has_marks: revision > 0, kept: Mutex::default() });
        *kept = Some(Arc::clone(&asked));
        Ok(asked)
    }
}

impl Fleet {
    /// Asks on the fleet's own thread, with a clock.
    pub(super) async fn ask<T: Send + 'static, F>(&self, question: impl FnOnce(Arc<Asked>) -> F + Send + 'static) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        if self.shared.config.postgres.is_none() {
            return Err(Trouble::Refused("there is no database of a fleet: set fleet.postgres".to_owned()));
        }
        let (shared, reader) = (Arc::clone(&self.shared), Arc::clone(&self.reader));
        let asked = self.runtime.spawn(with_clock(async move { question(reader.asked(&shared).await?).await }));
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
