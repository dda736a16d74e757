//! What the world outside knows of a store: what it handed over, what it was answered, what stands in the log. And what must be so, then.

use super::disk::SimulatedDisk;
use super::turns::Turns;
use super::{Random, tell};
use mailsluice::record::{Outcome, Record, RecordId, ServerResponse};
use mailsluice::store::{Commit, Machine, Query, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(super) const PERSON: &str = "person@example.net";
pub(super) const RETENTION: Duration = Duration::from_secs(86400);
/// Longer than any simulated disk hangs that goes on.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ids of records that stand in the log, and whether anything was said of damage.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<(BTreeSet<String>, bool)>>);

impl Log {
    fn has(&self, id: RecordId) -> bool {
        self.0.lock().unwrap().0.contains(&id.to_string())
    }

    pub(super) fn speaks_of_damage(&self) -> bool {
        self.0.lock().unwrap().1
    }
}

struct Fields<'a>(&'a Log);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let message = format!("{value:?}");
            self.0.0.lock().unwrap().1 |= ["damaged", "cannot be read", "missing"].iter().any(|word| message.contains(word));
        }
    }
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "record"
            && let Ok(record) = serde_json::from_str::<serde_json::Value>(value)
        {
            self.0.0.lock().unwrap().0.insert(record["id"].as_str().unwrap().to_owned());
        }
    }
}

/// What is printed where one seed is looked at.
struct Told(String);

impl tracing::field::Visit for Told {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {field}={value:.300?}");
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        event.record(&mut Fields(self));
        tell(|| {
            let mut told = Told(String::new());
            event.record(&mut told);
            told.0
        });
    }
}

/// Over all seeds, to be told at the end: a simulation in which nothing happens shows nothing.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) acknowledged: AtomicU64,
    pub(super) found: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) line_and_place: AtomicU64,
    pub(super) lost_to_rot: AtomicU64,
    pub(super) forgotten: AtomicU64,
    pub(super) slowest_recovery_ms: AtomicU64,
}

pub(super) struct Known {
    turns: Turns,
    pub(super) log: Log,
    written: BTreeMap<RecordId, Record>,
    acknowledged: BTreeSet<RecordId>,
    /// Which records were handed over together.
    together: BTreeMap<RecordId, u64>,
    calls: u64,
    /// The numbers of acknowledged records, as far as they were asked for.
    numbers: BTreeMap<RecordId, u64>,
    /// Up to this call nobody is named whom the store was to forget.
    forgotten_through: Option<u64>,
    newest: Option<RecordId>,
    /// One record in so many is older than the retention and may be gone; 0: none is.
    pub(super) expired_one_in: u64,
    /// A file of the store that has a flipped bit.
    pub(super) rotten: Option<std::path::PathBuf>,
}

impl Known {
    pub(super) fn of(disk: &SimulatedDisk) -> Self {
        Self {
            turns: disk.turns.clone(),
            log: Log::default(),
            written: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            together: BTreeMap::new(),
            calls: 0,
            numbers: BTreeMap::new(),
            forgotten_through: None,
            newest: None,
            expired_one_in: 0,
            rotten: None,
        }
    }

    /// What is so old may have gone.
    fn may_be_gone(&self, record: &Record) -> bool {
        let age_us = self.turns.clock_us() - record.date.as_microsecond();
        self.expired_one_in > 0 && age_us > (RETENTION.as_micros() - RETENTION.as_micros() / 10) as i64
    }

    /// Hands records over, waits for all answers, and checks that a failure is in the log.
    pub(super) fn commit(&mut self, store: &Store, random: &mut Random, number: u64) {
        let one_in = self.expired_one_in;
        let records: Vec<_> = (0..number).map(|_| record(store.next_id(), &self.turns, random, one_in)).collect();
        let answers: Vec<_> = records.iter().map(|record| store.commit(record.clone())).collect();
        self.calls += 1;
        for (record, answer) in records.into_iter().zip(answers) {
            assert!(self.newest() < Some(record.id) && !self.written.contains_key(&record.id), "ids rise");
            self.newest = self.newest.max(Some(record.id));
            self.together.insert(record.id, self.calls);
            let is_stored = self.answer(answer);
            tell(|| format!("{}: {is_stored}", record.id));
            if is_stored {
                if !self.may_be_gone(&record) {
                    self.acknowledged.insert(record.id);
                }
            } else {
                assert!(self.log.has(record.id), "a record that is not stored is in the log");
            }
            self.written.insert(record.id, record);
        }
    }

    fn answer(&self, mut answer: Commit) -> bool {
        let given = std::cell::Cell::new(None);
        let answer = std::cell::RefCell::new(&mut answer);
        let look = || {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(answer) = Pin::new(&mut **answer.borrow_mut()).poll(&mut context) {
                given.set(Some(answer.is_ok()));
            }
            given.get().is_some()
        };
        self.turns.await_turn(self.turns.now() + Duration::from_secs(10_000), &look);
        given.get().expect("every commit is answered")
    }

    /// Ids that come are above this one. Where the clock was set back, a start knows of those that stand in the store, as far as it can be
    /// read.
    pub(super) fn newest(&self) -> Option<RecordId> {
        match (self.turns.was_set(), &self.rotten) {
            (false, _) => self.newest,
            (true, None) => self.acknowledged.last().copied(),
            (true, Some(_)) => None,
        }
    }

    /// Hands something over and waits only so long, as delivery does.
    pub(super) fn commit_with_patience(&mut self, store: &Store, random: &mut Random, until: impl FnOnce(&Store)) {
        let record = record(store.next_id(), &self.turns, random, 0);
        let answer = store.commit(record.clone());
        until(store);
        answer.give_up();
        assert!(self.log.has(record.id), "given up, it is in the log");
        self.calls += 1;
        self.together.insert(record.id, self.calls);
        (self.newest, _) = (Some(record.id), self.written.insert(record.id, record));
    }

    /// The store has said that it has forgotten the person.
    pub(super) fn forgot(&mut self) {
        self.forgotten_through = Some(self.calls);
    }

    /// Where nothing may be written of the person: nothing came since it was forgotten.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten_through == Some(self.calls)
    }

    /// All that was acknowledged is there, and all that is there is as it was written.
    pub(super) fn check(&mut self, store: &Store) {
        self.until_writable(store);
        self.try_check(store).unwrap();
    }

    /// The same where the disk may fail meanwhile: what can be read is right.
    pub(super) fn try_check(&mut self, store: &Store) -> Result<(), StoreError> {
        let found = self.found(store)?;
        let missing: Vec<_> = self.acknowledged.iter().filter(|id| !found.contains_key(id)).copied().collect();
        if self.rotten.is_none() {
            assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
            assert_eq!(store.unreadable(), 0);
        } else {
            self.account_for(&missing);
        }
        self.check_numbers(store, &found)?;
        if self.expired_one_in == 0 && self.rotten.is_none() { self.check_undelivered(store, &found) } else { Ok(()) }
    }

    /// All pages.
    fn found(&self, store: &Store) -> Result<BTreeMap<RecordId, Record>, StoreError> {
        let mut found = BTreeMap::new();
        let mut cursor = None;
        loop {
            let page = store.query(&Query { cursor, limit: 1000, ..Query::default() })?;
            for record in page.records {
                self.check_record(store, &record)?;
                assert!(found.last_key_value().is_none_or(|_| !found.contains_key(&record.id)), "no id twice");
                found.insert(record.id, record);
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }

    fn check_record(&self, store: &Store, record: &Record) -> Result<(), StoreError> {
        let written = self.written.get(&record.id).expect("only what was handed over");
        let mut expected = written.clone();
        expected.store_us = record.store_us;
        expected.processing_time_us = written.processing_time_us + record.store_us;
        let is_person = expected.sender.eq_ignore_ascii_case(PERSON);
        let may_be_named = self.forgotten_through < Some(self.together[&record.id]);
        if is_person && (record.sender == "[erased]" || !may_be_named) {
            "[erased]".clone_into(&mut expected.sender);
        }
        assert_eq!(*record, expected);
        // A search each would be most of the work.
        if !record.id.0.is_multiple_of(16) {
            return Ok(());
        }
        let by_index = Query { message_id: record.message_id.clone(), ..Query::default() };
        let is_known = store.query(&by_index)?.records.len() == 1;
        // What has expired may go at any moment.
        assert!(is_known || self.may_be_gone(record) || self.rotten.is_some(), "the index knows it");
        Ok(())
    }

    /// A flipped bit costs what stands in its file, and in a journal what was written with it at once.
    fn account_for(&self, missing: &[RecordId]) {
        let Some(name) = self.rotten.as_ref().map(|path| path.to_string_lossy().into_owned()) else { return };
        let span = name.rsplit('.').next().and_then(|span| span.split_once('-'));
        let span = span.and_then(|(first, last)| Some(first.parse::<u64>().ok()?..=last.parse().ok()?));
        match span {
            Some(span) => {
                let is_in_it = |id| self.numbers.get(id).is_some_and(|number| span.contains(number));
                assert!(missing.iter().all(is_in_it), "{name}: lost beyond the file: {missing:?}");
                assert!(missing.is_empty() || self.log.speaks_of_damage(), "{name}: lost without a word: {missing:?}");
                // Of all the records there are whole ones, but for those in one page of a tree.
                assert!(missing.len() <= 20, "{name}: lost beyond a page: {missing:?}");
            }
            None if name.contains(".journal-") => {
                let calls: BTreeSet<_> = missing.iter().map(|id| self.together[id]).collect();
                assert!(calls.len() <= 1, "{name}: lost beyond a frame: {missing:?}");
            }
            None => assert!(missing.is_empty(), "{name}: acknowledged and lost: {missing:?}"),
        }
    }

    /// Each record has one number, and keeps it.
    fn check_numbers(&mut self, store: &Store, found: &BTreeMap<RecordId, Record>) -> Result<(), StoreError> {
        let (mut numbers, mut number) = (BTreeMap::new(), 0);
        loop {
            let page = store.records_after(number, 1000)?;
            let Some(last) = page.last() else { break };
            let rising = page.iter().scan(number, |before, committed| Some(std::mem::replace(before, committed.number) < committed.number));
            assert!(rising.into_iter().all(|rises| rises), "numbers rise");
            number = last.number;
            for committed in page {
                let before = numbers.insert(committed.record.id, committed.number);
                assert_eq!(before, None, "no id twice");
            }
        }
        for (id, number) in &numbers {
            assert!(self.numbers.get(id).is_none_or(|before| before == number), "a number is for good");
        }
        if self.rotten.is_none() {
            let without: Vec<_> = self.acknowledged.iter().filter(|id| found.contains_key(id) && !numbers.contains_key(id)).collect();
            assert!(without.is_empty(), "without a number: {without:?}");
        }
        self.numbers.extend(numbers.into_iter().filter(|(id, _)| self.acknowledged.contains(id)));
        Ok(())
    }

    fn check_undelivered(&self, store: &Store, found: &BTreeMap<RecordId, Record>) -> Result<(), StoreError> {
        let mut settled = BTreeMap::new();
        for record in found.values() {
            *settled.entry(&record.webhook_id).or_insert(false) |= record.outcome != Outcome::Deferred;
        }
        let expected: BTreeSet<_> = settled.into_iter().filter(|(_, settled)| !settled).map(|(webhook_id, _)| webhook_id.clone()).collect();
        let view = store.undelivered(None, 1000)?.undelivered;
        assert_eq!(view.into_iter().map(|message| message.record.webhook_id).collect::<BTreeSet<_>>(), expected);
        let some = self.written.values().rev().take(3).map(|record| &record.webhook_id);
        for webhook_id in some.collect::<BTreeSet<_>>() {
            let attempts = found.values().filter(|record| record.webhook_id == *webhook_id).map(|record| record.id);
            assert!(store.attempts(webhook_id)?.into_iter().map(|record| record.id).eq(attempts), "all attempts, oldest first");
        }
        Ok(())
    }

    /// Mail is taken again by itself; in so long.
    pub(super) fn until_writable(&self, store: &Store) -> Duration {
        let begun = self.turns.now();
        let is_usable = self.turns.until(PATIENCE, || store.writable());
        assert!(is_usable, "the store does not go on by itself: {:?}", store.trouble());
        self.turns.now() - begun
    }

    /// What the whole run has come to.
    pub(super) fn count(&self, store: &Store, counts: &Counts) {
        let found = self.found(store).unwrap();
        let add = |counter: &AtomicU64, number: usize| counter.fetch_add(number as u64, Ordering::Relaxed);
        let lines: Vec<_> = self.written.keys().filter(|id| self.log.has(**id)).collect();
        add(&counts.acknowledged, self.acknowledged.len());
        add(&counts.found, self.acknowledged.iter().filter(|id| found.contains_key(id)).count());
        add(&counts.lost_to_rot, self.acknowledged.iter().filter(|id| !found.contains_key(id)).count());
        add(&counts.lines, lines.len());
        add(&counts.line_and_place, lines.iter().filter(|id| found.contains_key(id)).count());
    }
}

fn record(id: RecordId, turns: &Turns, random: &mut Random, expired_one_in: u64) -> Record {
    // Of any age: a store whose records leave out a day doubts the clock.
    let is_older = expired_one_in > 0 && random.below(expired_one_in) == 0;
    let age_us = if is_older { random.below(2 * RETENTION.as_micros() as u64) as i64 } else { 0 };
    Record {
        id,
        date: jiff::Timestamp::from_microsecond(turns.clock_us() - age_us).unwrap(),
        sender_ip: "192.0.2.1".into(),
        message_id: Some(format!("<{id}@example.org>")),
        sender: if random.below(4) == 0 { PERSON.to_uppercase() } else { format!("sender{}@example.org", random.below(20)) },
        recipients: (0..1 + random.below(3)).map(|number| format!("to{number}@example.com")).collect(),
        subject: Some("s".repeat(random.below(900) as usize)),
        server_response: ServerResponse {
            status: 200,
            body: "b".repeat(random.below(2048) as usize),
            content_type: None,
            retry_after: None,
        },
        processing_time_us: 3,
        queue_us: 1,
        forward_us: 2,
        store_us: 0,
        outcome: [Outcome::Delivered, Outcome::Rejected, Outcome::Deferred, Outcome::Deferred][random.below(4) as usize],
        reply: "250 2.0.0 Ok".into(),
        size: random.next(),
        tls: None,
        route: "tickets".into(),
        webhook_id: format!("webhook-{}", random.below(30)),
    }
}
