//! Figures, not checks: how long things take in a large store. Run with
//! `MAILSLUICE_RECORDS=2000000 cargo test --release --lib store::tests::figures -- --ignored --nocapture`.

use super::*;

fn took<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    println!("{what}: {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    result
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn rate(store: &Store, from: usize, place: &Place) {
    let commits = place.stats.store.commits.get();
    let begun = Instant::now();
    for round in 0..20 {
        commit_all(store, (0..500).map(|number| record(store, from + round * 500 + number)));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "at {from} records: {:.0} records/s, {:.0} commits/s",
        10_000.0 / seconds,
        (place.stats.store.commits.get() - commits) as f64 / seconds
    );
}

#[test]
#[ignore = "figures for a report: takes minutes"]
fn a_large_store() {
    let count: usize = std::env::var("MAILSLUICE_RECORDS").map_or(200_000, |text| text.parse().unwrap());
    let place = Place::new();
    let store = place.open();
    rate(&store, 0, &place);
    let begun = Instant::now();
    for start in (10_000..count).step_by(2000) {
        commit_all(&store, (start..start + 2000).map(|number| record(&store, number)));
    }
    println!("filling: {:.0} records/s", (count - 10_000) as f64 / begun.elapsed().as_secs_f64());
    rate(&store, count, &place);
    let figures = || {
        let state = store.shared.state();
        let stat = store.shared.files.stat().unwrap();
        let records = place.stats.store.records.get();
        println!(
            "{records} records: file {} MiB, on disk {} MiB, {} octets of file a record, live {} octets a record, resident {} MiB",
            stat.length >> 20,
            stat.backed >> 20,
            stat.length / records,
            state.live_octets / records,
            resident_mib()
        );
    };
    figures();
    let one = count / 2;
    let queries = [
        ("newest page", Query::default()),
        ("sender", Query { sender: Some(format!("sender{one}@example.org")), ..Query::default() }),
        ("recipient", Query { recipient: Some(format!("to{one}@example.com")), ..Query::default() }),
        ("recipient of all", Query { recipient: Some("all@example.com".into()), ..Query::default() }),
        ("Message-ID", Query { message_id: Some(format!("message-{one}@example.org")), ..Query::default() }),
        ("outcome with none", Query { outcome: Some(Outcome::Deferred), ..Query::default() }),
        ("undelivered", Query { undelivered: true, ..Query::default() }),
        ("last minute", Query { since: Some(jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1)), ..Query::default() }),
    ];
    for (what, query) in queries {
        took(what, || store.query(&query).unwrap());
    }
    took("scan for a text that is nowhere", || {
        let mut query = Query { text: Some("nowhere at all".into()), ..Query::default() };
        loop {
            query.cursor = store.query(&query).unwrap().cursor;
            if query.cursor.is_none() {
                return;
            }
        }
    });
    let copy = place.directory().join("killed.redb");
    std::fs::copy(&place.config.path, &copy).unwrap();
    std::fs::copy(place.directory().join("records.redb.index-key"), place.directory().join("killed.redb.index-key")).unwrap();
    let killed = config::Store { path: copy, ..place.config.clone() };
    drop(took("opening after a kill", || Store::open(&killed, &Stats::new()).unwrap()));
    took("closing", || store.close());
    drop(store);
    let store = took("opening", || place.open());
    took("one more commit", || commit(&store, record(&store, 1)));
    took("forget", || store.forget(&format!("sender{one}@example.org")).unwrap());
    let stat = store.shared.files.stat().unwrap();
    took("expiry of all records", || {
        store.reload(&config::Store { retention: Duration::ZERO, ..place.config.clone() });
        let mut slowest = Duration::ZERO;
        while place.stats.store.records.get() > 1000 {
            let begun = Instant::now();
            commit(&store, record(&store, 1));
            slowest = slowest.max(begun.elapsed());
        }
        println!("slowest commit meanwhile: {:.1} ms", slowest.as_secs_f64() * 1000.0);
    });
    println!("after the rewrite: file {} MiB, on disk {} MiB", stat.length >> 20, stat.backed >> 20);
}

#[test]
#[ignore = "takes minutes: many times `max_size` goes through a store"]
fn a_store_at_its_maximum() {
    let mut place = Place::new();
    place.config.max_size = 80 << 20;
    let store = place.open();
    let mut longest = 0;
    for round in 0..300 {
        commit_all(&store, (0..1500).map(|number| record(&store, round * 1500 + number)));
        let stat = store.shared.files.stat().unwrap();
        longest = longest.max(stat.length);
        if round % 20 == 0 {
            let state = store.shared.state();
            println!(
                "{} records, live {} KiB, file {} KiB, on disk {} KiB",
                place.stats.store.records.get(),
                state.live_octets >> 10,
                stat.length >> 10,
                stat.backed >> 10
            );
        }
    }
    assert!(longest <= place.config.max_size, "{longest}");
}
