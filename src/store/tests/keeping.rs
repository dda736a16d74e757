//! Records are kept, found again, counted and let go.

use super::*;

fn ids(page: &Page) -> Vec<RecordId> {
    page.records.iter().map(|record| record.id).collect()
}

#[test]
fn a_record_is_there_again_after_a_restart_as_it_was() {
    let place = Place::new();
    let store = place.open();
    let written = record(&store, 1);
    commit(&store, written.clone());
    assert_eq!(place.stats.store.records.get(), 1);
    assert!(place.stats.store.commits.get() >= 1);
    drop(store);

    let store = place.open();
    let read = store.record(written.id).unwrap().unwrap();
    assert!(read.store_us > 0);
    assert_eq!(read.processing_time_us, 3000 + read.store_us);
    let expected = Record { store_us: read.store_us, processing_time_us: read.processing_time_us, ..written };
    assert_eq!(read, expected);
    assert_eq!(store.record(store.next_id()).unwrap(), None);
}

#[test]
fn ids_rise_over_a_restart_though_the_newest_record_is_gone() {
    let mut place = Place::new();
    place.config.retention = Duration::ZERO;
    let store = place.open();
    // The clock was wrong once: an id far in the future.
    let id = RecordId(id::first_of(7_000_000_000_000));
    commit(&store, Record { id, ..record(&store, 1) });
    eventually("the record has expired", || place.stats.store.records.get() == 0);
    drop(store);
    assert!(place.open().next_id() > id);
}

#[test]
fn each_filter_finds_its_records_newest_first() {
    let mut place = Place::new();
    place.config.retention = Duration::from_secs(100 * 365 * 86_400);
    let store = place.open();
    let mut records: Vec<_> = (0..10).map(|number| record(&store, number)).collect();
    records[3].outcome = Outcome::Rejected;
    records[4].sender = String::new();
    records[5].server_response.body = "No such Ünit".into();
    records[6].date = "2020-01-01T00:00:00Z".parse().unwrap();
    let all: Vec<_> = records.iter().rev().map(|record| record.id).collect();
    commit_all(&store, records.clone());
    let found = |query: Query| ids(&store.query(&query).unwrap());
    let one = |number: usize| vec![records[number].id];

    assert_eq!(found(Query::default()), all);
    assert_eq!(found(Query { sender: Some("sEnDeR2@EXAMPLE.org".into()), ..Query::default() }), one(2));
    assert_eq!(found(Query { sender: Some(String::new()), ..Query::default() }), one(4));
    assert_eq!(found(Query { sender: Some("ender2@example.org".into()), ..Query::default() }), []);
    assert_eq!(found(Query { recipient: Some("TO7@example.com".into()), ..Query::default() }), one(7));
    assert_eq!(found(Query { recipient: Some("all@example.com".into()), ..Query::default() }), all);
    assert_eq!(found(Query { message_id: Some("message-8@example.org".into()), ..Query::default() }), one(8));
    assert_eq!(found(Query { message_id: Some("<Message-8@example.org>".into()), ..Query::default() }), one(8));
    assert_eq!(found(Query { outcome: Some(Outcome::Rejected), ..Query::default() }), one(3));
    assert_eq!(found(Query { text: Some("no such ünIT".into()), ..Query::default() }), one(5));
    assert_eq!(found(Query { text: Some("subject 9".into()), ..Query::default() }), one(9));
    assert_eq!(found(Query { recipient: Some("all@example.com".into()), text: Some("SENDER1@".into()), ..Query::default() }), one(1));
    let year = |year: &str| Some(format!("{year}-01-01T00:00:00Z").parse().unwrap());
    assert_eq!(found(Query { since: year("2019"), until: year("2021"), ..Query::default() }), one(6));
    assert_eq!(found(Query { until: Some(records[6].date), ..Query::default() }), []);
    assert_eq!(found(Query { since: Some(records[6].date), until: year("2021"), ..Query::default() }), one(6));
    assert_eq!(found(Query { since: year("2021"), ..Query::default() }).len(), 9);
}

#[test]
fn pages_meet_without_a_gap_or_a_double() {
    let place = Place::new();
    let store = place.open();
    let records: Vec<_> = (0..2500)
        .map(|number| Record { outcome: if number % 3 == 0 { Outcome::Rejected } else { Outcome::Delivered }, ..record(&store, number) })
        .collect();
    commit_all(&store, records.clone());
    assert!(place.stats.store.commits.get() < 2500, "records share commits");
    for (query, expected) in [
        (Query { limit: 7, ..Query::default() }, 2500),
        (Query { limit: 5000, ..Query::default() }, 2500),
        (Query { outcome: Some(Outcome::Rejected), limit: 100, ..Query::default() }, 834),
        (Query { recipient: Some("all@example.com".into()), limit: 999, ..Query::default() }, 2500),
        (Query { text: Some("stored as 24".into()), limit: 10, ..Query::default() }, 111),
    ] {
        let mut query = query;
        let mut found = Vec::new();
        loop {
            let page = store.query(&query).unwrap();
            assert!(page.records.len() <= query.limit.min(1000));
            found.extend(page.records.iter().map(|record| record.id));
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), expected, "{query:?}");
        assert!(found.is_sorted_by(|a, b| a > b));
    }
}

#[test]
fn long_records_make_short_pages_and_none_is_left_out() {
    let place = Place::new();
    let store = place.open();
    let long = |number| Record {
        recipients: (0..1000).map(|nth| format!("{nth}.{}@example.com", "x".repeat(60))).collect(),
        outcome: Outcome::Deferred,
        ..record(&store, number)
    };
    let records: Vec<_> = (0..200).map(long).collect();
    commit_all(&store, records.clone());
    for query in [Query::default(), Query { recipient: Some(records[0].recipients[7].clone()), ..Query::default() }] {
        let mut query = Query { limit: 1000, ..query };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.query(&query).unwrap();
            found.extend(ids(&page));
            pages += 1;
            query.cursor = page.cursor;
            if page.cursor.is_none() {
                break;
            }
        }
        assert!(pages > 3, "{pages} pages of 15 MiB");
        assert!(found.into_iter().eq(records.iter().rev().map(|record| record.id)));
    }
    let (mut cursor, mut found, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = store.undelivered(cursor, 1000).unwrap();
        found.extend(page.undelivered.iter().map(|message| message.record.id));
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages > 3 && found.into_iter().eq(records.iter().rev().map(|record| record.id)));
}

#[test]
fn a_message_is_undelivered_until_an_attempt_is_taken_or_refused() {
    let place = Place::new();
    let store = place.open();
    let attempt = |webhook: &str, outcome| Record { webhook_id: webhook.into(), outcome, ..record(&store, 0) };
    let gauge = || place.stats.messages.undelivered.get();
    let first = attempt("a", Outcome::Deferred);
    commit(&store, first.clone());
    commit(&store, attempt("b", Outcome::Deferred));
    let last = attempt("a", Outcome::Deferred);
    commit(&store, last.clone());
    commit(&store, attempt("c", Outcome::Delivered));
    assert_eq!(gauge(), 2);

    let view = store.undelivered(None, 10).unwrap().undelivered;
    assert_eq!(view.iter().map(|message| (message.record.webhook_id.as_str(), message.attempts)).collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
    assert_eq!((view[0].record.id, view[0].first_seen, view[0].last_seen), (last.id, first.date, last.date));
    // Pages of one: the last is known as such once the next is asked for.
    let first_page = store.undelivered(None, 1).unwrap();
    assert_eq!((first_page.undelivered.as_slice(), first_page.cursor), (&view[..1], Some(last.id)));
    let second_page = store.undelivered(first_page.cursor, 2).unwrap();
    assert_eq!((second_page.undelivered.as_slice(), second_page.cursor), (&view[1..], None));
    let listed = store.query(&Query { undelivered: true, ..Query::default() }).unwrap();
    assert_eq!(listed.records.iter().map(|record| record.webhook_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let listed = store.query(&Query { undelivered: true, sender: Some("sender0@example.org".into()), ..Query::default() }).unwrap();
    assert_eq!(listed.records.len(), 2);
    assert_eq!(store.attempts("a").unwrap().iter().map(|record| record.id).collect::<Vec<_>>(), [first.id, last.id]);

    drop(store);
    let store = place.open();
    assert_eq!(gauge(), 2, "over a restart");
    let attempt = |webhook: &str, outcome| Record { webhook_id: webhook.into(), outcome, ..record(&store, 0) };
    commit(&store, attempt("a", Outcome::Delivered));
    assert_eq!(gauge(), 1);
    commit(&store, attempt("b", Outcome::Rejected));
    assert_eq!(gauge(), 0);
    // An attempt that was cut off and ends after the one that got through.
    commit(&store, attempt("a", Outcome::Deferred));
    assert_eq!(gauge(), 0);
    assert!(store.undelivered(None, 10).unwrap().undelivered.is_empty());
}

#[test]
fn what_is_to_be_redacted_is_in_no_file() {
    let mut place = Place::new();
    place.config.redact = config::Redact { subject: true, sender_ip: true, response_body: true };
    let store = place.open();
    let mut written = record(&store, 1);
    written.subject = Some("marker-subject".into());
    written.sender_ip = "203.0.113.99".into();
    written.server_response.body = "marker-body".into();
    written.reply = "554 5.7.1 marker-body".into();
    written.outcome = Outcome::Rejected;
    let id = written.id;
    let mut live = store.subscribe();
    commit(&store, written);
    let read = store.record(id).unwrap().unwrap();
    assert_eq!(
        (read.subject.as_deref(), read.sender_ip.as_str(), read.server_response.body.as_str(), read.reply.as_str()),
        (None, "", "", "554 5.7.1")
    );
    assert_eq!(live.blocking_recv().unwrap().subject, None);
    drop(store);
    for marker in ["marker-subject", "203.0.113.99", "marker-body"] {
        assert_eq!(place.files_with(marker), [] as [PathBuf; 0]);
    }
}

#[test]
fn redaction_changes_with_a_reload() {
    let mut place = Place::new();
    let store = place.open();
    let (first, second) = (record(&store, 1), record(&store, 2));
    commit(&store, first.clone());
    place.config.redact.subject = true;
    store.reload(&place.config);
    commit(&store, second.clone());
    assert_eq!(store.record(first.id).unwrap().unwrap().subject, first.subject);
    assert_eq!(store.record(second.id).unwrap().unwrap().subject, None);
}

#[test]
fn records_older_than_the_retention_go_and_younger_ones_stay() {
    let place = Place::new();
    let store = place.open();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(31 * 24);
    let records: Vec<_> = (0..700)
        .map(|number| Record {
            date: if number % 10 == 0 { jiff::Timestamp::now() } else { old },
            outcome: Outcome::Deferred,
            ..record(&store, number)
        })
        .collect();
    commit_all(&store, records.clone());
    eventually("the old ones are gone", || place.stats.store.records.get() == 70);
    assert_eq!(place.stats.messages.undelivered.get(), 70);
    let left = store.query(&Query { limit: 1000, ..Query::default() }).unwrap();
    assert!(left.records.iter().all(|record| record.date > old));
    assert_eq!(store.query(&Query { sender: Some("sender1@example.org".into()), ..Query::default() }).unwrap().records, []);
}

#[test]
fn the_file_stays_below_its_maximum_and_keeps_the_newest() {
    let mut place = Place::new();
    place.config.max_size = 3 << 20;
    let store = place.open();
    let mut last = Vec::new();
    for round in 0..60 {
        last = (0..200).map(|number| record(&store, round * 200 + number)).collect();
        commit_all(&store, last.clone());
        // The keeper's thread gets its turn when the processor is free for it.
        eventually("the files are within their maximum", || usage(&place) <= place.config.max_size);
    }
    assert!(place.stats.store.records.get() < 12_000);
    let newest = store.query(&Query { limit: 200, ..Query::default() }).unwrap();
    assert_eq!(newest.records.len(), 200);
    assert_eq!(newest.records[0].id, last[199].id);
}

#[test]
fn a_lower_maximum_makes_the_file_smaller() {
    let mut place = Place::new();
    let store = place.open_with(Tuning { housekeeping: Duration::from_millis(5), batch: 500, ..Tuning::default() });
    let records: Vec<_> = (0..6000).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    store.tidy().unwrap();
    let max_size = store.shared.view().files.iter().map(|file| file.octets).sum::<u64>() * 2 / 3;
    place.config.max_size = max_size;
    store.reload(&place.config);
    eventually("the file is small enough", || usage(&place) <= max_size);
    let left = place.stats.store.records.get();
    assert!(left > 200 && left < 6000, "{left}");
    assert!(store.record(records[5999].id).unwrap().is_some());
}

#[test]
fn a_lost_index_key_costs_a_new_index_and_nothing_else() {
    let place = Place::new();
    let store = place.open_with(small());
    let records: Vec<_> = (0..50).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    store.tidy().unwrap();
    let (secret, path) = (store.id_secret(), store.shared.files.beside(".index-key"));
    drop(store);
    std::fs::remove_file(path).unwrap();
    let store = place.open();
    assert_eq!(store.id_secret(), secret);
    assert_eq!(place.stats.store.records.get(), 50);
    assert_eq!(ids(&store.query(&Query { recipient: Some("to3@example.com".into()), ..Query::default() }).unwrap()), [records[3].id]);
}

#[test]
fn the_files_are_the_daemons_own() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open();
    commit(&store, record(&store, 1));
    eventually("the ballast is there", || place.directory().join("records.redb.ballast").exists());
    store.close();
    let names: Vec<_> = std::fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(names.len() >= 5, "{names:?}");
    for entry in names {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
    }
    assert_eq!(std::fs::metadata(place.directory()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_follower_sees_each_record_once_it_is_durable() {
    let place = Place::new();
    let store = place.open();
    let mut live = store.subscribe();
    let records: Vec<_> = (0..20).map(|number| record(&store, number)).collect();
    commit_all(&store, records.clone());
    for record in records {
        assert_eq!(live.blocking_recv().unwrap().id, record.id);
    }
}

#[test]
fn a_closed_store_answers_at_once() {
    let place = Place::new();
    let store = place.open();
    let (before, after) = (record(&store, 1), record(&store, 2));
    let waiting = store.commit(before);
    store.close();
    waiting.blocking_recv().unwrap().unwrap();
    assert!(store.commit(after).blocking_recv().unwrap().is_err());
    assert!(matches!(store.query(&Query::default()), Err(StoreError::Closed)));
    assert!(matches!(store.forget("a@example.org"), Err(StoreError::Closed)));
    store.close();
}

#[test]
fn a_property_is_found_wherever_its_entries_are() {
    let place = Place::new();
    // Many files, some of them merged, and some records in memory.
    let tuning = small();
    let mut store = place.open_with(tuning.clone());
    let mut records = Vec::new();
    for round in 0..20 {
        let outcome = if round % 2 == 0 { Outcome::Delivered } else { Outcome::Deferred };
        for _ in 0..7 {
            let number = records.len();
            let record = Record { outcome, webhook_id: format!("webhook-{}", number % 10), ..record(&store, number) };
            commit(&store, record.clone());
            records.push(record);
        }
        if round % 5 == 0 {
            drop(store);
            store = place.open_with(tuning.clone());
        }
        let newest_first = |matches: &dyn Fn(&Record) -> bool| {
            let mut ids: Vec<_> = records.iter().filter(|record| matches(record)).map(|record| record.id).collect();
            ids.reverse();
            ids
        };
        for outcome in [Outcome::Delivered, Outcome::Deferred] {
            let query = Query { outcome: Some(outcome), limit: 1000, ..Query::default() };
            assert_eq!(ids(&store.query(&query).unwrap()), newest_first(&|record| record.outcome == outcome));
        }
        let to_all = Query { recipient: Some("all@example.com".into()), limit: 1000, ..Query::default() };
        assert_eq!(ids(&store.query(&to_all).unwrap()), newest_first(&|_| true));
        for record in &records {
            let query = Query { sender: Some(record.sender.clone()), ..Query::default() };
            assert_eq!(ids(&store.query(&query).unwrap()), [record.id]);
        }
        for webhook_id in (0..10).map(|number| format!("webhook-{number}")) {
            let mut attempts: Vec<_> = store.attempts(&webhook_id).unwrap().iter().map(|record| record.id).collect();
            attempts.reverse();
            assert_eq!(attempts, newest_first(&|record| record.webhook_id == webhook_id));
        }
    }
    assert!(!store.shared.view().files.is_empty(), "in files");

    // And nothing is left behind when the records go.
    drop(store);
    let mut place = place;
    place.config.retention = Duration::ZERO;
    let store = place.open_with(tuning);
    eventually("all have expired", || place.stats.store.records.get() == 0);
    assert!(store.undelivered(None, 10).unwrap().undelivered.is_empty());
    assert_eq!(place.files_with("sender3@example.org"), [] as [PathBuf; 0]);
}

#[test]
fn a_clock_that_may_be_wrong_expires_nothing() {
    let mut place = Place::new();
    let store = place.open();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(48);
    commit_all(&store, (0..10).map(|number| Record { date: old, ..record(&store, number) }));
    store.tidy().unwrap();
    drop(store);
    // As it looks to a start whose clock is far ahead.
    place.config.retention = Duration::from_secs(3600);
    let store = place.open_with(small());
    store.tidy().unwrap();
    assert_eq!(store.query(&Query::default()).unwrap().records.len(), 10);
    commit(&store, record(&store, 11));
    store.tidy().unwrap();
    assert_eq!(place.stats.store.records.get(), 11);
}
