//! The store on a disk that loses its power or fails at any operation: every record whose commit was acknowledged is there afterwards,
//! every other one stands in the log, and whatever is found is whole.

use super::disk::SimulatedDisk;
use super::{Random, for_each_seed};
use mailsluice::config;
use mailsluice::record::{Outcome, Record, RecordId, ServerResponse};
use mailsluice::stats::Stats;
use mailsluice::store::{Query, Store, StoreError, Tuning};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;

const PERSON: &str = "person@example.net";

/// Ids of records that stand in the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<BTreeSet<String>>>);

struct RecordField<'a>(&'a Log);

impl tracing::field::Visit for RecordField<'_> {
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "record"
            && let Ok(record) = serde_json::from_str::<serde_json::Value>(value)
        {
            self.0.0.lock().unwrap().insert(record["id"].as_str().unwrap().to_owned());
        }
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        event.record(&mut RecordField(self));
    }
}

/// What the outside knows: what was handed over, and what was answered.
#[derive(Default)]
struct Known {
    written: BTreeMap<RecordId, Record>,
    acknowledged: BTreeSet<RecordId>,
    /// One record in so many is older than the retention and may be gone; 0: none is.
    expired_one_in: u64,
    log: Log,
    newest: Option<RecordId>,
}

impl Known {
    /// Hands records over, waits for all answers, and checks that a failure is in the log.
    fn commit(&mut self, store: &Store, random: &mut Random, number: u64) {
        let one_in = self.expired_one_in;
        let records: Vec<_> = (0..number).map(|_| record(store.next_id(), random, one_in)).collect();
        let answers: Vec<_> = records.iter().map(|record| store.commit(record.clone())).collect();
        for (record, answer) in records.into_iter().zip(answers) {
            assert!(self.newest < Some(record.id), "ids rise");
            self.newest = Some(record.id);
            if answer.blocking_recv().expect("every commit is answered").is_ok() {
                if !has_expired(&record) {
                    self.acknowledged.insert(record.id);
                }
            } else {
                assert!(self.log.0.lock().unwrap().contains(&record.id.to_string()), "a record that is not stored is in the log");
            }
            self.written.insert(record.id, record);
        }
    }

    /// All that was acknowledged is there, and all that is there is as it was written.
    fn check(&self, store: &Store) {
        until_writable(store);
        self.try_check(store).unwrap();
    }

    /// The same where the disk may fail meanwhile: what can be read is right.
    fn try_check(&self, store: &Store) -> Result<(), StoreError> {
        let mut found = BTreeSet::new();
        let mut cursor = None;
        loop {
            let page = store.query(&Query { cursor, limit: 1000, ..Query::default() })?;
            for record in page.records {
                let written = self.written.get(&record.id).expect("only what was handed over");
                let mut expected = written.clone();
                expected.store_us = record.store_us;
                expected.processing_time_us = written.processing_time_us + record.store_us;
                if record.sender == "[erased]" && expected.sender.eq_ignore_ascii_case(PERSON) {
                    "[erased]".clone_into(&mut expected.sender);
                }
                assert_eq!(record, expected);
                let by_index = Query { message_id: record.message_id.clone(), ..Query::default() };
                // What has expired may go at any moment.
                let known = store.query(&by_index)?.records.len() == 1;
                assert!(known || has_expired(&record), "the index knows it");
                found.insert(record.id);
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let missing: Vec<_> = self.acknowledged.difference(&found).collect();
        // What only the journal has is to be read when the store goes on, or after the next start.
        assert!(missing.is_empty() || !store.writable(), "acknowledged and lost: {missing:?}");
        assert_eq!(store.unreadable(), 0);
        if self.expired_one_in == 0 { self.check_undelivered(store, &found) } else { Ok(()) }
    }

    fn check_undelivered(&self, store: &Store, found: &BTreeSet<RecordId>) -> Result<(), StoreError> {
        let mut settled = BTreeMap::new();
        for record in found.iter().map(|id| &self.written[id]) {
            *settled.entry(&record.webhook_id).or_insert(false) |= record.outcome != Outcome::Deferred;
        }
        let expected: BTreeSet<_> = settled.into_iter().filter(|(_, settled)| !settled).map(|(webhook_id, _)| webhook_id.clone()).collect();
        let view = store.undelivered(None, 1000)?.undelivered;
        assert_eq!(view.into_iter().map(|message| message.record.webhook_id).collect::<BTreeSet<_>>(), expected);
        for webhook_id in self.written.values().map(|record| &record.webhook_id).collect::<BTreeSet<_>>() {
            let attempts = found.iter().filter(|id| self.written[id].webhook_id == *webhook_id).copied();
            assert!(store.attempts(webhook_id)?.into_iter().map(|record| record.id).eq(attempts), "all attempts, oldest first");
        }
        Ok(())
    }
}

const RETENTION: Duration = Duration::from_secs(86400);

fn has_expired(record: &Record) -> bool {
    jiff::Timestamp::now().as_millisecond() - record.date.as_millisecond() > RETENTION.as_millis() as i64
}

fn record(id: RecordId, random: &mut Random, expired_one_in: u64) -> Record {
    let age_us = if expired_one_in > 0 && random.below(expired_one_in) == 0 { 2 * RETENTION.as_micros() as i64 } else { 0 };
    Record {
        id,
        date: jiff::Timestamp::from_microsecond(jiff::Timestamp::now().as_microsecond() - age_us).unwrap(),
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

fn settings() -> config::Store {
    config::Store { path: "/simulated/records.redb".into(), retention: RETENTION, max_size: 1 << 30, redact: config::Redact::default() }
}

fn open(disk: &SimulatedDisk) -> Result<Arc<Store>, StoreError> {
    open_with(disk, Tuning { journal: 64 << 10, ..Tuning::default() })
}

fn open_with(disk: &SimulatedDisk, tuning: Tuning) -> Result<Arc<Store>, StoreError> {
    Store::open_on(Arc::new(disk.clone()), &settings(), &Stats::new(), tuning)
}

fn until_writable(store: &Store) {
    let until = Instant::now() + Duration::from_secs(30);
    while !store.writable() {
        assert!(Instant::now() < until, "the store does not go on by itself");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Some work as a daemon does it. True if an erasure was complete.
fn work(store: &Store, known: &mut Known, random: &mut Random) -> bool {
    let mut erased = false;
    for _ in 0..1 + random.below(6) {
        let number = 1 + random.below(12);
        known.commit(store, random, number);
        erased = false;
        match random.below(8) {
            0 => erased = store.forget(PERSON).is_ok(),
            1 => drop(store.tidy()),
            _ => {}
        }
    }
    erased
}

#[test]
fn a_power_cut_at_any_operation_loses_no_acknowledged_record() {
    // How many operations a run has at all, so that cuts fall everywhere in it.
    let reach = {
        let disk = SimulatedDisk::default();
        let store = open(&disk).unwrap();
        let mut known = Known::default();
        for _ in 0..3 {
            known.commit(&store, &mut Random(0), 6);
        }
        store.forget(PERSON).unwrap();
        disk.operations()
    };
    for_each_seed(1000, |seed| {
        let mut random = Random(seed);
        let mut known = Known { expired_one_in: if seed % 3 == 0 { 3 } else { 0 }, ..Known::default() };
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(known.log.clone()));
        let mut disk = SimulatedDisk::default();
        for _ in 0..3 {
            disk.cut_after(random.below(reach * 2));
            let mut erased = false;
            // The power may go while the store is being opened.
            // Files of few records, so that they are many and are merged; and journals that are often full.
            let batch = usize::try_from(1 + random.below(40)).unwrap();
            let journal = usize::try_from((1 + random.below(24)) * 4096).unwrap();
            let seal_after = Duration::from_millis([0, 1, 1000][usize::try_from(random.below(3)).unwrap()]);
            if let Ok(store) = open_with(&disk, Tuning { batch, journal, seal_after, ..Tuning::default() }) {
                known.try_check(&store).unwrap_or_else(|error| assert!(disk.is_cut(), "{error}"));
                erased = work(&store, &mut known, &mut random);
                store.close();
            }
            disk = disk.after_power_cut(&mut random);
            if erased {
                assert!(!disk.holds(PERSON), "what was erased does not come back");
            }
        }
        let store = open(&disk).unwrap();
        known.check(&store);
        known.commit(&store, &mut random, 3);
        known.check(&store);
    });
}

#[test]
fn a_disk_that_fails_for_a_while_loses_no_acknowledged_record() {
    for_each_seed(100, |seed| {
        let mut random = Random(seed);
        let mut known = Known::default();
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(known.log.clone()));
        let disk = SimulatedDisk::default();
        let journal = usize::try_from((1 + random.below(24)) * 4096).unwrap();
        let store = open_with(&disk, Tuning { batch: 1 + usize::try_from(seed).unwrap(), journal, ..Tuning::default() }).unwrap();
        known.commit(&store, &mut random, 5);
        disk.fail_after(random.below(120), 1 + random.below(30));
        work(&store, &mut known, &mut random);
        disk.heal();
        until_writable(&store);
        known.commit(&store, &mut random, 5);
        known.check(&store);
        let newest = known.newest;
        drop(store);
        let store = open(&disk).unwrap();
        known.check(&store);
        assert!(Some(store.next_id()) > newest);
    });
}
