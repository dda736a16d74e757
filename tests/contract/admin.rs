//! The admin listener: its answers, its guards.

use crate::support::client::deliver;
use crate::support::daemon::cli;
use crate::support::load::{self, Load};
use crate::support::{Answer, Config, Daemon, Endpoint, eventually_within, messages};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[track_caller]
fn status(daemon: &Daemon, head: &str, body: &str) -> u16 {
    daemon.admin.request(&format!("{head}Connection: close\r\n\r\n"), body.as_bytes()).unwrap().status
}

#[test]
fn stats_has_the_shape_of_the_contract() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    let stats = daemon.admin.json("/stats");
    let number = |path: &str| {
        let value = path.split('/').fold(&stats, |value, key| &value[key]);
        assert!(value.is_number(), "{path}: {value}");
    };
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    for path in [
        "uptime_seconds",
        "connections/open",
        "connections/accepted",
        "connections/refused/total_limit",
        "connections/refused/per_ip_limit",
        "recipients/accepted",
        "recipients/refused/no_route",
        "recipients/refused/other_route",
        "recipients/refused/authorization",
        "messages/delivered",
        "messages/rejected",
        "messages/deferred",
        "messages/undelivered",
        "messages/replies_lost",
        "messages/refused/size",
        "messages/refused/memory",
        "messages/refused/queue",
        "messages/refused/breaker",
        "messages/refused/store",
        "messages/refused/bare_newline",
        "messages/refused/loop",
        "bytes_received",
        "forwarders/workers",
        "forwarders/started",
        "forwarders/busy",
        "forwarders/queued",
        "routes/all/delivered",
        "routes/all/rejected",
        "routes/all/deferred",
        "routes/all/busy",
        "routes/all/queued",
        "routes/all/forward/p50_us",
        "routes/all/forward/p99_us",
        "memory/body_bytes",
        "memory/body_budget_bytes",
        "store/records",
        "store/file_bytes",
        "store/commits",
    ] {
        number(path);
    }
    assert_eq!((&stats["routes"]["all"]["breaker"], &stats["store"]["degraded"]), (&"closed".into(), &false.into()));
    for stage in ["total", "receive", "queue", "forward", "store", "tls_handshake", "session"] {
        for window in ["1m", "total"] {
            for key in ["count", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"] {
                number(&format!("latency/{stage}/{window}/{key}"));
            }
        }
    }
    assert_eq!(stats["latency"]["total"]["total"]["count"], 1);
}

#[test]
fn counters_add_up() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::status(403), Answer::status(500)]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = messages::simple("x", "text");
    for _ in 0..3 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message);
    }
    for path in [
        "messages.delivered",
        "messages.rejected",
        "messages.deferred",
        "routes.all.delivered",
        "routes.all.rejected",
        "routes.all.deferred",
    ] {
        assert_eq!(daemon.admin.stat(path), 1, "{path}");
    }
    assert_eq!(daemon.admin.stat("connections.accepted"), 3);
    assert!(daemon.admin.stat("bytes_received") >= 3 * message.len() as u64);
}

#[test]
fn histograms_of_all_and_of_a_route() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for _ in 0..20 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    }
    for stage in ["total", "receive", "queue", "forward", "store", "session"] {
        for window in ["1m", "1h", "total"] {
            let json = daemon.admin.json(&format!("/histograms/{stage}?window={window}&format=json"));
            assert!(json.is_object(), "{json}");
            let text = daemon.admin.get(&format!("/histograms/{stage}?window={window}&format=hgrm")).text();
            assert!(text.contains("Percentile") && text.contains("#[Max"), "{text}");
            let of_route = format!("/histograms/{stage}?window={window}&route=all");
            if ["total", "forward"].contains(&stage) {
                assert_eq!((&json["count"], &daemon.admin.json(&of_route)["count"]), (&20.into(), &20.into()), "{stage} {window}");
                assert!(daemon.admin.get(&format!("{of_route}&format=hdr")).text().starts_with("HISTFAAAA"), "{stage} {window}");
            } else {
                assert_eq!(daemon.admin.get(&of_route).status, 404, "{stage}");
            }
        }
    }
    assert_eq!(daemon.admin.get("/histograms/total?route=other").status, 404);
    assert_eq!(daemon.admin.get("/histograms/nothing").status, 404);
    assert_eq!(daemon.admin.get("/histograms/total?window=7d").status, 400);
}

#[test]
fn a_foreign_host_is_misdirected() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let port = daemon.admin.host().rsplit(':').next().unwrap().to_owned();
    for host in ["evil.test", &format!("evil.test:{port}"), "127.0.0.1.evil.test", "169.254.169.254", ""] {
        for path in ["/", "/stats", "/records", "/metrics"] {
            assert_eq!(status(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n"), ""), 421, "{host} {path}");
        }
    }
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert_eq!(status(&daemon, &format!("GET /stats HTTP/1.1\r\nHost: {host}\r\n"), ""), 200, "{host}");
    }
}

#[test]
fn a_cross_site_post_is_refused() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    let body = r#"{"address": "b@example.test"}"#;
    let host = daemon.admin.host();
    let post = |fields: &str| {
        status(&daemon, &format!("POST /forget HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n{fields}", body.len()), body)
    };
    assert_eq!(post("Content-Type: application/json\r\nOrigin: http://evil.test\r\n"), 403);
    assert_eq!(post("Content-Type: application/json\r\nOrigin: null\r\n"), 403);
    assert_eq!(post("Content-Type: text/plain\r\n"), 415);
    assert_eq!(post("Content-Type: application/x-www-form-urlencoded\r\n"), 415);
    assert_eq!(post(""), 415);
    assert_eq!(daemon.admin.records("recipient=b@example.test").len(), 1, "nothing was done");
    assert_eq!(post(&format!("Content-Type: application/json\r\nOrigin: http://{host}\r\n")), 200);
    assert_eq!(daemon.admin.records("recipient=b@example.test").len(), 0);
    // Only POST changes anything.
    assert_eq!(status(&daemon, &format!("GET /forget?address=x HTTP/1.1\r\nHost: {host}\r\n"), ""), 405);
}

#[test]
fn a_token_guards_what_is_not_a_probe() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let token = dir.path().join("token");
    std::fs::write(&token, "correct-horse\n").unwrap();
    let daemon = Daemon::start_in(dir, Config::to(&endpoint).set("admin.token_file", token.to_str().unwrap()));
    let host = daemon.admin.host();
    let get = |path: &str, fields: &str| status(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}"), "");
    for path in ["/stats", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(get(path, ""), 200, "{path} stays open on loopback");
    }
    for path in ["/records", "/export?address=a@b.test"] {
        assert_eq!(get(path, ""), 401, "{path}");
        assert_eq!(get(path, "Authorization: Bearer wrong\r\n"), 401, "{path}");
        assert_eq!(get(path, "Authorization: Bearer correct-horse\r\n"), 200, "{path}");
    }
}

#[test]
fn health_is_told_to_whoever_asks() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let token = dir.path().join("token");
    std::fs::write(&token, "correct-horse\n").unwrap();
    let config = Config::to(&endpoint).set("admin.token_file", token.to_str().unwrap()).set("admin.hosts", vec!["mail-admin.internal"]);
    let daemon = Daemon::start_in(dir, config);
    for path in ["/healthz", "/readyz"] {
        // As HAProxy asks, and as a health check behind a proxy does.
        assert_eq!(status(&daemon, &format!("GET {path} HTTP/1.0\r\n"), ""), 200, "{path}");
        assert_eq!(status(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: Mail-Admin.internal:8443\r\n"), ""), 200, "{path}");
        assert_eq!(status(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: other.internal\r\n"), ""), 421, "{path}");
        assert_eq!(status(&daemon, &format!("GET {path} HTTP/1.1\r\n"), ""), 400, "{path}");
    }
    assert_eq!(status(&daemon, "GET /stats HTTP/1.0\r\n", ""), 400, "only for health");
    let records = "GET /records HTTP/1.1\r\nHost: mail-admin.internal\r\n";
    assert_eq!(status(&daemon, records, ""), 401, "a name is no token");
    assert_eq!(status(&daemon, &format!("{records}Authorization: Bearer correct-horse\r\n"), ""), 200);
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let crate::support::admin::Admin::Tcp(address) = daemon.admin else { unreachable!() };
    // More than there are places, half of them in the middle of a request.
    let silent: Vec<_> = (0..1700)
        .map(|n| {
            let mut stream = TcpStream::connect(address).unwrap();
            if n % 2 == 0 {
                Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost:").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(status(&daemon, "GET /readyz HTTP/1.0\r\n", ""), 200);
    assert_eq!(daemon.admin.json("/stats")["version"], env!("CARGO_PKG_VERSION"));
    drop(silent);
}

#[test]
fn no_token_on_an_open_address_is_refused_at_the_start() {
    let endpoint = Endpoint::ok();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(
        &file,
        Config::to(&endpoint).set("admin.listen", "0.0.0.0:0").set("store.path", dir.path().join("s").to_str().unwrap()).text(),
    )
    .unwrap();
    let finished = cli(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.err.contains("token_file"), "{finished:?}");
}

#[test]
fn over_a_unix_socket() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    let daemon = Daemon::start_in(dir, Config::to(&endpoint).set("admin.listen", socket.as_str()));
    assert_eq!(daemon.admin.url(), socket);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    assert_eq!(daemon.admin.stat("messages.delivered"), 1);
    let records = daemon.cli(&["records", "--json"]).ok();
    assert_eq!(records.lines().count(), 1, "{records}");
}

#[test]
fn the_page_is_guarded() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let page = daemon.admin.get("/");
    assert_eq!(page.status, 200);
    let policy = page.fields.get("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{policy}");
    assert_eq!(page.fields.get("x-content-type-options"), Some("nosniff"));
    for outside in ["http://", "https://", "//cdn"] {
        let text = page.text().replace("http://www.w3.org/2000/svg", "");
        assert!(
            !text.contains(&format!("src=\"{outside}")) && !text.contains(&format!("href=\"{outside}")),
            "a request that leaves the origin"
        );
    }
}

#[test]
fn records_come_live() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut events = daemon.admin.events("/records/live");
    for n in 0..5 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("live{n}"), "text")).starts("250 ");
    }
    for n in 0..5 {
        assert_eq!(events.next()["subject"], format!("live{n}"));
    }
}

#[test]
fn a_crowd_at_the_event_stream_does_not_slow_mail() {
    let _turn = crate::support::turn::alone();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let load = Load { senders: 4, ..Load::new(daemon.smtp(), 300) };
    let quiet = load::run(&load, &AtomicBool::new(false));
    // Most never read.
    let crowd: Vec<_> = (0..1000).map(|_| daemon.admin.try_events("/records/live")).collect();
    let open = crowd.iter().filter(|events| events.is_ok()).count();
    assert_eq!(open, 1000);
    let beside = load::run(&load, &AtomicBool::new(false));
    assert_eq!((quiet.count(Some(250)), beside.count(Some(250))), (300, 300));
    let (before, now) = (quiet.quantile(0.99), beside.quantile(0.99));
    assert!(now < before * 10 + Duration::from_millis(200), "p99 {now:?} beside {before:?}");
    assert_eq!(daemon.admin.get("/healthz").status, 200);
    println!("p99 {now:?} with {open} streams open, {before:?} without");
}

/// Some send their request octet by octet, in its head or in its body; some ask for megabytes and read nothing.
#[test]
fn slow_clients_are_cut_and_do_not_slow_mail() {
    const OF_A_KIND: usize = 40;
    let turn = crate::support::turn::alone();
    let endpoint = Endpoint::always(Answer::text(200, &"answer ".repeat(280)));
    let daemon = Daemon::start(Config::to(&endpoint));
    let load = Load { senders: 4, ..Load::new(daemon.smtp(), 300) };
    load::run(&load, &AtomicBool::new(false));
    let quiet = load::run(&load, &AtomicBool::new(false));
    let (descriptors, rss) = (daemon.descriptors(), daemon.rss());
    let host = daemon.admin.host();
    let connect = |request: String| {
        let mut stream = TcpStream::connect(&host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let head = |rest: &str| format!("{rest} HTTP/1.1\r\nHost: {host}\r\n");
    let in_body = format!("{}Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n", head("POST /forget"));
    let kinds = [
        head("GET /stats") + "X-Long: ",
        in_body,
        head("GET /records?limit=1000") + "\r\n",
        head("GET /export?address=load@sender.test") + "\r\n",
    ];
    let clients: Vec<Vec<TcpStream>> = kinds.map(|kind| (0..OF_A_KIND).map(|_| connect(kind.clone())).collect()).into();
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // One that is cut cannot be written to any more.
                clients.iter().take(2).flatten().for_each(|mut client| drop(client.write(b" ")));
                crate::support::wait::tick();
            }
        });
        let beside = load::run(&load, &AtomicBool::new(false));
        assert!(daemon.descriptors() >= descriptors + clients.len() * OF_A_KIND / 2, "the clients were gone too early to matter");
        assert_eq!((quiet.count(Some(250)), beside.count(Some(250))), (300, 300));
        let (before, now) = (quiet.quantile(0.99), beside.quantile(0.99));
        assert!(now < before * 10 + Duration::from_millis(200), "p99 {now:?} beside {before:?}");
        println!("p99 {now:?} beside slow clients, {before:?} without; {} MiB more in memory", daemon.rss().saturating_sub(rss) >> 20);
        assert!(daemon.rss() < rss + (160 << 20), "{} MiB", daemon.rss() >> 20);
        drop(turn);
        // All sockets are still open on this side.
        let cut = || (daemon.descriptors() <= descriptors + 2).then_some(());
        eventually_within(Duration::from_secs(90), "the slow clients to be cut", cut);
        println!("all were cut after {:?}", begun.elapsed());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(clients.len() * OF_A_KIND, 160);
    assert_eq!(daemon.admin.get("/records?limit=1000").status, 200);
}

#[test]
fn odd_requests() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let host = daemon.admin.host();
    for (path, expected) in [
        ("/records/notanid", BTreeSet::from([400, 404])),
        ("/records/01ARZ3NDEKTSV4RRFFQ69G5FAV", BTreeSet::from([404])),
        ("/records?limit=x", BTreeSet::from([400])),
        ("/records?outcome=lost", BTreeSet::from([400])),
        ("/records?since=yesterday", BTreeSet::from([400])),
        ("/records?cursor=zzz", BTreeSet::from([400])),
        ("/nothing", BTreeSet::from([404])),
        ("/../etc/passwd", BTreeSet::from([400, 404])),
        ("/inspector/200", BTreeSet::from([404, 405])),
    ] {
        let got = status(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n"), "");
        assert!(expected.contains(&got), "{path}: {got}");
    }
    for body in ["", "{}", "[]", "{\"address\": 3}", "{\"address\": \"\"}", "not json"] {
        let answer = daemon.admin.post("/forget", "application/json", body);
        assert!((400..500).contains(&answer.status), "{body}: {}", answer.status);
    }
    let huge = "x".repeat(3 << 20);
    let answer = daemon.admin.request(
        &format!(
            "POST /forget HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            huge.len()
        ),
        huge.as_bytes(),
    );
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 413));
    let stats: Value = daemon.admin.json("/stats");
    assert!(stats["version"].is_string());
}

/// Beyond 1 000 routes the rest is one series.
#[test]
fn many_routes_are_a_bounded_number_of_series() {
    let endpoint = Endpoint::ok();
    let mut config = Config::without_routes();
    for n in 0..1010 {
        config = config.route(&format!("r{n:04}"), &[&format!("*@r{n:04}.test")], &endpoint.url("/"));
    }
    let daemon = Daemon::start(config);
    for to in ["x@r0001.test", "x@r1005.test", "x@r1007.test"] {
        deliver(daemon.smtp(), "a@sender.test", &[to], &messages::simple("x", "text")).starts("250 ");
    }
    let metrics = daemon.admin.get("/metrics").text();
    let value = |series: &str| metrics.lines().find_map(|line| line.strip_prefix(series).map(|value| value.trim().to_owned()));
    assert_eq!(value("mailsluice_route_messages_total{route=\"r0001\",outcome=\"delivered\"}").as_deref(), Some("1"));
    assert_eq!(value("mailsluice_route_messages_total{route=\"\",outcome=\"delivered\"}").as_deref(), Some("2"));
    assert_eq!(value("mailsluice_route_breaker{route=\"\",state=\"closed\"}").as_deref(), Some("10"));
    assert!(value("mailsluice_route_forward_duration_seconds_count{route=\"\"}").is_some());
    assert!(!metrics.contains("r1005") && metrics.contains("r0999"));
}
