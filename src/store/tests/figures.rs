//! Figures, not checks: how long things take in a large store. Run with
//! `MAILSLUICE_RECORDS=2000000 cargo test --release --lib store::tests::figures::a_large_store -- --ignored --nocapture`. With
//! `MAILSLUICE_KEEP=DIRECTORY` the finished store is copied there.

use super::*;

/// Searches to the end; how long that took.
fn all_pages(store: &Store, text: &str) -> Duration {
    let begun = Instant::now();
    let mut query = Query { text: Some(text.into()), ..Query::default() };
    loop {
        query.cursor = store.query(&query).unwrap().cursor;
        if query.cursor.is_none() {
            return begun.elapsed();
        }
    }
}

/// Runs something while records are committed one by one; says how long the slowest took.
fn beside_mail(what: &str, store: &Arc<Store>, work: impl FnOnce()) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mail = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                commit(store, record(store, 1));
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        took(what, work);
        stop.store(true, Ordering::Relaxed);
        println!("slowest commit meanwhile: {:.1} ms", mail.join().unwrap().as_secs_f64() * 1000.0);
    });
}

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
    // Every record decoded: what a store without an index would do for any question.
    let scan = took("scan with every record decoded", || all_pages(&store, "überhaupt nirgends"));
    println!("ratios to it:");
    let ratio = |what: &str, work: &dyn Fn()| {
        // The first asks the disk, the second finds pages in memory.
        let [first, second] = [(), ()].map(|()| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        });
        println!("{what}: 1/{:.0}, again 1/{:.0}", scan.div_duration_f64(first), scan.div_duration_f64(second));
    };
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
        ratio(what, &|| drop(store.query(&query).unwrap()));
    }
    ratio("one record", &|| drop(store.record(store.next_id()).unwrap()));
    ratio("attempts", &|| drop(store.attempts(&format!("webhook-{one}")).unwrap()));
    ratio("text that is nowhere", &|| _ = all_pages(&store, "nowhere at all"));
    ratio("export", &|| {
        let mut cursor = None;
        loop {
            cursor = store.export(&format!("sender{one}@example.org"), cursor).unwrap().cursor;
            if cursor.is_none() {
                return;
            }
        }
    });
    took("the first page of a text that is nowhere", || store.query(&Query { text: Some("nowhere".into()), ..Query::default() }).unwrap());
    let copy = place.directory().join("killed.redb");
    std::fs::copy(&place.config.path, &copy).unwrap();
    std::fs::copy(place.directory().join("records.redb.index-key"), place.directory().join("killed.redb.index-key")).unwrap();
    let killed = config::Store { path: copy, ..place.config.clone() };
    drop(took("opening after a kill", || Store::open(&killed, &Stats::new()).unwrap()));
    took("closing", || store.close());
    drop(store);
    // To start a daemon on.
    if let Some(keep) = std::env::var_os("MAILSLUICE_KEEP") {
        for entry in std::fs::read_dir(place.directory()).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), Path::new(&keep).join(entry.file_name())).unwrap();
        }
    }
    let store = took("opening", || place.open());
    took("one more commit", || commit(&store, record(&store, 1)));
    beside_mail("nothing else", &store, || std::thread::park_timeout(Duration::from_secs(5)));
    beside_mail("forget", &store, || assert_eq!(store.forget(&format!("sender{one}@example.org")).unwrap(), 1));
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
