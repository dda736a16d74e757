//! How fast is the scan of the header block, beside memchr alone over the same octets?

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mailsluice::message::header::Scan;
use std::hint::black_box;

fn header_scan(c: &mut Criterion) {
    for (name, hops) in [("relayed", 4), ("long", 60)] {
        let mut message = support::header_block(hops);
        let block = message.len();
        message.extend_from_slice(b"\r\n");
        let mut group = c.benchmark_group(format!("header_scan/{name}"));
        group.throughput(Throughput::Bytes(block as u64));
        group.bench_function("scan", |b| {
            b.iter(|| {
                let mut scan = Scan::default();
                scan.feed(black_box(&message));
                scan.head().body
            })
        });
        // Where each line ends, as the scan has to know; to count them alone is far less work.
        group.bench_function("memchr", |b| b.iter(|| memchr::memchr_iter(b'\n', black_box(&message)).fold(0, |seen, at| seen ^ at)));
        group.finish();
    }
}

criterion_group!(benches, header_scan);
criterion_main!(benches);
