//! How fast are data un-stuffed in place, beside a copy and memchr over the same octets?

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

mod support;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mailsluice::envelope::Peer;
use mailsluice::smtp::{Progress, Session, Settings};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const OCTETS: usize = 1 << 20;

fn in_data(settings: &Arc<Settings>) -> Session {
    let mut session = Session::new(Arc::clone(settings), Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 40_000 });
    let mut out = Vec::new();
    session.feed(b"EHLO client.example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<anna@example.com>\r\n", &mut out);
    session.recipient(Ok(()), &mut out);
    session.feed(b"DATA\r\n", &mut out);
    session.begin(Ok(()), &mut out);
    session
}

fn unstuff(c: &mut Criterion) {
    let settings = Arc::new(Settings {
        hostname: "mx.example.com".to_owned(),
        postmaster: "postmaster".to_owned(),
        max_message_size: 64 << 20,
        max_recipients: 100,
        max_messages: 100,
        max_errors: 20,
        normalize_newlines: false,
        offer_starttls: false,
        require_tls: false,
    });
    let plain = support::lines(OCTETS);
    let mut stuffed = Vec::new();
    for line in support::lines(OCTETS).chunks(76) {
        stuffed.extend_from_slice(b"..");
        stuffed.extend_from_slice(&line[2..]);
    }
    for (name, mut data) in [("plain", plain), ("every line stuffed", stuffed)] {
        data.extend_from_slice(b".\r\n");
        let mut group = c.benchmark_group(format!("unstuff/{name}"));
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function("session", |b| {
            b.iter_batched_ref(
                || (in_data(&settings), data.clone(), Vec::new()),
                |(session, data, out)| {
                    let filled = data.len();
                    let advance = session.data(data, 0, filled, out);
                    assert!(matches!(advance.progress, Progress::End { .. }));
                },
                BatchSize::LargeInput,
            )
        });
        group.bench_function("memchr", |b| b.iter(|| memchr::memchr_iter(b'\n', black_box(&data)).count()));
        group.finish();
    }
}

criterion_group!(benches, unstuff);
criterion_main!(benches);
