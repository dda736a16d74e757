//! Promise 4, one sender's share: whatever a peer sends or leaves unsaid is felt by nobody else, in time, memory or descriptors.

use crate::support::client::{deliver, stuffed};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, PATIENCE, certificates, eventually, messages, turn};
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// A turn of the ring may take so much of its thread's processor time; this build is not optimised, and many times slower for that.
const TURN_MAX: Duration = Duration::from_millis(250);

/// One ring, and limits that do not end what is tried here.
fn one_ring(endpoint: &Endpoint) -> Config {
    Config::to(endpoint).set("smtp.threads", 1).set("smtp.max_junk_commands", 1_000_000).set("smtp.max_connections_per_ip", 100_000)
}

/// The ring's thread.
fn ring(daemon: &Daemon) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap().parse().unwrap());
    let is_ring =
        |id: &i32| std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", daemon.pid())).unwrap_or_default().trim() == "ring-0";
    ids.into_iter().find(is_ring).expect("a ring")
}

fn processor_time(daemon: &Daemon, thread: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/task/{thread}/schedstat", daemon.pid())).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// How long this thread was ready to run and did not.
fn own_delay() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').nth(1).unwrap().parse().unwrap())
}

/// What the ring does between a bystander's NOOP and its reply, at the worst, while `work` goes on. Not what it does while the bystander
/// waits for a processor, with its reply there: on a busy machine that is many turns.
fn worst_turn(daemon: &Daemon, work: impl FnOnce() + Send) -> Duration {
    let thread = ring(daemon);
    let mut bystander = Client::connect_from(IpAddr::from([127, 0, 0, 99]), daemon.smtp());
    bystander.reply().starts("220 ");
    let over = AtomicBool::new(false);
    let mut worst = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            work();
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let (delayed, before) = (own_delay(), processor_time(daemon, thread));
            bystander.expect("NOOP", "250 ");
            let turn = processor_time(daemon, thread).saturating_sub(before);
            worst = worst.max(turn.saturating_sub(own_delay().saturating_sub(delayed)));
        }
    });
    worst
}

/// What a connection holds at the most, in the clear and under TLS (ARCHITECTURE.md).
const CLEAR_MAX: usize = 32 * 1024;
const TLS_MAX: usize = 48 * 1024;

/// So many connections have not taken more than that.
#[track_caller]
fn bounded(daemon: &Daemon, before: u64, crowd: usize, each: usize) {
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < (crowd * each + 4 * MIB) as u64, "{} KiB for {crowd} connections", grown >> 10);
}

/// Sends as much as is taken within a moment, and reads nothing.
fn flood(client: &mut Client, octets: &[u8]) {
    client.tcp().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let _ = client.try_send(octets);
}

#[test]
fn chunks_of_nothing_behind_the_end_of_data() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    // A large one first, so that the window is open.
    client.data(&messages::of_size("large", 6 * MIB)).starts("250 ");
    let mut octets = b"MAIL FROM:<a@sender.test> SIZE=25000000\r\nRCPT TO:<b@example.test>\r\nDATA\r\n".to_vec();
    octets.extend(stuffed(&messages::simple("short", "text")));
    octets.extend_from_slice(b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\n");
    let chunks = 100_000;
    octets.extend_from_slice(&b"BDAT 0\r\n".repeat(chunks));
    octets.extend_from_slice(b"BDAT 0 LAST\r\n");
    let worst = worst_turn(&daemon, || {
        let mut replies = client.tcp().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::Write as _;
                replies.write_all(&octets).unwrap();
            });
            for reply in ["250 2.1.0", "250 2.1.5", "354 ", "250 2.0.0 Ok: ", "250 2.1.0", "250 2.1.5"] {
                client.reply().starts(reply);
            }
            for _ in 0..chunks {
                client.reply().starts("250 2.0.0 Chunk");
            }
            client.reply().starts("250 2.0.0 Ok: ");
        });
    });
    assert!(worst < TURN_MAX, "{worst:?} in one turn");
    assert_eq!(endpoint.count(), 3);
}

#[test]
fn senders_that_pipeline_and_do_not_read() {
    let _turn = turn::alone();
    const CROWD: usize = 150;
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    daemon.admin.wait_for_stat("connections.open", 0);
    let (rss, descriptors) = (daemon.rss(), daemon.descriptors());
    let mut crowd = Vec::new();
    let worst = worst_turn(&daemon, || {
        let octets = b"HELP\r\n".repeat(2 * MIB / 6);
        std::thread::scope(|scope| {
            let clients = (0..CROWD).map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect_silently(daemon.smtp());
                    flood(&mut client, &octets);
                    client
                })
            });
            let clients: Vec<_> = clients.collect();
            crowd = clients.into_iter().map(|client| client.join().unwrap()).collect();
        });
    });
    assert!(worst < TURN_MAX, "{worst:?} in one turn");
    bounded(&daemon, rss, CROWD, CLEAR_MAX);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("honest", "text")).starts("250 ");
    drop(crowd);
    eventually("descriptors to come back", || (daemon.descriptors() <= descriptors).then_some(()));
}

#[test]
fn parts_of_records_and_hellos() {
    let _turn = turn::alone();
    const CROWD: usize = 60;
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = certificates::Authority::new().issue_into(dir.path(), "mx", &["mx.test"]);
    let config = one_ring(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    daemon.admin.wait_for_stat("connections.open", 0);
    let rss = daemon.rss();
    // A ClientHello of 60 000 octets in records of 16 000, of which the last never comes: closed when it is too much.
    let hello: Vec<u8> = [b"\x16\x03\x01\x3e\x80\x01\x00\xea\x60".to_vec(), vec![3; 15_996]].concat();
    let more: Vec<u8> = [b"\x16\x03\x01\x3e\x80".to_vec(), vec![3; 16_000]].concat();
    let crowd: Vec<Client> = (0..CROWD)
        .map(|n| {
            let mut client = Client::connect(daemon.smtp());
            client.ehlo();
            client.expect("STARTTLS", "220 ");
            flood(&mut client, &hello[..if n % 2 == 0 { hello.len() } else { 9000 }]);
            if n % 3 == 0 {
                flood(&mut client, &more);
            }
            client
        })
        .collect();
    bounded(&daemon, rss, CROWD, CLEAR_MAX);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("honest", "text")).starts("250 ");
    drop(crowd);
}

/// Behind a handshake: records that never end, and commands whose replies nobody reads.
#[test]
fn crowds_under_tls() {
    let _turn = turn::alone();
    const CROWD: usize = 60;
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let config = one_ring(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let trusting = authority.client(rustls::ALL_VERSIONS);
    let connect = || {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.starttls(Arc::clone(&trusting));
        client
    };
    drop(connect());
    daemon.admin.wait_for_stat("connections.open", 0);
    let (rss, descriptors) = (daemon.rss(), daemon.descriptors());
    let mut crowd = Vec::new();
    let worst = worst_turn(&daemon, || {
        let part = [b"\x17\x03\x03\x41\x00".to_vec(), vec![3; 16_000]].concat();
        for _ in 0..CROWD {
            let client = connect();
            std::io::Write::write_all(&mut client.tcp(), &part).unwrap();
            crowd.push(client);
        }
    });
    assert!(worst < TURN_MAX, "{worst:?} in one turn");
    bounded(&daemon, rss, CROWD, CLEAR_MAX);
    drop(crowd);
    eventually("descriptors to come back", || (daemon.descriptors() <= descriptors).then_some(()));
    let rss = daemon.rss();
    let mut crowd = Vec::new();
    let worst = worst_turn(&daemon, || {
        let octets = b"HELP\r\n".repeat(MIB / 6);
        let flooding = |mut client: Client| {
            flood(&mut client, &octets);
            client
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CROWD).map(|_| connect()).map(|client| scope.spawn(|| flooding(client))).collect();
            crowd = clients.into_iter().map(|client| client.join().unwrap()).collect();
        });
    });
    assert!(worst < TURN_MAX, "{worst:?} in one turn");
    bounded(&daemon, rss, CROWD, TLS_MAX);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("honest", "text")).starts("250 ");
}

/// Small pieces, and nothing at all where much was announced.
#[test]
fn crowds_that_send_next_to_nothing() {
    let _turn = turn::alone();
    const CROWD: usize = 60;
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint).set("smtp.proxy_protocol_from", vec!["127.0.2.0/24"]));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    daemon.admin.wait_for_stat("connections.open", 0);
    let (rss, descriptors) = (daemon.rss(), daemon.descriptors());
    let mut crowd = Vec::new();
    let worst = worst_turn(&daemon, || {
        for n in 0..CROWD {
            let mut client = if n % 4 == 0 {
                // A proxy's header, octet by octet.
                Client::connect_from(IpAddr::from([127, 0, 2, 1]), daemon.smtp())
            } else {
                Client::connect(daemon.smtp())
            };
            match n % 4 {
                0 => {}
                1 => {
                    client.ehlo();
                    client.expect("MAIL FROM:<a@sender.test> SIZE=26214400", "250 ");
                    client.expect("RCPT TO:<b@example.test>", "250 ");
                    client.expect("DATA", "354 ");
                }
                _ => client.envelope("a@sender.test", &["b@example.test"]),
            }
            crowd.push(client);
        }
        for round in 0..40 {
            for (n, client) in crowd.iter_mut().enumerate() {
                match n % 4 {
                    0 => client.send(&b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 25                      "[round..=round]),
                    1 => client.send("x"),
                    2 => {
                        client.bdat(b"x", false).starts("250 ");
                    }
                    _ => client.send(&b"BDAT 1000000                                     "[round..=round]),
                }
            }
        }
    });
    assert!(worst < TURN_MAX, "{worst:?} in one turn");
    bounded(&daemon, rss, CROWD, CLEAR_MAX);
    let held = daemon.admin.stat("memory.body_bytes");
    assert!(held <= (CROWD * 64 * 1024) as u64, "{held} octets for nothing");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::of_size("honest", 7 * MIB)).starts("250 ");
    drop(crowd);
    eventually("descriptors to come back", || (daemon.descriptors() <= descriptors).then_some(()));
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
}

#[test]
fn chunks_have_the_clocks_of_a_message() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint).set("smtp.message_timeout", "2s"));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    let begun = Instant::now();
    let last = loop {
        assert!(begun.elapsed() < PATIENCE, "still taken");
        let reply = client.bdat(b"x", false);
        if reply.code != 250 {
            break reply;
        }
        crate::support::wait::tick();
    };
    last.starts("421 4.4.2 ");
    client.closed();
    assert!(begun.elapsed() >= Duration::from_millis(1900));
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    // A pause between two chunks is no way around it.
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.bdat(b"x", false).starts("250 ");
    client.reply().starts("421 4.4.2 ");
    client.closed();
}

/// RFC 3030 lets a sender pipeline its chunks, so those behind a failed one are the message's as well; but most send no more.
#[test]
fn a_chunk_that_is_too_large_has_its_record() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint).set("smtp.max_message_size", "64KiB"));
    let message = messages::of_size("too large", 100_000);
    let (first, rest) = message.split_at(70_000);
    // All of it, at once and in any way; and then only a part, by a sender that keeps its connection and says nothing.
    let mut all = Client::connect(daemon.smtp());
    all.envelope("a@sender.test", &["b@example.test"]);
    all.send([format!("BDAT {}\r\n", first.len()).as_bytes(), first, format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat());
    all.reply().starts("552 5.3.4 ");
    all.reply().starts("552 5.3.4 ");
    let whole = recorded(&daemon, 1);
    let mut data = Client::connect(daemon.smtp());
    data.envelope("a@sender.test", &["b@example.test"]);
    data.data(&message).starts("552 5.3.4 ");
    let mut part = Client::connect(daemon.smtp());
    part.envelope("a@sender.test", &["b@example.test"]);
    part.bdat(first, false).starts("552 5.3.4 ");
    assert_eq!(daemon.admin.stat("messages.refused.size"), 3, "counted with the reply");
    let records = recorded(&daemon, 3);
    for record in &records {
        assert_eq!(
            (&record["subject"], &record["route"], &record["outcome"]),
            (&records[0]["subject"], &records[0]["route"], &"rejected".into())
        );
        assert!(record["reply"].as_str().unwrap().starts_with("552 5.3.4 "));
        assert_eq!(record["message_id"], records[0]["message_id"]);
    }
    let alike = |record: &&serde_json::Value| record["webhook_id"] == whole[0]["webhook_id"] && record["size"] == whole[0]["size"];
    assert_eq!(records.iter().filter(alike).count(), 2, "{records:?}");
    // What comes of it later is swallowed, and is no message of its own.
    part.bdat(rest, true).starts("552 5.3.4 ");
    part.transaction("a@sender.test", &["b@example.test"]);
    part.data(&messages::simple("x", "text")).starts("250 ");
    assert_eq!(recorded(&daemon, 4).len(), 4);
}

/// The records, once there are so many.
fn recorded(daemon: &Daemon, count: usize) -> Vec<serde_json::Value> {
    eventually("the records", || {
        let records = daemon.admin.records("");
        (records.len() >= count).then_some(records)
    })
}

#[test]
fn a_connection_that_only_talks_ends() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint).set("smtp.transaction_timeout", "2s"));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
    let begun = Instant::now();
    let last = loop {
        assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
        let reply = client.command("NOOP");
        if reply.code != 250 {
            break reply;
        }
        crate::support::wait::tick();
    };
    last.starts("421 4.4.2 ");
    client.closed();
    assert!(begun.elapsed() >= Duration::from_millis(1900), "it begins anew with each message");
}

#[test]
fn sizes_that_are_only_declared_hold_nothing() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint));
    let declared = |octet: u8| {
        let mut client = Client::connect_from(IpAddr::from([127, 0, 1, octet]), daemon.smtp());
        client.reply().starts("220 ");
        client.ehlo();
        client.expect("MAIL FROM:<a@sender.test> SIZE=26214400", "250 ");
        client.expect("RCPT TO:<b@example.test>", "250 ");
        client.expect("DATA", "354 ");
        client
    };
    let _held: Vec<Client> = (0..20).map(|n| declared(n / 4)).collect();
    let held = daemon.admin.stat("memory.body_bytes");
    assert!(held <= 20 * 64 * 1024, "{held} octets for nothing");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::of_size("honest", 7 * MIB)).starts("250 ");
}

#[test]
fn recipients_are_counted_too() {
    let endpoint = Endpoint::ok();
    let config = one_ring(&endpoint).of_route("format", "json").set("memory.body_budget", "128KiB").set("memory.per_ip_share", 1.0);
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    let refused =
        (0..100).map(|n| client.command(&format!("RCPT TO:<{n}{}@example.test>", "x".repeat(900)))).find(|reply| reply.code != 250);
    refused.expect("a bound").starts("452 4.3.1 ");
    assert!(daemon.admin.stat("memory.body_bytes") > 100 * 1024);
    client.expect("RSET", "250 ");
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    client.transaction("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("x", "text")).starts("250 ");
}

#[test]
fn more_replies_than_a_record_layer_holds() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let config = one_ring(&endpoint)
        .set("smtp.command_timeout", "1m")
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.starttls(authority.client(rustls::ALL_VERSIONS));
    client.send(b"HELP\r\n".repeat(2000));
    for _ in 0..2000 {
        client.reply().starts("214 ");
    }
    client.expect("NOOP", "250 ");
    // The client's end comes with a command, in one segment: answered, and over, long before the command's time is.
    let begun = Instant::now();
    client.send_and_close_tls(b"NOOP\r\n");
    client.reply().starts("250 ");
    client.closed();
    assert!(begun.elapsed() < Duration::from_secs(50));
}

#[test]
fn replies_do_not_wait_for_the_callbacks_behind_them() {
    let gate = Gate::default();
    let authorizer = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("authorize_url", authorizer.url("/authorize")));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.send("MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\n");
    client.reply().starts("250 2.1.0 ");
    gate.open();
    client.reply().starts("250 2.1.5 ");
}

/// A message whose reply is waited for, and what goes out with its end.
fn sent_with(daemon: &Daemon, behind: &[u8]) -> Client {
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send([&stuffed(&messages::simple("x", "text")), behind].concat());
    client
}

#[test]
fn a_reply_that_nobody_hears_is_counted() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint));
    let sent = || sent_with(&daemon, b"");
    // One closes in the ordinary way, one says only that it will say no more.
    drop(sent());
    let mut listening = sent();
    listening.finish();
    endpoint.wait_for(2);
    gate.open();
    listening.reply().starts("250 2.0.0 Ok: ");
    drop(listening);
    daemon.admin.wait_for_stat("messages.delivered", 2);
    daemon.admin.wait_for_stat("connections.open", 0);
    daemon.admin.wait_for_stat("messages.replies_lost", 1);
}

/// As Postfix does it: the end of data and QUIT go out together, and nobody waits for the reply to the second.
#[test]
fn a_reply_in_front_of_a_pipelined_quit_is_counted_only_if_nobody_hears_it() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint));
    let sent = || sent_with(&daemon, b"QUIT\r\n");
    drop(sent());
    let mut listening = sent();
    endpoint.wait_for(2);
    gate.open();
    listening.reply().starts("250 2.0.0 Ok: ");
    drop(listening);
    daemon.admin.wait_for_stat("messages.delivered", 2);
    daemon.admin.wait_for_stat("connections.open", 0);
    daemon.admin.wait_for_stat("messages.replies_lost", 1);
}

#[test]
fn refused_connections_take_no_descriptors() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint).set("smtp.max_connections_per_ip", 10));
    let before = daemon.descriptors();
    let _crowd: Vec<Client> = (0..400).map(|_| Client::connect_silently(daemon.smtp())).collect();
    eventually("all to be accepted", || (daemon.admin.stat("connections.refused.per_ip_limit") == 390).then_some(()));
    let grown = daemon.descriptors().saturating_sub(before);
    assert!(grown <= 10 + 32 + 8, "{grown} descriptors");
}

#[test]
fn nothing_begins_behind_a_sigterm() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(one_ring(&endpoint));
    let mut idle = Client::connect(daemon.smtp());
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let transaction = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\nBDAT 14 LAST\r\nSubject: x\r\n\r\n".to_vec();
    client.send(transaction.repeat(10));
    endpoint.wait_for(1);
    daemon.signal(Signal::SIGTERM);
    // The ring knows when it tells those that wait.
    idle.reply().starts("421 4.3.2 ");
    gate.open();
    for reply in ["250 2.1.0 ", "250 2.1.5 ", "250 2.0.0 Ok: ", "421 4.3.2 "] {
        client.reply().starts(reply);
    }
    client.closed();
    assert_eq!(endpoint.count(), 1);
}

/// A handshake is nothing that has begun: who stands in one keeps no daemon from its end.
#[test]
fn nobody_waits_for_a_handshake_behind_a_sigterm() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = certificates::Authority::new().issue_into(dir.path(), "mx", &["mx.test"]);
    let config = one_ring(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let mut silent = Client::connect(daemon.smtp());
    silent.ehlo();
    silent.expect("STARTTLS", "220 ");
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(stuffed(&messages::simple("x", "text")));
    endpoint.wait_for(1);
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    silent.rest();
    assert!(begun.elapsed() < Duration::from_secs(20), "the handshake's own time was waited for");
    gate.open();
    client.reply().starts("250 2.0.0 Ok: ");
    client.reply().starts("421 4.3.2 ");
    client.closed();
}

/// Stops one thread as a debugger does, and lets it go again.
fn ptrace(request: libc::c_uint, thread: i32) {
    // SAFETY: none of these requests has an address to read or write.
    #[expect(unsafe_code, reason = "one thread is to be stopped, which signals cannot do")]
    let done = unsafe { libc::ptrace(request, thread, std::ptr::null_mut::<libc::c_void>(), std::ptr::null_mut::<libc::c_void>()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_ring_that_stands_is_noticed() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(one_ring(&endpoint));
    assert_eq!(daemon.admin.get("/healthz").status, 200);
    let thread = ring(&daemon);
    ptrace(libc::PTRACE_SEIZE, thread);
    ptrace(libc::PTRACE_INTERRUPT, thread);
    eventually("the standing ring to be noticed", || (daemon.admin.get("/healthz").status == 503).then_some(()));
    let ready = daemon.admin.get("/readyz");
    assert_eq!((ready.status, ready.text().trim()), (503, "degraded: ring-0 stands"));
    eventually("the watchdog's silence", || daemon.log().contains("the watchdog is not told").then_some(()));
    ptrace(libc::PTRACE_DETACH, thread);
    eventually("the ring to go on", || (daemon.admin.get("/healthz").status == 200).then_some(()));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}
