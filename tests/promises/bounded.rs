//! Promise 4: it degrades by saying "later"; one hanging endpoint leaves the other routes as they were.

use crate::support::busy::{Busy, Takes};
use crate::support::client::{deliver, stuffed};
use crate::support::load::{self, Load};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, eventually, messages, turn};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

#[test]
fn a_full_queue_says_later_at_once() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint).set("forward.workers", 2).set("forward.queue", 3).of_route("timeout", "60s"));
    // Two at the endpoint, three in the queue.
    let mut waiting: Vec<Client> = (0..5).map(|n| sent(daemon.smtp(), n)).collect();
    endpoint.wait_for(2);
    daemon.admin.wait_for_stat("forwarders.queued", 3);
    let begun = Instant::now();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("over", "text")).starts("451 4.3.2 ");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(daemon.admin.stat("messages.refused.queue"), 1);
    gate.open();
    for client in &mut waiting {
        client.reply().starts("250 ");
    }
}

fn sent(to: SocketAddr, n: usize) -> Client {
    let mut client = Client::connect(to);
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(stuffed(&messages::simple(&format!("m{n}"), "text")));
    client
}

#[test]
fn max_concurrency_of_a_route() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint).of_route("max_concurrency", 2));
    let mut waiting: Vec<Client> = (0..6).map(|n| sent(daemon.smtp(), n)).collect();
    daemon.admin.wait_for_stat("routes.all.queued", 4);
    assert_eq!(daemon.admin.stat("routes.all.busy"), 2);
    assert_eq!(endpoint.count(), 2);
    gate.open();
    for client in &mut waiting {
        client.reply().starts("250 ");
    }
}

#[test]
fn the_breaker_opens_probes_and_closes() {
    // A listener that is there, but answers nothing.
    let healthy = std::sync::Arc::new(AtomicBool::new(false));
    let state = std::sync::Arc::clone(&healthy);
    let endpoint =
        Endpoint::with(move |_| if state.load(Ordering::Relaxed) { Answer::status(200) } else { Answer::Reset(Vec::new()) }).start();
    let breaker = toml::Table::from_iter([("failures".to_owned(), toml::Value::from(3)), ("cooldown".to_owned(), "1s".into())]);
    let daemon = Daemon::start(Config::to(&endpoint).set("forward.breaker", breaker));
    let send = || deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text"));
    for _ in 0..3 {
        send().starts("450 4.4.2 ");
    }
    send().starts("451 4.3.2 ");
    assert_eq!(endpoint.count(), 3);
    assert_eq!(daemon.admin.json("/stats")["routes"]["all"]["breaker"], "open");
    assert_eq!(daemon.admin.stat("messages.refused.breaker"), 1);
    // It was refused before its data: there is no record, and no stage has a duration of it.
    for stage in ["queue", "forward", "total"] {
        assert_eq!(daemon.admin.stat(&format!("latency.{stage}.total.count")), 3, "{stage}");
    }
    // One probe after the cooldown fails, and opens it again.
    let probed = eventually("a probe", || Some(send()).filter(|reply| reply.code == 450));
    probed.starts("450 4.4.2 ");
    send().starts("451 4.3.2 ");
    healthy.store(true, Ordering::Relaxed);
    eventually("the breaker to close", || (send().code == 250).then_some(()));
    send().starts("250 ");
    assert_eq!(daemon.admin.json("/stats")["routes"]["all"]["breaker"], "closed");
}

#[test]
fn refusals_of_the_endpoint_do_not_open_the_breaker() {
    let endpoint = Endpoint::in_turn((0..30).map(|n| Answer::status(if n % 2 == 0 { 500 } else { 403 })).collect());
    let breaker = toml::Table::from_iter([("failures".to_owned(), toml::Value::from(3)), ("cooldown".to_owned(), "60s".into())]);
    let daemon = Daemon::start(Config::to(&endpoint).set("forward.breaker", breaker));
    for _ in 0..10 {
        let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text"));
        assert!(matches!(reply.code, 450 | 554), "{reply:?}");
    }
    assert_eq!(endpoint.count(), 10);
}

#[test]
fn an_exhausted_body_budget_says_later() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let config = Config::to(&endpoint)
        .set("memory.body_budget", "8MiB")
        .set("memory.per_ip_share", 1.0)
        .set("smtp.max_message_size", "4MiB")
        .of_route("timeout", "60s");
    let daemon = Daemon::start(config);
    let message = messages::of_size("held", 3 * MIB);
    let mut held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = Client::connect(daemon.smtp());
            client.envelope("a@sender.test", &["b@example.test"]);
            client.expect("DATA", "354 ");
            client.send(stuffed(&message));
            client
        })
        .collect();
    endpoint.wait_for(2);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message).starts("452 4.3.1 ");
    assert!(daemon.admin.stat("messages.refused.memory") >= 1);
    assert!(daemon.admin.stat("memory.body_bytes") <= 8 * MIB as u64);
    // The little that fits goes through: at the gate like the others.
    held.push(sent(daemon.smtp(), 9));
    endpoint.wait_for(3);
    gate.open();
    for client in &mut held {
        client.reply().starts("250 ");
    }
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message).starts("250 ");
}

/// Under TLS the octets that find no room are still part of the message: its end is found, and the session goes on.
#[test]
fn an_exhausted_body_budget_says_later_under_tls() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let authority = crate::support::certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let config = Config::to(&endpoint)
        .set("memory.body_budget", "4MiB")
        .set("memory.per_ip_share", 1.0)
        .set("smtp.max_message_size", "16MiB")
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.starttls(authority.client(rustls::ALL_VERSIONS));
    for _ in 0..2 {
        client.envelope("a@sender.test", &["b@example.test"]);
        client.data(&messages::of_size("too much for now", 6 * MIB)).starts("452 4.3.1 ");
    }
    client.envelope("a@sender.test", &["b@example.test"]);
    client.data(&messages::simple("little", "text")).starts("250 ");
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    assert_eq!(endpoint.count(), 1);
}

#[test]
fn one_address_has_its_share_of_the_budget() {
    let endpoint = Endpoint::ok();
    let config =
        Config::to(&endpoint).set("memory.body_budget", "16MiB").set("memory.per_ip_share", 0.25).set("smtp.max_message_size", "4MiB");
    let daemon = Daemon::start(config);
    let from = |octet: u8| {
        let mut client = Client::connect_from(IpAddr::from([127, 0, 0, octet]), daemon.smtp());
        client.reply().starts("220 ");
        client.envelope("a@sender.test", &["b@example.test"]);
        client
    };
    // Half a message that stops holds its memory.
    let mut greedy = from(9);
    greedy.expect("DATA", "354 ");
    greedy.send(messages::of_size("half", 3 * MIB));
    eventually("the half message in memory", || (daemon.admin.stat("memory.body_bytes") >= 3 * MIB as u64).then_some(()));
    let message = messages::of_size("whole", 2 * MIB);
    let mut second = from(9);
    let reply = {
        let reply = second.command("DATA");
        if reply.code == 354 {
            second.send(stuffed(&message));
            second.reply()
        } else {
            reply
        }
    };
    reply.starts("452 4.3.1 ");
    from(10).data(&message).starts("250 ");
    // What is declared is reserved before it comes.
    let mut declared = Client::connect_from(IpAddr::from([127, 0, 0, 9]), daemon.smtp());
    declared.reply().starts("220 ");
    declared.ehlo();
    let mail = declared.command(&format!("MAIL FROM:<a@sender.test> SIZE={}", 2 * MIB));
    let reply = if mail.code == 250 {
        declared.expect("RCPT TO:<b@example.test>", "250 ");
        declared.command("DATA")
    } else {
        mail
    };
    reply.starts("452 4.3.1 ");
    greedy.send(b"\r\n.\r\n");
    greedy.reply().starts("250 ");
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    from(9).data(&message).starts("250 ");
}

/// Bodies that wait for one route's endpoint, and what is rendered of them, leave room for the others; alone it has all.
#[test]
fn one_route_has_its_share_of_the_budget() {
    let gate = Gate::default();
    let (slow, good) = (Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200)))), Endpoint::ok());
    let alone = Config::without_routes()
        .set("memory.body_budget", "16MiB")
        .set("memory.per_ip_share", 1.0)
        .set("memory.per_route_share", 0.25)
        .set("smtp.max_message_size", "8MiB")
        .route("slow", &["*@slow.test"], &slow.url("/in"))
        .of_route("format", "rfc822")
        .of_route("timeout", "60s");
    let config = alone
        .clone()
        .route("good", &["*@good.test"], &good.url("/in"))
        .of_route("format", "rfc822")
        .route("parsed", &["*@parsed.test"], &good.url("/in"))
        .of_route("format", "json");
    let mut daemon = Daemon::start(config);
    let message = messages::of_size("held", 3 * MIB / 2);
    let mut held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = Client::connect(daemon.smtp());
            client.envelope("a@sender.test", &["b@slow.test"]);
            client.expect("DATA", "354 ");
            client.send(stuffed(&message));
            client
        })
        .collect();
    slow.wait_for(2);
    let to = |recipient: &str, message: &[u8]| deliver(daemon.smtp(), "a@sender.test", &[recipient], message);
    to("b@slow.test", &message).starts("452 4.3.1 ");
    to("b@good.test", &messages::of_size("room", 3 * MIB)).starts("250 ");
    // The text stands in the request once more.
    to("b@parsed.test", &messages::of_size("twice", 3 * MIB)).starts("452 4.3.1 ");
    to("b@parsed.test", &messages::of_size("fits", MIB / 2)).starts("250 ");
    assert!(daemon.admin.stat("messages.refused.memory") >= 2);
    gate.open();
    for client in &mut held {
        client.reply().starts("250 ");
    }
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    to("b@slow.test", &message).starts("250 ");
    to("b@slow.test", &messages::of_size("large", 6 * MIB)).starts("452 4.3.1 ");
    daemon.reload(alone);
    eventually("the route to be alone", || {
        let reply = deliver(daemon.smtp(), "a@sender.test", &["b@slow.test"], &messages::of_size("large", 6 * MIB));
        (reply.code == 250).then_some(())
    });
}

#[test]
fn memory_goes_back_after_a_burst() {
    let _turn = turn::alone();
    let endpoint = Endpoint::with(|_| Answer::status(200)).early(|_, _| None).start();
    let daemon = Daemon::start(Config::to(&endpoint).set("memory.per_ip_share", 1.0));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    let before = daemon.rss();
    let message = messages::of_size("burst", 8 * MIB);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message).starts("250 ").code);
        }
    });
    endpoint.clear();
    eventually("memory to go back", || (daemon.rss() < before + 40 * MIB as u64).then_some(()));
}

/// More than are ever under way at once, all at the same moment: the wait is short, so nobody is told "later".
/// `MAILSLUICE_TEST_FULL=1` takes 3 200.
#[test]
fn many_at_once_are_all_taken_by_a_quick_endpoint() {
    let _turn = turn::alone();
    let full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    raise_descriptors();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_connections_per_ip", 10_000).set("forward.workers", 512));
    let message = stuffed(&messages::simple("one of many", "text"));
    let (most, end) = message.split_at(message.len() - 3);
    let mut clients: Vec<Client> = (0..if full { 3200 } else { 600 })
        .map(|_| {
            let mut client = Client::connect(daemon.smtp());
            client.envelope("a@sender.test", &["b@example.test"]);
            client.expect("DATA", "354 ");
            client.send(most);
            client
        })
        .collect();
    for client in &mut clients {
        client.send(end);
    }
    for client in &mut clients {
        client.reply().starts("250 ");
    }
    assert_eq!(daemon.admin.stat("messages.refused.queue"), 0);
}

/// Two routes that may each have all forwarders: `check` says that they cannot, and neither waits for the other.
#[test]
fn routes_that_may_have_more_forwarders_than_there_are_do_not_starve_each_other() {
    let gate = Gate::default();
    let (slow, good) = (Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200)))), Endpoint::ok());
    let config = Config::without_routes()
        .set("forward.workers", 4)
        .route("slow", &["*@slow.test"], &slow.url("/in"))
        .of_route("max_concurrency", 4)
        .of_route("timeout", "60s")
        .route("good", &["*@good.test"], &good.url("/in"))
        .of_route("max_concurrency", 4);
    let daemon = Daemon::start(config);
    let check = crate::support::daemon::cli(&["check", "--config", daemon.config_file().to_str().unwrap()]);
    assert!(format!("{check:?}").contains("max_concurrency come to 8, but there are 4 forwarders"), "{check:?}");
    let mut waiting: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = Client::connect(daemon.smtp());
            client.envelope("a@sender.test", &["b@slow.test"]);
            client.expect("DATA", "354 ");
            client.send(stuffed(&messages::simple("slow", "text")));
            client
        })
        .collect();
    slow.wait_for(2);
    daemon.admin.wait_for_stat("routes.slow.queued", 4);
    for _ in 0..20 {
        deliver(daemon.smtp(), "a@sender.test", &["b@good.test"], &messages::simple("good", "text")).starts("250 ");
    }
    assert_eq!(daemon.admin.stat("routes.slow.busy"), 2, "half of them, whatever it may have");
    gate.open();
    for client in &mut waiting {
        client.reply().starts("250 ");
    }
}

/// Neighbours that nobody wants, each with its word; they live as long as what `with` does with them.
fn broken_endpoints(with: impl Fn(&str, &str)) {
    let hanging = Endpoint::always(Answer::Hang);
    let endless = Endpoint::always(Answer::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1024]));
    let answer = b"HTTP/1.1 200 OK\r\nX-Slow: yes\r\nContent-Length: 0\r\n\r\n".to_vec();
    let dripping = Endpoint::always(Answer::Drip(answer, Duration::from_millis(250)));
    let overloaded = Busy::start(1, Takes::Constant(0.4));
    with("hangs", &hanging.url("/in"));
    with("drips", &dripping.url("/in"));
    with("never ends", &endless.url("/in"));
    with("is refused", "http://127.0.0.1:9/in");
    with("is overloaded", &overloaded.url());
    with("has no address", "http://nowhere.invalid/in");
}

fn beside_a_broken_endpoint(good: &Endpoint, bad: &str) -> Daemon {
    let config = Config::without_routes().set("log.messages", "none");
    let config = config.route("good", &["*@good.test"], &good.url("/in")).of_route("format", "rfc822");
    Daemon::start(config.route("bad", &["*@bad.test"], bad).of_route("format", "rfc822").of_route("timeout", "3s"))
}

/// One route hangs, is refused, drips, never ends, is overloaded, or has no address; another goes on beside it, as fast as before.
#[test]
fn a_broken_endpoint_costs_no_other_route_anything() {
    let _turn = turn::alone();
    let good = Endpoint::ok();
    broken_endpoints(|what, url| {
        let daemon = beside_a_broken_endpoint(&good, url);
        let bad =
            Load { senders: 12, recipient: "x@bad.test".into(), persistent: true, per_connection: 5, ..Load::new(daemon.smtp(), u64::MAX) };
        let load = Load { senders: 4, recipient: "x@good.test".into(), ..Load::new(daemon.smtp(), 400) };
        let stop = AtomicBool::new(false);
        let alone = load::run(&load, &stop);
        let beside = std::thread::scope(|scope| {
            scope.spawn(|| load::run(&bad, &stop));
            let beside = load::run(&load, &AtomicBool::new(false));
            stop.store(true, Ordering::Relaxed);
            beside
        });
        assert_eq!((alone.count(Some(250)), beside.count(Some(250))), (400, 400), "{what}");
        let (alone, beside) = (alone.quantile(0.99), beside.quantile(0.99));
        // A generous bound: two cores run everything here; a shared queue or pool would cost seconds.
        assert!(beside < alone * 8 + Duration::from_millis(150), "{what}: p99 {beside:?}, alone {alone:?}");
    });
}

/// The neighbours get twelve senders who wait a while behind each answer, as senders do: it is the endpoint that is to be felt, and not
/// what twelve senders without a pause cost the machine.
#[test]
#[ignore = "measures for some minutes: cargo test --release --test main the_p99_beside_broken_endpoints -- --ignored --nocapture"]
fn the_p99_beside_broken_endpoints() {
    let _turn = turn::alone();
    let good = Endpoint::ok();
    broken_endpoints(|what, url| {
        let daemon = beside_a_broken_endpoint(&good, url);
        let load = Load { senders: 4, recipient: "x@good.test".into(), per_connection: 100, ..Load::new(daemon.smtp(), 2000) };
        let run = || {
            let outcome = load::run(&load, &AtomicBool::new(false));
            good.clear();
            assert_eq!(outcome.count(Some(250)), 2000, "{what}");
            outcome.quantile(0.99)
        };
        run();
        let mut ratios = Vec::new();
        // In turn, so that what else happens on the machine meets both.
        for _ in 0..7 {
            let alone = run();
            let stop = AtomicBool::new(false);
            let beside = std::thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            deliver(daemon.smtp(), "a@sender.test", &["x@bad.test"], &messages::simple("x", "text"));
                            std::thread::park_timeout(Duration::from_millis(500));
                        }
                    });
                }
                let beside = run();
                stop.store(true, Ordering::Relaxed);
                beside
            });
            println!("{what}: p99 {beside:?}, alone {alone:?}");
            ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        println!("{what}: the median of {} rounds: {:.2} times (goal 1.2)", ratios.len(), ratios[ratios.len() / 2]);
    });
}

/// Idle, slow, half-done and rude clients beside honest ones. `MAILSLUICE_TEST_FULL=1` takes the big crowd.
#[test]
fn a_hostile_crowd_slows_nobody() {
    let _turn = turn::alone();
    let full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    let scale = if full { 10 } else { 1 };
    raise_descriptors();
    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint)
        .set("smtp.max_connections_per_ip", 100_000)
        .set("memory.body_budget", "64MiB")
        .set("smtp.command_timeout", "5m");
    let daemon = Daemon::start(config);
    let load = Load { senders: 4, ..Load::new(daemon.smtp(), 600) };
    let quiet = load::run(&load, &AtomicBool::new(false));
    assert_eq!(quiet.count(Some(250)), 600);
    daemon.admin.wait_for_stat("connections.open", 0);
    let (descriptors, rss) = (daemon.descriptors(), daemon.rss());

    // Each hostile kind from an address of its own, so that the budget's share of one address is its own.
    let hostile = |octet: u8| Client::connect_from(IpAddr::from([127, 0, 1, octet]), daemon.smtp());
    let mut crowd: Vec<Client> = (0..500 * scale).map(|_| hostile(1)).collect();
    for n in 0..100 * scale {
        let mut slow = hostile(2);
        let _ = slow.try_send(&b"EHLO slow"[..n % 9]);
        crowd.push(slow);
    }
    let half = messages::of_size("half", if full { 20 * MIB } else { 2 * MIB });
    for _ in 0..20 {
        let mut client = hostile(3);
        client.reply();
        client.envelope("a@sender.test", &["b@example.test"]);
        if client.command("DATA").code == 354 {
            client.tcp().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let _ = client.try_send(&half);
        }
        crowd.push(client);
    }
    let stop = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        // Floods of bad commands, senders that never read a reply, and resets in every state of a session.
        const STATES: [&str; 8] = [
            "EHL",
            "O reset\r\n",
            "MAIL FROM:<a@sender.test>\r\n",
            "RCPT TO:<b@example.test>\r\n",
            "DATA\r\n",
            "Subject: half\r\n\r\nof a message\r\n.",
            "\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\nBDAT 100\r\n",
            "half of a chunk",
        ];
        for octet in [4, 5, 6] {
            let (stop, hostile) = (&stop, &hostile);
            scope.spawn(move || {
                for turn in (0..=STATES.len()).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let mut client = hostile(octet);
                    client.tcp().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                    let octets = match octet {
                        4 => b"XYZZY\r\n".repeat(50),
                        5 => b"EHLO x\r\nHELP\r\nNOOP\r\n".repeat(20_000),
                        _ => STATES[..turn].concat().into_bytes(),
                    };
                    let _ = client.try_send(&octets);
                    client.reset();
                    crate::support::wait::tick();
                }
            });
        }
        let outcome = load::run(&load, &AtomicBool::new(false));
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    assert_eq!(beside.count(Some(250)), 600);
    let peak = daemon.rss();
    let bound = rss + (64 * MIB as u64) + (600 * scale as u64 + 200) * 32 * 1024;
    assert!(peak < bound, "{peak} octets resident, bound {bound}");
    let (before, now) = (quiet.quantile(0.99), beside.quantile(0.99));
    assert!(now < before * 10 + Duration::from_millis(200), "p99 {now:?}, without the crowd {before:?}");
    println!("p99 {now:?}, without the crowd {before:?}; resident {} MiB, before {} MiB", peak >> 20, rss >> 20);
    for client in crowd {
        client.reset();
    }
    daemon.admin.wait_for_stat("connections.open", 0);
    daemon.admin.wait_for_stat("memory.body_bytes", 0);
    eventually("descriptors back to the start", || (daemon.descriptors() <= descriptors + 2).then_some(()));
    assert_eq!(daemon.stop().code, Some(0));
}

/// As many descriptors as the system lets this process have.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[test]
fn out_of_descriptors_it_says_later_and_goes_on() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let daemon = Daemon::spawn(dir, Config::to(&endpoint).set("smtp.max_connections_per_ip", 10_000), |command| {
        use std::os::unix::process::CommandExt;
        // SAFETY: one system call on plain values between fork and exec.
        #[expect(unsafe_code, reason = "a limit for the child alone has to be set between fork and exec")]
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 80, rlim_max: 80 };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
    });
    let mut held = Vec::new();
    let mut refused = false;
    for _ in 0..120 {
        let mut client = Client::connect_silently(daemon.smtp());
        client.tcp().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        match client.try_reply() {
            Ok(reply) if reply.code == 220 => held.push(client),
            Ok(reply) => {
                assert_eq!(reply.code, 421, "{reply:?}");
                refused = true;
                break;
            }
            Err(_) => {}
        }
    }
    assert!(refused, "no 421 with {} connections", held.len());
    drop(held);
    eventually("mail again", || {
        let mut client = Client::try_connect(daemon.smtp()).ok()?;
        (client.try_reply().ok()?.code == 220).then_some(())
    });
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}
