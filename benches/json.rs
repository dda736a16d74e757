//! What does the JSON of a 1 MiB message with an attachment cost, beside the parser and base64 alone?

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a bench stops at the first thing that is not as expected, and says so"
)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mailsluice::config::{Config, Origin};
use mailsluice::envelope::{Envelope, Peer};
use mailsluice::format;
use mailsluice::verify::Verification;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

const ATTACHMENT: usize = 760 * 1024;

fn message() -> Vec<u8> {
    let mut message = support::header_block(3);
    message.extend_from_slice(
        b"Content-Type: multipart/mixed; boundary=\"edge\"\r\n\r\n--edge\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    message.extend_from_slice(&support::lines(4096));
    message.extend_from_slice(
        b"\r\n--edge\r\nContent-Type: application/pdf; name=\"report.pdf\"\r\nContent-Disposition: attachment; filename=\"report.pdf\"\r\n\
          Content-Transfer-Encoding: base64\r\n\r\n",
    );
    let octets: Vec<u8> = (0..ATTACHMENT).map(|n| (n * 7919 % 251).to_le_bytes()[0]).collect();
    for line in STANDARD.encode(octets).as_bytes().chunks(76) {
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"--edge--\r\n");
    message
}

fn json(c: &mut Criterion) {
    let text = "[[route]]\nname = \"bench\"\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:9/\"\nformat = \"json\"\n";
    let config = Config::parse(Origin::File("bench.toml".into()), text).unwrap();
    let envelope = Envelope {
        peer: Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 40_000 },
        helo: "client.example.org".to_owned(),
        reverse_path: "bob@example.org".to_owned(),
        recipients: vec!["anna@example.com".to_owned()],
        declared_size: None,
        smtputf8: false,
        tls: None,
    };
    let message = message();
    let mut group = c.benchmark_group("json");
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("render", |b| {
        b.iter(|| {
            let rendered = format::render(&config.routes[0], &envelope, &Verification::default(), black_box(&message), &mut |_| Ok(()));
            rendered.unwrap().len
        })
    });
    group.bench_function("parser and base64 alone", |b| {
        b.iter(|| {
            let parsed = mail_parser::MessageParser::default().parse(black_box(&message)).unwrap();
            let attachment = parsed.attachment(0).unwrap();
            STANDARD.encode(attachment.contents()).len()
        })
    });
    group.finish();
}

criterion_group!(benches, json);
criterion_main!(benches);
