//! What does the protocol cost without I/O: one message's commands and replies in a session that goes on?

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use mailsluice::envelope::Peer;
use mailsluice::smtp::{Incoming, Need, Session, Settings, reply};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        hostname: "mx.example.com".to_owned(),
        postmaster: "postmaster".to_owned(),
        max_message_size: 64 << 20,
        max_recipients: 100,
        max_messages: u32::MAX,
        max_errors: 20,
        max_junk: 100,
        normalize_newlines: false,
        offer_starttls: false,
        require_tls: false,
    })
}

fn greeted() -> Session {
    let mut session = Session::new(settings(), Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 40_000 });
    let mut out = Vec::new();
    session.greet(&mut out);
    session.feed(b"EHLO client.example.org\r\n", &mut out);
    session
}

fn transaction(session: &mut Session, data: &mut [u8], out: &mut Vec<u8>) {
    let mut input: &[u8] = b"MAIL FROM:<bob@example.org> SIZE=64\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n";
    loop {
        let (used, need) = session.feed(input, out);
        input = &input[used..];
        match need {
            Need::Recipient(_) => session.recipient(Ok(()), out),
            Need::Message => session.begin(Ok(()), out),
            Need::Data => break,
            other => unreachable!("{other:?}"),
        }
    }
    let filled = data.len();
    let mut incoming = Incoming::new(false, 64 << 20);
    let pass = incoming.data(data, 0, filled);
    assert!(pass.end && incoming.refusal().is_none());
    session.end(&reply::NO_VALID_RECIPIENTS, out);
}

fn session(c: &mut Criterion) {
    let mut session = greeted();
    let (mut data, mut out) = (Vec::new(), Vec::new());
    c.bench_function("session/one small message", |b| {
        b.iter(|| {
            data.clear();
            data.extend_from_slice(b"Subject: x\r\n\r\nhello\r\n.\r\n");
            out.clear();
            transaction(&mut session, &mut data, &mut out);
            black_box(&out);
        })
    });
}

criterion_group!(benches, session);
criterion_main!(benches);
