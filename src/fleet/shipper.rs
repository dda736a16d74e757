//! What a sink is given next, without I/O: a cursor over the store's commit numbers, batches, halves of what is refused, back-off.
//!
//! Commit numbers rise in the order in which records became durable. A cursor by record ids would lose the slow ones, whose ids are drawn
//! minutes before their commit. Nothing here fails or logs.

use super::row::stored;
use crate::record::Record;
use crate::store::Committed;
use std::time::Duration;

/// A batch; twice as much where the sink is far behind.
pub(super) const BATCH: usize = 250;
const BATCH_BEHIND: usize = 500;
/// Octets of a batch's texts.
const OCTETS: usize = 512 << 10;
const OCTETS_BEHIND: usize = 1 << 20;
/// So often the store is looked at when it had nothing new.
const LOOK: Duration = Duration::from_millis(500);
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MOST: Duration = Duration::from_secs(60);

/// Records for a sink, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) last: u64,
    /// Numbers between the cursor and `last` that nothing has any more: expired, or damaged.
    pub(super) gone: u64,
    /// One record that was refused as it was: its texts are mended.
    pub(super) mended: bool,
}

/// What a sink said to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    /// It will never take these, as they are.
    Refused,
}

/// What changed with an answer, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    Gone,
    Back,
    /// One record can never be brought there.
    Lost,
}

pub(super) struct Shipper {
    /// `None`: nothing has been brought yet, and what expired before is no loss.
    cursor: Option<u64>,
    limit: usize,
    /// The next record alone, mended.
    mend: bool,
    attempts: u32,
    wait: Duration,
    random: u64,
    pub(super) lost: u64,
    pub(super) mended: u64,
}

impl Shipper {
    pub(super) fn new(cursor: Option<u64>, seed: u64) -> Self {
        Self { cursor, limit: BATCH, mend: false, attempts: 0, wait: Duration::ZERO, random: seed | 1, lost: 0, mended: 0 }
    }

    /// All up to here is where it belongs.
    pub(super) fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    pub(super) fn after(&self) -> u64 {
        self.cursor.unwrap_or(0)
    }

    /// How many records to read.
    pub(super) fn limit(&self) -> usize {
        if self.mend { 1 } else { self.limit }
    }

    /// Octets of their texts; one that has more comes alone.
    pub(super) fn octets(&self) -> usize {
        if self.limit > BATCH { OCTETS_BEHIND } else { OCTETS }
    }

    /// How long to wait before the next look.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    pub(super) fn is_failing(&self) -> bool {
        self.attempts > 0
    }

    /// What the store had behind the cursor becomes a batch; `None` where it had nothing.
    pub(super) fn batch(&mut self, read: Vec<Committed>) -> Option<Batch> {
        let most = self.octets();
        let (mut last, mut gone, mut octets) = (self.cursor, 0, 0);
        let mut records = Vec::new();
        for Committed { number, record } in read.into_iter().take(self.limit()) {
            octets += octets_of(&record);
            if octets > most && !records.is_empty() {
                break;
            }
            gone += last.map_or(0, |last| number.saturating_sub(last.saturating_add(1)));
            last = Some(number);
            records.push(record);
        }
        self.wait = LOOK;
        let last = last.filter(|_| !records.is_empty())?;
        if self.mend {
            records.iter_mut().for_each(mend);
        }
        Some(Batch { records, last, gone, mended: self.mend })
    }

    pub(super) fn answered(&mut self, batch: &Batch, answer: Answer) -> News {
        match answer {
            Answer::Taken => {
                self.advance(batch);
                self.mended += u64::from(batch.mended);
                // Halves grow again; more than a batch only where there is more to bring.
                let is_full = batch.records.len() >= self.limit;
                self.limit = if is_full { (self.limit * 2).min(BATCH_BEHIND) } else { self.limit.clamp(1, BATCH) };
                self.wait = if is_full || batch.mended || self.limit < BATCH { Duration::ZERO } else { LOOK };
                self.reached()
            }
            Answer::Refused if batch.mended => {
                self.advance(batch);
                self.lost += 1;
                self.reached();
                News::Lost
            }
            Answer::Refused => {
                if batch.records.len() <= 1 {
                    self.mend = true;
                }
                self.limit = (batch.records.len() / 2).max(1);
                self.wait = Duration::ZERO;
                self.reached()
            }
        }
    }

    /// It could not be reached, or could not now: what took it too long is tried in smaller pieces. It may have asked to be given some time.
    pub(super) fn failed(&mut self, asked: Option<Duration>) -> News {
        self.limit = (self.limit / 2).max(1);
        let doubled = BACK_OFF.saturating_mul(1 << self.attempts.min(7)).min(BACK_OFF_MOST);
        // Between half of it and all of it, so that boxes do not come back together.
        self.wait = asked.unwrap_or_default().min(BACK_OFF_MOST).max(doubled / 2 + doubled.mul_f64(self.share() / 2.0));
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts == 1 { News::Gone } else { News::None }
    }

    /// It answers.
    pub(super) fn reached(&mut self) -> News {
        if std::mem::take(&mut self.attempts) > 0 { News::Back } else { News::None }
    }

    /// Up to this number the store has nothing any more.
    pub(super) fn passed(&mut self, number: u64) {
        if let Some(cursor) = self.cursor.filter(|cursor| *cursor < number) {
            (self.cursor, self.mend) = (Some(number), false);
            self.lost += number - cursor;
        }
    }

    /// Of what was brought some is not there any more: all is brought again.
    pub(super) fn begin_anew(&mut self) {
        (self.cursor, self.mend, self.mended) = (None, false, 0);
    }

    fn advance(&mut self, batch: &Batch) {
        self.cursor = Some(batch.last);
        self.lost += batch.gone;
        self.mend = false;
    }

    /// From 0 to 1 (Marsaglia's xorshift).
    fn share(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }
}

pub(super) fn octets_of(record: &Record) -> usize {
    let response = &record.server_response;
    let options = [&record.message_id, &record.subject, &response.content_type, &response.retry_after, &record.tls];
    let texts = [&record.sender, &record.reply, &record.route, &record.webhook_id, &record.sender_ip, &response.body];
    let texts = texts.into_iter().chain(&record.recipients).chain(options.into_iter().flatten());
    300 + texts.map(String::len).sum::<usize>()
}

/// What no PostgreSQL has as text stands as U+FFFD.
pub(super) fn mend(record: &mut Record) {
    let Record { message_id, sender, recipients, subject, server_response, reply, tls, route, webhook_id, sender_ip, .. } = record;
    let options = [message_id, subject, tls, &mut server_response.content_type, &mut server_response.retry_after].into_iter().flatten();
    let texts = options.chain(recipients).chain([sender, reply, route, webhook_id, sender_ip, &mut server_response.body]);
    for text in texts.filter(|text| text.contains('\0')) {
        *text = stored(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Outcome, RecordId, ServerResponse};
    use std::collections::BTreeMap;

    fn record(number: u64, body: &str) -> Record {
        Record {
            id: RecordId(u128::from(number)),
            date: jiff::Timestamp::UNIX_EPOCH,
            sender_ip: String::new(),
            message_id: None,
            sender: String::new(),
            recipients: vec!["a@example.com".into()],
            subject: None,
            server_response: ServerResponse { status: 200, body: body.into(), content_type: None, retry_after: None },
            processing_time_us: 0,
            queue_us: 0,
            forward_us: 0,
            store_us: 0,
            outcome: Outcome::Delivered,
            reply: String::new(),
            size: 0,
            tls: None,
            route: String::new(),
            webhook_id: String::new(),
        }
    }

    /// A small generator of its own, so that a seed is a run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }
    }

    /// A store, a sink that refuses U+0000 and one sort of record for ever, is away now and then, forgets to answer, and a process that is
    /// killed: its cursor is what was kept, at most what stands in files.
    fn run(seed: u64) {
        let dice = &mut Dice(seed);
        let mut store: BTreeMap<u64, Record> = BTreeMap::new();
        let mut newest = 0;
        let mut sink: BTreeMap<u128, Record> = BTreeMap::new();
        let (mut kept, mut in_files) = (None, 0);
        let mut shipper = Shipper::new(None, seed);
        let (mut expired, mut poisoned, mut down) = (0_u64, 0_u64, false);
        let (mut lost, mut waited) = (0, Duration::ZERO);
        // In the end until all is there: each that is refused costs a dozen batches.
        for round in 0..20_000 {
            let is_over = round >= 400;
            for _ in 0..if is_over { 0 } else { dice.below(40) } {
                newest += 1;
                let body = match dice.below(300) {
                    0 => "a\0b",
                    1 => {
                        poisoned += 1;
                        "poison"
                    }
                    _ => "ok",
                };
                store.insert(newest, record(newest, body));
            }
            if dice.below(8) == 0 {
                in_files = newest;
            }
            if !is_over && dice.below(30) == 0 {
                // Retention: what was not brought by then is lost, and counted.
                let oldest: Vec<u64> = store.keys().copied().take(5).collect();
                for number in oldest.into_iter().filter(|number| *number <= in_files) {
                    let gone = store.remove(&number).unwrap();
                    let is_counted = kept.is_some_and(|kept| number > kept) && number > shipper.after() && shipper.cursor().is_some();
                    if !sink.contains_key(&gone.id.0) && is_counted {
                        expired += 1;
                        poisoned -= u64::from(gone.server_response.body == "poison");
                    }
                }
            }
            if !is_over && dice.below(40) == 0 {
                down = !down;
            }
            down &= !is_over;
            let read: Vec<_> = store
                .range(shipper.after() + 1..)
                .take(shipper.limit())
                .map(|(number, record)| Committed { number: *number, record: record.clone() })
                .collect();
            if let Some(batch) = shipper.batch(read) {
                let is_refused = batch.records.iter().any(|record| record.server_response.body.contains(['\0', 'p']));
                let mut answer = None;
                if !down && is_refused {
                    answer = Some(Answer::Refused);
                } else if !down {
                    for record in &batch.records {
                        sink.entry(record.id.0).or_insert_with(|| record.clone());
                    }
                    // The answer to COMMIT is swallowed now and then.
                    answer = (dice.below(10) > 0).then_some(Answer::Taken);
                }
                let news = match answer {
                    Some(answer) => shipper.answered(&batch, answer),
                    None => shipper.failed(None),
                };
                if answer.is_none() {
                    assert!(shipper.wait() >= BACK_OFF / 2 && shipper.wait() <= BACK_OFF_MOST, "seed {seed}");
                    waited += shipper.wait();
                } else {
                    assert_ne!(news, News::Gone);
                }
                if news == News::Lost {
                    assert!(batch.records[0].server_response.body == "poison", "seed {seed}: only what can never be taken is lost");
                }
            } else {
                if is_over {
                    break;
                }
                assert!(!shipper.wait().is_zero(), "seed {seed}: a store without news is not asked again at once");
            }
            kept = shipper.cursor().map(|cursor| cursor.min(in_files)).max(kept);
            if !is_over && dice.below(50) == 0 {
                lost += shipper.lost;
                shipper = Shipper::new(kept, seed ^ round);
            }
        }
        lost += shipper.lost;
        let last = store.keys().next_back().copied().unwrap_or(0);
        assert!(shipper.after() >= last, "seed {seed}: all is brought in the end");
        for (number, record) in &store {
            let found = sink.get(&record.id.0);
            let expected = record.server_response.body.replace('\0', "\u{fffd}");
            match record.server_response.body.as_str() {
                "poison" => assert!(found.is_none(), "seed {seed}"),
                _ => assert_eq!(found.map(|found| &found.server_response.body), Some(&expected), "seed {seed}, record {number}"),
            }
        }
        assert!(lost >= expired.min(1), "seed {seed}: {lost} lost, {expired} expired, {poisoned} refused, waited {waited:?}");
    }

    #[test]
    fn whatever_fails_all_that_can_be_taken_arrives() {
        (1..=40).for_each(run);
    }

    #[test]
    fn what_expired_before_it_was_brought_is_counted_once() {
        let mut shipper = Shipper::new(Some(10), 1);
        let read = || [14, 15, 18].map(|number| Committed { number, record: record(number, "ok") }).to_vec();
        let batch = shipper.batch(read()).unwrap();
        assert_eq!((batch.last, batch.gone), (18, 5));
        assert_eq!(shipper.failed(None), News::Gone);
        assert_eq!(shipper.lost, 0);
        let batch = shipper.batch(read()).unwrap();
        assert_eq!(shipper.answered(&batch, Answer::Taken), News::Back);
        assert_eq!((shipper.lost, shipper.after()), (5, 18));
        // Also where nothing comes behind them.
        shipper.passed(20);
        shipper.passed(20);
        assert_eq!((shipper.lost, shipper.after()), (7, 20));
        // A box that joins a fleet has lost nothing.
        let mut shipper = Shipper::new(None, 1);
        shipper.passed(9);
        assert_eq!((shipper.lost, shipper.cursor()), (0, None));
        assert_eq!(shipper.batch(read()).unwrap().gone, 2);
    }

    #[test]
    fn batches_are_bounded_and_grow_where_much_is_left() {
        let mut shipper = Shipper::new(None, 1);
        let long = |n: u64| (1..=n).map(|number| Committed { number, record: record(number, &"x".repeat(150_000)) }).collect::<Vec<_>>();
        assert_eq!(shipper.batch(long(9)).unwrap().records.len(), 3);
        let one = vec![Committed { number: 1, record: record(1, &"x".repeat(3 << 20)) }];
        assert_eq!(shipper.batch(one).unwrap().records.len(), 1);
        let short = |n: u64| (1..=n).map(|number| Committed { number, record: record(number, "") }).collect::<Vec<_>>();
        let batch = shipper.batch(short(2000)).unwrap();
        assert_eq!(batch.records.len(), BATCH);
        shipper.answered(&batch, Answer::Taken);
        assert_eq!((shipper.limit(), shipper.wait()), (BATCH_BEHIND, Duration::ZERO));
        // What takes the sink too long comes in pieces, and grows again.
        let mut sizes = Vec::new();
        for _ in 0..12 {
            shipper.failed(None);
            sizes.push(shipper.batch(short(2000)).unwrap().records.len());
        }
        assert_eq!((sizes[0], sizes[1], sizes[11]), (250, 125, 1));
        for _ in 0..10 {
            let batch = shipper.batch(short(2000)).unwrap();
            shipper.answered(&batch, Answer::Taken);
            assert_eq!(shipper.wait(), Duration::ZERO);
        }
        assert_eq!(shipper.batch(short(2000)).unwrap().records.len(), BATCH_BEHIND);
    }

    #[test]
    fn what_a_collector_asks_for_is_waited() {
        let mut shipper = Shipper::new(None, 7);
        for (asked, at_least) in [(Some(20), 20), (None, 0), (Some(3600), 60)] {
            shipper.failed(asked.map(Duration::from_secs));
            assert!(shipper.wait() >= Duration::from_secs(at_least) && shipper.wait() <= BACK_OFF_MOST);
        }
    }
}
