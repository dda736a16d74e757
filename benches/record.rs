//! What does a durable record cost, by how many are in flight: one commit is one fsync, shared by what has gathered?

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mailsluice::config::{Config, Origin};
use mailsluice::record::{Outcome, Record, ServerResponse};
use mailsluice::stats::Stats;
use mailsluice::store::Store;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

fn record(store: &Store) -> Record {
    let id = store.next_id();
    Record {
        id,
        date: jiff::Timestamp::now(),
        sender_ip: "192.0.2.1".to_owned(),
        message_id: Some(format!("<{id}@example.org>")),
        sender: "bob@example.org".to_owned(),
        recipients: vec!["anna@example.com".to_owned()],
        subject: Some("Greetings of today".to_owned()),
        server_response: ServerResponse { status: 200, body: "ok".to_owned(), content_type: None, retry_after: None },
        processing_time_us: 1234,
        queue_us: 12,
        forward_us: 800,
        store_us: 0,
        outcome: Outcome::Delivered,
        reply: "250 2.0.0 Ok".to_owned(),
        size: 4096,
        tls: None,
        route: "bench".to_owned(),
        webhook_id: format!("msg_{id}"),
    }
}

fn group_commit(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let text = format!(
        "[store]\npath = \"{}\"\n[[route]]\nname = \"bench\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:9/\"\n",
        dir.path().join("records.redb").display()
    );
    let config = Config::parse(Origin::File("bench.toml".into()), &text).unwrap();
    let store = Store::open(&config.store, &Stats::new()).unwrap();
    let mut group = c.benchmark_group("record");
    group.sample_size(20);
    // The disk's own price beside it.
    let file = std::fs::File::create(dir.path().join("beside")).unwrap();
    (&file).write_all(&[0; 4096]).unwrap();
    group.bench_function("one write and fsync", |b| {
        b.iter(|| {
            file.write_all_at(&[1; 4096], 0).unwrap();
            file.sync_data().unwrap();
        })
    });
    for in_flight in [1, 16, 256] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("commit, {in_flight} in flight"), |b| {
            b.iter(|| {
                let answers: Vec<_> = (0..in_flight).map(|_| store.commit(record(&store))).collect();
                answers.into_iter().for_each(|answer| answer.blocking_recv().unwrap().unwrap());
            })
        });
    }
    group.finish();
    store.close();
}

criterion_group!(benches, group_commit);
criterion_main!(benches);
