//! One message has one identity and one record: however its octets are cut, by DATA or BDAT, in the clear or under TLS, and whatever
//! becomes of it.

use crate::support::client::stuffed;
use crate::support::{Client, Config, Daemon, Endpoint, certificates, eventually, messages};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::sync::Arc;

/// A daemon, and what becomes of its messages.
struct Fate {
    daemon: Daemon,
    endpoint: Endpoint,
    reply: &'static str,
}

/// How it comes.
#[derive(Debug)]
struct Way {
    tls: bool,
    chunks: bool,
}

const WAYS: [Way; 4] = [
    Way { tls: false, chunks: false },
    Way { tls: false, chunks: true },
    Way { tls: true, chunks: false },
    Way { tls: true, chunks: true },
];

/// A message that DATA can carry, with bare newlines in some.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        10 => prop::sample::select(vec![
            "Subject: one\r\n", "Subject: =?utf-8?q?two?=\r\n three\r\n", "Message-ID: <a@b>\r\n", "X: y\r\n", "\r\n", "text\r\n", ".\r\n", "..\r\n",
            "\r\n.\r\n", "a", ".", "\r\n",
        ])
        .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\r", "\n", "\n.", "\r\r\n"]).prop_map(str::to_owned),
        1 => (1000_usize..9000).prop_map(|length| "x".repeat(length)),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| {
        let mut message = pieces.concat().into_bytes();
        if !message.ends_with(b"\r\n") {
            message.extend_from_slice(b"\r\n");
        }
        message
    })
}

fn pieces<'a>(octets: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(octets.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    cuts.into_iter().chain([octets.len()]).map(|to| &octets[std::mem::replace(&mut from, to)..to]).collect()
}

impl Fate {
    fn new(files: &certificates::Files, reply: &'static str, change: impl FnOnce(Config) -> Config) -> Self {
        let endpoint = Endpoint::ok();
        let config = Config::to(&endpoint)
            .of_route("format", "rfc822")
            .set("forward.id_secret", "one secret of all boxes, so that they know a message by one name")
            .set("smtp.max_messages_per_connection", 1_000_000)
            .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
            .set("smtp.tls.private_key", files.key.to_str().unwrap());
        Self { daemon: Daemon::start(change(config)), endpoint, reply }
    }

    /// Its record, and what the endpoint got.
    fn bring(
        &self,
        trusting: &Arc<rustls::ClientConfig>,
        way: &Way,
        sender: &str,
        message: &[u8],
        cuts: &[Vec<prop::sample::Index>; 3],
    ) -> (Value, Option<Vec<u8>>) {
        let [ends, cuts, wire] = cuts;
        let mut client = Client::connect(self.daemon.smtp());
        client.ehlo();
        if way.tls {
            client.starttls(Arc::clone(trusting));
            client.ehlo();
        }
        client.transaction(sender, &["b@example.test"]);
        let known = self.daemon.admin.records(&format!("sender={sender}")).len();
        self.endpoint.clear();
        let mut replies = 1;
        let octets = if way.chunks {
            let chunks = pieces(message, ends);
            replies = chunks.len();
            let last = |n| if n + 1 == replies { " LAST" } else { "" };
            let with_command = |(n, chunk): (usize, &&[u8])| [format!("BDAT {}{}\r\n", chunk.len(), last(n)).as_bytes(), chunk].concat();
            chunks.iter().enumerate().flat_map(with_command).collect()
        } else {
            client.expect("DATA", "354 ");
            stuffed(message)
        };
        let wire: Vec<usize> = wire.iter().map(|cut| cut.index(octets.len() + 1)).collect();
        client.send_in_pieces(&pieces(&octets, cuts), &wire);
        let reply = (0..replies).map(|_| client.reply()).last().unwrap();
        reply.starts(self.reply);
        let record = eventually("its record", || {
            let records = self.daemon.admin.records(&format!("sender={sender}"));
            (records.len() > known).then(|| records.into_iter().next()).flatten()
        });
        assert_eq!(record["tls"].is_string(), way.tls, "{record}");
        let body = self.endpoint.requests().pop().map(|request| request.body.clone());
        (record, body)
    }
}

/// What of a record is the message's, whatever became of it.
fn identity(record: &Value) -> Value {
    ["webhook_id", "message_id", "subject", "size", "sender", "recipients", "route", "sender_ip"]
        .map(|key| record[key].clone())
        .to_vec()
        .into()
}

/// All of a record but when and how it came.
fn without_time(record: &Value) -> Value {
    let mut record = record.clone();
    let id = record["id"].as_str().unwrap().to_owned();
    let fields = record.as_object_mut().unwrap();
    fields.retain(|key, _| !["id", "date", "processing_time_us", "queue_us", "forward_us", "store_us", "tls"].contains(&key.as_str()));
    fields["reply"] = fields["reply"].as_str().unwrap().replace(&id, "").into();
    record
}

#[test]
fn a_message_has_one_record_however_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let authority = certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let trusting = authority.client(rustls::ALL_VERSIONS);
    let kept = Fate::new(&files, "250 2.0.0 ", |config| config.set("smtp.bare_newline", "normalize"));
    let strict = Fate::new(&files, "550 5.6.0 ", |config| config);
    let small = Fate::new(&files, "552 5.3.4 ", |config| config.set("smtp.max_message_size", "4KiB"));
    let starved = Fate::new(&files, "452 4.3.1 ", |config| {
        config.set("memory.body_budget", "128KiB").set("memory.per_ip_share", 1.0).set("smtp.bare_newline", "normalize")
    });
    let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 6, failure_persistence: None, max_shrink_iters: 8, ..ProptestConfig::default() });
    let number = std::cell::Cell::new(0);
    let tried = runner.run(&(message(), [cuts(), cuts(), cuts()]), |(message, cuts)| {
        let followed_by = |more: &[u8]| [&message[..], more, b"\r\n"].concat();
        let of_each = [
            (&kept, message.clone()),
            (&strict, followed_by(b"a bare\nnewline")),
            (&small, messages::with_crlf(&followed_by(&[b'x'; 5000]))),
            (&starved, followed_by(&[b'x'; 140_000])),
        ];
        for (fate, message) in of_each {
            number.set(number.get() + 1);
            let sender = format!("a{}@sender.test", number.get());
            let bring = |fate: &Fate, way| fate.bring(&trusting, way, &sender, &message, &cuts);
            let (record, body) = bring(fate, &WAYS[0]);
            for way in &WAYS[1..] {
                let (another, another_body) = bring(fate, way);
                prop_assert_eq!(without_time(&another), without_time(&record), "{:?}", way);
                prop_assert!(another_body == body, "{:?}", way);
            }
            // Refused by one and taken by another it is the same message. (Where newlines are not mended they are others.)
            if !std::ptr::eq(fate, &raw const strict) {
                let (taken, taken_body) = bring(&kept, &WAYS[3]);
                prop_assert_eq!(identity(&taken), identity(&record));
                prop_assert!(taken_body.is_some_and(|body| body == messages::with_crlf(&message)));
            }
        }
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}
