//! The sink that is PostgreSQL: goes on whatever becomes of a connection. Logs once when it goes and once when it is back.

use super::connect::{Trouble, with_clock};
use super::session::{Session, Standing};
use super::shared::Shared;
use super::shipper::{Answer, Batch, News, Shipper, mend};
use super::{erasure, latency, query};
use crate::record::Record;
use crate::stats::Sink;
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const NAME: &str = "postgres";
/// So often the others hear of a box that has nothing to bring.
const BEAT: Duration = Duration::from_secs(3);
const KEEP_CURSOR: Duration = Duration::from_secs(1);
/// The undelivered messages of all boxes are counted so often.
const COUNT: Duration = Duration::from_secs(20);
/// Of one stage, in one statement.
const MINUTES: usize = 500;
/// Records that an erasure changed, in one statement.
const CHANGES: usize = 500;
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// A record that is so far ahead of the server's clock is kept apart from its day.
const CLOCK_AHEAD: Duration = Duration::from_secs(60);

struct Postgres<'s> {
    shared: &'s Arc<Shared>,
    shipper: Shipper,
    /// Up to this number records may have been changed while nobody took note of it.
    update_through: u64,
    kept: (u64, u64, u64),
    cursor_kept: Instant,
    /// Already logged: said once.
    said_lost: u64,
    /// An erasure of this box's store that is under way.
    forgetting: Option<(i64, JoinHandle<Result<u64, StoreError>>)>,
    /// Signed as soon as what was changed is brought.
    forgotten: Vec<i64>,
    /// Erasures that all have signed.
    finishing: Option<JoinHandle<()>>,
}

/// Brings records until it is stopped.
pub(super) async fn run(shared: &Arc<Shared>) {
    let seed = u64::from_str_radix(shared.token.get(..8).unwrap_or_default(), 16).unwrap_or(1);
    let newest = shared.store.newest();
    let kept = shared.place.progress(NAME);
    // Where erasures were not noted, all may have changed.
    let was_noted = shared.store.keep_changes(true).unwrap_or_else(|error| {
        tracing::warn!(%error, "what forget changes cannot be noted for the fleet");
        false
    });
    // A store that was begun anew counts from one.
    let cursor = kept.map(|(cursor, ..)| cursor).filter(|cursor| was_noted && *cursor <= newest);
    let mut shipper = Shipper::new(cursor, seed);
    (shipper.lost, shipper.mended) = kept.map_or((0, 0), |(_, lost, mended)| (lost, mended));
    let update_through = if kept.is_some() && cursor.is_none() { newest } else { 0 };
    shared.stats.minutes.want(NAME);
    let said_lost = shipper.lost;
    let mut this = Postgres {
        shared,
        shipper,
        update_through,
        kept: kept.unwrap_or_default(),
        cursor_kept: Instant::now(),
        said_lost,
        forgetting: None,
        forgotten: Vec::new(),
        finishing: None,
    };
    while !shared.is_stopping() {
        let trouble = match Session::open(shared).await {
            Ok(session) => this.serve(session).await.err(),
            Err(trouble) => Some(trouble),
        };
        if let Some(trouble) = trouble.filter(|_| !shared.is_stopping()) {
            this.failed(&trouble, None);
            this.show(false);
            shared.stats.fleet.set_undelivered(None);
            shared.pause(this.shipper.wait()).await;
        }
    }
    this.keep_cursor(true);
}

impl Postgres<'_> {
    async fn serve(&mut self, mut session: Session) -> Result<(), Trouble> {
        let shared = self.shared;
        let (mut beat, mut kept_house, mut looked, mut counted) = (Instant::now(), None::<Instant>, None::<Instant>, None::<Instant>);
        while !shared.is_stopping() {
            if kept_house.is_none_or(|last| last.elapsed() >= HOUSEKEEPING) {
                session.keep_partitions(shared).await?;
                kept_house = Some(Instant::now());
            }
            if looked.is_none_or(|last| last.elapsed() >= erasure::LOOK) {
                self.erase(&session).await?;
                looked = Some(Instant::now());
            }
            if counted.is_none_or(|last| last.elapsed() >= COUNT) {
                let undelivered = with_clock(query::count_undelivered(&session.client)).await?;
                shared.stats.fleet.set_undelivered(Some(undelivered));
                counted = Some(Instant::now());
            }
            let is_idle = !self.bring(&mut session).await?;
            let is_idle = !self.bring_changes(&mut session).await? && is_idle;
            if is_idle {
                self.bring_minutes(&session).await?;
                if beat.elapsed() >= BEAT {
                    session.beat(shared, self.standing(None)).await?;
                    beat = Instant::now();
                }
                self.reached(&session);
            }
            self.keep_cursor(false);
            self.show(true);
            shared.pause(self.shipper.wait()).await;
        }
        session.leave(shared).await
    }

    /// One batch; whether there was one.
    async fn bring(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        let read = self.shared.store.records_after(self.shipper.after(), self.shipper.limit())?;
        let Some(batch) = self.shipper.batch(read) else { return Ok(false) };
        let standing = self.standing(Some(&batch));
        let brought = if batch.last <= self.update_through {
            session.change(self.shared, batch.records.clone(), standing).await
        } else {
            session.bring(self.shared, batch.clone(), standing).await
        };
        match brought {
            Ok(()) => self.heard(&batch, Answer::Taken),
            Err(trouble) if trouble.is_data() => self.heard(&batch, Answer::Refused),
            Err(trouble) => return Err(trouble),
        }
        Ok(true)
    }

    async fn bring_minutes(&self, session: &Session) -> Result<(), Trouble> {
        let minutes = self.shared.stats.minutes.next(NAME, MINUTES);
        if !minutes.is_empty() {
            with_clock(latency::bring(&session.client, &self.shared.box_id, &minutes)).await?;
            self.shared.stats.minutes.taken(NAME, minutes.len());
        }
        Ok(())
    }

    fn heard(&mut self, batch: &Batch, answer: Answer) {
        match self.shipper.answered(batch, answer) {
            News::None | News::Gone => {}
            News::Back => self.say_back(),
            News::Lost => {
                let id = batch.records.first().map(|record| record.id.to_string()).unwrap_or_default();
                tracing::error!(id, "the fleet's database takes this record in no form: it is in this box's store alone");
            }
        }
        if self.shipper.lost > self.said_lost {
            tracing::warn!(records = self.shipper.lost - self.said_lost, "records went before the fleet's database had them");
            self.said_lost = self.shipper.lost;
        }
    }

    /// What `forget` changed of records that are there already. In the midst of an erasure the store still reads as before it.
    async fn bring_changes(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        let store = &self.shared.store;
        let Some(quiet) = store.quiet_since() else { return Ok(false) };
        let changes = store.changes_after(0, CHANGES)?;
        let Some(last) = changes.last().map(|change| change.position) else { return Ok(false) };
        if store.quiet_since() != Some(quiet) {
            return Ok(false);
        }
        // Also those before the cursor: after a kill it is behind what was brought. One that changed twice is there once.
        let known = changes.into_iter().filter_map(|change| change.record);
        let records: BTreeMap<u128, Record> = known.map(|record| (record.id.0, record)).collect();
        let mut records: Vec<_> = records.into_values().collect();
        records.iter_mut().for_each(mend);
        if !records.is_empty() {
            session.change(self.shared, records, self.standing(None)).await?;
        }
        store.changes_taken(last);
        Ok(true)
    }

    /// What `forget --fleet` asks of this box, one address after the other; and what is left when no box is missing.
    async fn erase(&mut self, session: &Session) -> Result<(), Trouble> {
        let shared = self.shared;
        if let Some((id, task)) = self.forgetting.take_if(|(_, task)| task.is_finished()) {
            match task.await {
                Ok(Ok(records)) => {
                    tracing::info!(records, "an address was erased from the store, as the fleet was asked to");
                    self.forgotten.push(id);
                }
                Ok(Err(error)) => tracing::error!(%error, "an address that the fleet was asked to erase is still in the store"),
                Err(_) => {}
            }
        }
        let store = &shared.store;
        if !self.forgotten.is_empty() && store.quiet_since().is_some() && store.changes_after(0, 1)?.is_empty() {
            for id in &self.forgotten {
                with_clock(erasure::sign(&session.client, *id, &shared.box_id)).await?;
            }
            self.forgotten.clear();
        }
        let asked = with_clock(erasure::asked(&session.client, &shared.box_id)).await?;
        let next = asked.into_iter().find(|(id, _)| !self.forgotten.contains(id));
        if let Some((id, address)) = next.filter(|_| self.forgetting.is_none()) {
            let (store, stats) = (Arc::clone(store), Arc::clone(&shared.stats));
            let task = tokio::task::spawn_blocking(move || {
                stats.refusals.forget(&address);
                store.forget(&address)
            });
            self.forgetting = Some((id, task));
        }
        if self.finishing.as_ref().is_none_or(JoinHandle::is_finished) {
            let erasures = with_clock(erasure::signed_by_all(&session.client)).await?;
            let shared = Arc::clone(shared);
            self.finishing = (!erasures.is_empty()).then(|| {
                tokio::spawn(async move {
                    match tokio::time::timeout(erasure::FINISH, erasure::finish(&shared, &erasures)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(trouble)) => tracing::warn!("an erasure in the fleet's database waits: {trouble}"),
                        Err(_) => tracing::warn!("an erasure in the fleet's database took too long, and begins again"),
                    }
                })
            });
        }
        Ok(())
    }

    /// Where this box stands, or will when the batch is there.
    fn standing(&self, batch: Option<&Batch>) -> Standing {
        let newest = self.shared.store.newest();
        let behind = newest.saturating_sub(batch.map_or(self.shipper.after(), |batch| batch.last));
        let oldest = batch.filter(|_| behind > 0).and_then(|batch| batch.records.last());
        Standing {
            behind,
            oldest_us: oldest.map(|record| record.date.as_microsecond()),
            lost: self.shipper.lost + batch.map_or(0, |batch| batch.gone),
            mended: self.shipper.mended,
        }
    }

    fn failed(&mut self, trouble: &Trouble, asked: Option<Duration>) {
        let notice = format!("the fleet's database: {trouble}");
        match trouble {
            Trouble::Store(StoreError::Closed) => {}
            _ if self.shipper.failed(asked) == News::Gone => {
                tracing::warn!("the fleet's database cannot be used: {trouble}; records wait in the store");
                self.shared.stats.notices.set("fleet", Some(notice));
            }
            // Another reason than before, of those that only people can mend.
            Trouble::Refused(_) | Trouble::Files(_) => {
                if self.shared.stats.notices.set("fleet", Some(notice)) {
                    tracing::warn!("the fleet's database cannot be used: {trouble}");
                }
            }
            Trouble::Postgres(_) | Trouble::Silent | Trouble::Store(_) | Trouble::Stopped => {
                self.shared.stats.notices.set("fleet", Some(notice));
            }
        }
    }

    fn reached(&mut self, session: &Session) {
        if self.shipper.reached() == News::Back {
            self.say_back();
        }
        let ahead = session.clock_ahead();
        let notice = (ahead > CLOCK_AHEAD).then(|| format!("this machine's clock is {} s ahead of the fleet's database", ahead.as_secs()));
        self.shared.stats.notices.set("fleet", notice);
    }

    fn say_back(&self) {
        tracing::info!(behind = self.standing(None).behind, "the fleet's database is back");
        self.shared.stats.notices.set("fleet", None);
    }

    fn show(&self, up: bool) {
        let Standing { behind, lost, .. } = self.standing(None);
        self.shared.stats.fleet.set(NAME, Sink { up: up && !self.shipper.is_failing(), behind, lost });
    }

    /// Never beyond what stands in files: after a kill the numbers behind may be given again.
    fn keep_cursor(&mut self, at_once: bool) {
        if !at_once && self.cursor_kept.elapsed() < KEEP_CURSOR {
            return;
        }
        self.cursor_kept = Instant::now();
        let Some(cursor) = self.shipper.cursor() else { return };
        let progress = (cursor.min(self.shared.store.in_files()), self.shipper.lost, self.shipper.mended);
        // While all is updated the old cursor is no more than a mark that something had been brought.
        if progress != self.kept && cursor >= self.update_through {
            self.shared.place.keep_progress(NAME, progress);
            self.kept = progress;
        }
    }
}
