//! What does a message cost end to end: the daemon's binary between a load generator and an HTTP endpoint, both in here?
//!
//! Beside the time it prints the daemon's own CPU time per message, which other work on the machine changes less.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use daemon::{Client, Daemon, endpoint};
use std::thread;
use std::time::Duration;

fn end_to_end(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let endpoint = endpoint();
    let route = format!(
        "[[route]]\nname = \"bench\"\nrecipients = [\"*\"]\nurl = \"http://{endpoint}/\"\nformat = \"rfc822\"\nmax_concurrency = 512\n"
    );
    let daemon = Daemon::start(dir, "", &route);
    let mut group = c.benchmark_group("end_to_end");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (connections, octets) in [(1, 4096), (50, 4096), (8, 5 << 20)] {
        let mut data = support::plain(octets);
        data.extend_from_slice(b".\r\n");
        let mut clients: Vec<Client> = (0..connections).map(|_| Client::connect(daemon.smtp)).collect();
        group.throughput(Throughput::Elements(connections));
        let (before, mut messages) = (daemon.cpu(), 0);
        group.bench_function(BenchmarkId::new(format!("{octets} octets"), connections), |b| {
            b.iter(|| {
                thread::scope(|scope| clients.iter_mut().for_each(|client| drop(scope.spawn(|| client.send("anna@example.com", &data)))));
                messages += u32::try_from(connections).unwrap();
            })
        });
        println!("daemon's CPU time per message: {:?}\n", (daemon.cpu() - before) / messages.max(1));
    }
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
