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
use mailsluice::smtp::Incoming;
use std::hint::black_box;

const OCTETS: usize = 1 << 20;

fn unstuff(c: &mut Criterion) {
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
                || (Incoming::new(false, 64 << 20), data.clone()),
                |(incoming, data)| {
                    let filled = data.len();
                    assert!(incoming.data(data, 0, filled).end);
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
