//! The sink that is PostgreSQL: goes on whatever becomes of a connection. Logs once when it goes and once when it is back.

use super::connect::{Trouble, with_clock};
use super::course::{Course, known};
use super::session::{Has, Session, Standing};
use super::shared::Shared;
use super::shipper::{Answer, Batch, News, mend};
use super::{erasure, latency, settled};
use crate::record::Record;
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const NAME: &str = "postgres";
/// So often the others hear of a box that has nothing to bring.
const BEAT: Duration = Duration::from_secs(3);
/// The undelivered messages of all boxes are counted so often, and no twentieth of the time is spent on it.
const COUNT: Duration = Duration::from_secs(20);
const COUNT_SHARE: u32 = 20;
/// Of one stage, in one statement.
const MINUTES: usize = 500;
/// Records that an erasure changed, in one statement.
const CHANGES: usize = 500;
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Seconds that this machine's clock may be ahead or behind before the page says so.
const CLOCK_SECONDS: u64 = 60;

struct Postgres<'s> {
    shared: &'s Arc<Shared>,
    course: Course<'s>,
    /// Up to this number records may have been changed while nobody took note of it.
    update_through: u64,
    /// Nobody has said yet whether it was taken.
    unanswered: Option<Batch>,
    /// Already logged: said once.
    said_lost: u64,
    /// An erasure of this box's store that is under way.
    forgetting: Option<(Asked, JoinHandle<Result<u64, StoreError>>)>,
    /// Signed as soon as what was changed is brought.
    forgotten: Vec<Asked>,
    /// Why the last one failed: said once.
    cannot_forget: Option<String>,
    /// Erasures that all have signed; what keeps them from their end.
    finishing: Option<JoinHandle<Option<String>>>,
    cannot_finish: Option<String>,
}

/// An erasure's number, and its address.
type Asked = (i64, String);

/// Brings records until it is stopped.
pub(super) async fn run(shared: &Arc<Shared>) {
    // Where erasures were not noted, all may have changed.
    let was_noted = shared.store.keep_changes(true).unwrap_or_else(|error| {
        tracing::warn!(%error, "what forget changes cannot be noted for the fleet");
        false
    });
    let course = Course::begin(shared, NAME, was_noted);
    let update_through = if course.begins_anew() { shared.store.newest() } else { 0 };
    let said_lost = course.shipper.lost;
    let mut this = Postgres {
        shared,
        course,
        update_through,
        unanswered: None,
        said_lost,
        forgetting: None,
        forgotten: Vec::new(),
        cannot_forget: None,
        finishing: None,
        cannot_finish: None,
    };
    while !shared.is_stopping() {
        let trouble = match Session::open(shared, this.course.behind()).await {
            Ok(session) => this.serve(session).await.err(),
            Err(trouble) => Some(trouble),
        };
        if let Some(trouble) = trouble.filter(|_| !shared.is_stopping()) {
            this.failed(&trouble, None);
            this.course.show(false);
            shared.stats.fleet.set_undelivered(None);
            shared.pause(this.course.shipper.wait()).await;
        }
    }
    this.keep_cursor(true);
}

impl Postgres<'_> {
    async fn serve(&mut self, mut session: Session) -> Result<(), Trouble> {
        let shared = self.shared;
        let (mut kept_house, mut looked, mut count) = (None::<Instant>, None::<Instant>, Instant::now());
        self.compare(session.has());
        session.beat(shared, self.standing(None)).await?;
        let (mut beat, mut said_in_the_way) = (Instant::now(), false);
        while !shared.is_stopping() {
            if kept_house.is_none_or(|last| last.elapsed() >= HOUSEKEEPING) {
                match session.keep_partitions(shared).await {
                    // Somebody reads all for an hour: days to come have their partition for a while.
                    Err(trouble) if trouble.is_passing() => {
                        if !std::mem::replace(&mut said_in_the_way, true) {
                            tracing::warn!("the fleet's partitions could not be looked after: {trouble}; it is tried again each minute");
                        }
                    }
                    kept => {
                        kept?;
                        said_in_the_way = false;
                    }
                }
                kept_house = Some(Instant::now());
            }
            if looked.is_none_or(|last| last.elapsed() >= erasure::LOOK) {
                self.erase(&session).await?;
                looked = Some(Instant::now());
            }
            if Instant::now() >= count {
                let begun = Instant::now();
                let undelivered = with_clock(settled::count_undelivered(&session.client, session.has_marks)).await?;
                shared.stats.fleet.set_undelivered(undelivered);
                count = Instant::now() + COUNT.max(begun.elapsed() * COUNT_SHARE);
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
            self.course.show(true);
            shared.pause(self.course.shipper.wait()).await;
        }
        session.leave(shared).await
    }

    /// What the database has of this box may be more than was heard of, or less than was brought: it was restored from a copy, or made anew.
    fn compare(&mut self, has: Has) {
        let unanswered = self.unanswered.take();
        if let (Has::All(number), Some(batch)) = (has, unanswered)
            && number >= batch.last
        {
            self.heard(&batch, Answer::Taken);
        }
        let cursor = self.course.shipper.after();
        match has {
            Has::All(number) | Has::NotLess(number) if number >= cursor => {}
            Has::Nothing if cursor == 0 => {}
            Has::Nothing => {
                tracing::warn!("the fleet's database does not know this box: all that the store has is brought again");
                self.course.shipper.begin_anew();
            }
            // Also what was erased since then is there again.
            Has::All(_) | Has::NotLess(_) => {
                tracing::warn!(
                    "the fleet's database has less than was brought, as if restored from a copy: all that the store has is brought again"
                );
                self.course.shipper.begin_anew();
                self.update_through = self.shared.store.newest();
            }
        }
    }

    /// One batch; whether there was one.
    async fn bring(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        let Some(batch) = self.course.next()? else {
            if self.say_lost() {
                session.beat(self.shared, self.standing(None)).await?;
            }
            return Ok(false);
        };
        let standing = self.standing(Some(&batch));
        self.unanswered = Some(Batch { records: Vec::new(), ..batch });
        let brought = if batch.last <= self.update_through {
            session.change(self.shared, &batch.records, standing).await
        } else {
            session.bring(self.shared, &batch.records, standing).await
        };
        if !matches!(brought, Err(Trouble::Postgres(_) | Trouble::Silent)) {
            self.unanswered = None;
        }
        match brought {
            Ok(()) => self.heard(&batch, Answer::Taken),
            Err(trouble) if trouble.is_data() => {
                self.heard(&batch, Answer::Refused);
                if batch.mended {
                    // The database is not behind for a record that it will never have.
                    session.beat(self.shared, self.standing(None)).await?;
                }
            }
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
        match self.course.shipper.answered(batch, answer) {
            News::None | News::Gone => {}
            News::Back => self.say_back(),
            News::Lost => {
                let id = batch.records.first().map(|record| record.id.to_string()).unwrap_or_default();
                tracing::error!(id, "the fleet's database takes this record in no form: it is in this box's store alone");
            }
        }
        self.say_lost();
    }

    /// Whether some more were.
    fn say_lost(&mut self) -> bool {
        let more = self.course.shipper.lost.saturating_sub(self.said_lost);
        if more > 0 {
            tracing::warn!(records = more, "records went before the fleet's database had them");
        }
        self.said_lost = self.course.shipper.lost;
        more > 0
    }

    /// What `forget` changed of records that are there already. In the midst of an erasure the store still reads as before it.
    async fn bring_changes(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        let store = &self.shared.store;
        let Some(quiet) = store.quiet_since() else { return Ok(false) };
        let changes = known(store.changes_after(0, CHANGES))?.unwrap_or_default();
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
            session.change(self.shared, &records, self.standing(None)).await?;
        }
        store.changes_taken(last);
        Ok(true)
    }

    /// What `forget --fleet` asks of this box, one address after the other; and what is left when no box is missing.
    async fn erase(&mut self, session: &Session) -> Result<(), Trouble> {
        let shared = self.shared;
        if let Some((asked, task)) = self.forgetting.take_if(|(_, task)| task.is_finished()) {
            match task.await {
                Ok(Ok(records)) => {
                    tracing::info!(records, "an address was erased from the store, as the fleet was asked to");
                    if self.cannot_forget.take().is_some() {
                        with_clock(erasure::say(&session.client, asked.0, None)).await?;
                    }
                    self.forgotten.push(asked);
                }
                Ok(Err(error)) => {
                    // It is tried again with each look; whoever waits for it reads why.
                    let trouble = format!("{} cannot erase it from its store: {error}", shared.config.name);
                    if self.cannot_forget.as_ref() != Some(&trouble) {
                        tracing::error!(%error, "an address that the fleet was asked to erase is still in the store");
                    }
                    with_clock(erasure::say(&session.client, asked.0, Some(&trouble))).await?;
                    self.cannot_forget = Some(trouble);
                }
                Err(_) => {}
            }
        }
        let store = &shared.store;
        if !self.forgotten.is_empty()
            && store.quiet_since().is_some()
            && known(store.changes_after(0, 1))?.is_some_and(|left| left.is_empty())
        {
            for (id, address) in &self.forgotten {
                with_clock(erasure::sign(&session.client, *id, address, &shared.box_id)).await?;
            }
            self.forgotten.clear();
        }
        let asked = with_clock(erasure::asked(&session.client, &shared.box_id)).await?;
        let next = asked.into_iter().find(|asked| !self.forgotten.contains(asked));
        if let Some(asked) = next.filter(|_| self.forgetting.is_none()) {
            let (store, stats, address) = (Arc::clone(store), Arc::clone(&shared.stats), asked.1.clone());
            let task = tokio::task::spawn_blocking(move || {
                stats.refusals.forget(&address);
                store.forget(&address)
            });
            self.forgetting = Some((asked, task));
        }
        if let Some(task) = self.finishing.take_if(|task| task.is_finished()) {
            let trouble = task.await.unwrap_or_default();
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.cannot_finish) {
                tracing::warn!("an erasure in the fleet's database waits: {trouble}");
            }
            self.cannot_finish = trouble;
        }
        if self.finishing.is_none() {
            let erasures = with_clock(erasure::signed_by_all(&session.client)).await?;
            let shared = Arc::clone(shared);
            self.finishing = (!erasures.is_empty()).then(|| {
                tokio::spawn(async move {
                    match tokio::time::timeout(erasure::FINISH, erasure::finish(&shared, &erasures)).await {
                        Ok(finished) => finished.err().map(|trouble| trouble.to_string()),
                        Err(_) => Some("it took too long, and begins again".to_owned()),
                    }
                })
            });
        }
        Ok(())
    }

    /// Where this box stands, or will when the batch is there.
    fn standing(&self, batch: Option<&Batch>) -> Standing {
        let newest = self.shared.store.newest();
        let behind = newest.saturating_sub(batch.map_or(self.course.shipper.after(), |batch| batch.last));
        let oldest = batch.filter(|_| behind > 0).and_then(|batch| batch.records.last());
        Standing {
            behind,
            oldest_us: oldest.map(|record| record.date.as_microsecond()),
            lost: self.course.shipper.lost + batch.map_or(0, |batch| batch.gone),
            mended: self.course.shipper.mended,
            brought: batch.map_or(self.course.shipper.after(), |batch| batch.last),
        }
    }

    fn failed(&mut self, trouble: &Trouble, asked: Option<Duration>) {
        let notice = format!("the fleet's database: {trouble}");
        match trouble {
            Trouble::Store(StoreError::Closed) => {}
            _ if self.course.shipper.failed(asked) == News::Gone => {
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
        if self.course.shipper.reached() == News::Back {
            self.say_back();
        }
        let ahead = session.clock_ahead();
        let notice = (ahead.unsigned_abs() > CLOCK_SECONDS).then(|| {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            format!("this machine's clock is {} s {way} the fleet's database", ahead.unsigned_abs())
        });
        self.shared.stats.notices.set("fleet", notice);
    }

    fn say_back(&self) {
        tracing::info!(behind = self.standing(None).behind, "the fleet's database is back");
        self.shared.stats.notices.set("fleet", None);
    }

    fn keep_cursor(&mut self, at_once: bool) {
        // While all is updated the old cursor is no more than a mark that something had been brought.
        if self.course.shipper.after() >= self.update_through {
            self.course.keep(at_once);
        }
    }
}
