//! A real proxy between the daemon and its endpoints, and an environment that names others.

use super::program;
use crate::support::certificates::Authority;
use crate::support::client::deliver;
use crate::support::process::Process;
use crate::support::{Answer, Config, Daemon, Endpoint, NameServer, Request, eventually, messages, port};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// With a table of hosts of its own, where `app.test` is this machine.
fn start(dir: &Path, port: u16, tunnels_to: u16) -> Process {
    let (hosts, config) = (dir.join("hosts"), dir.join("tinyproxy.conf"));
    std::fs::write(&hosts, "127.0.0.1 localhost app.test\n").unwrap();
    let text = format!(
        "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nLogLevel Connect\nBasicAuth user secret\nConnectPort {tunnels_to}\nMaxClients 20\n"
    );
    std::fs::write(&config, text).unwrap();
    let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" -d -c \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts).arg(program("tinyproxy")).arg(config);
    let process = Process::start(&mut command);
    eventually("the proxy", || TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

#[test]
fn endpoints_behind_a_proxy() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = Authority::new();
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    // They close their connections, which doctor waits for.
    let answer = || Answer::Octets(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let (plain, local) = (Endpoint::always(answer()), Endpoint::always(answer()));
    let secure = Endpoint::with(move |_: &Request| answer()).tls(authority.server(&["app.test"])).start();
    let port = port::free();
    // It knows nobody.
    let names = NameServer::start();
    let proxy = start(dir.path(), port, secure.address.port());
    let config = |password: &str| {
        Config::without_routes()
            .set("forward.proxy", format!("http://user:{password}@127.0.0.1:{port}"))
            .set("dns.servers", vec![names.address.to_string()])
            .route("plain", &["*@plain.test"], &format!("http://app.test:{}/in?x=1", plain.address.port()))
            .route("secure", &["*@secure.test"], &format!("https://app.test:{}/in", secure.address.port()))
            .of_route("ca_certificate", dir.path().join("ca.pem").to_str().unwrap())
            .route("local", &["*@local.test"], &local.url("/in"))
            .route("named", &["*@named.test"], &format!("http://localhost:{}/in", local.address.port()))
    };
    // Whatever the environment says.
    let start = |config: Config| {
        Daemon::spawn(Arc::clone(&dir), config, |command| {
            for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
                command.env(name, "http://127.0.0.1:9");
            }
        })
        .ready()
    };
    let send = |daemon: &Daemon, domain: &str| {
        deliver(daemon.smtp(), "a@sender.test", &[&format!("x@{domain}")], &messages::of_size("x", 200_000))
    };
    let daemon = start(config("secret"));
    for domain in ["plain.test", "secure.test", "local.test", "named.test", "plain.test", "secure.test"] {
        send(&daemon, domain).starts("250 ");
    }
    let requests = [plain.requests(), secure.requests(), local.requests()];
    assert_eq!(requests.each_ref().map(Vec::len), [2, 2, 2]);
    // It tells of itself where it reads along.
    for (request, through) in requests.iter().flatten().zip([true, true, false, false, false, false]) {
        assert_eq!(request.fields.get("via").is_some_and(|via| via.contains("tinyproxy")), through, "{:?}", request.fields);
        assert!(request.fields.get("proxy-authorization").is_none());
    }
    assert_eq!(requests[0][0].target, "/in?x=1");
    proxy.lines.wait_for("the tunnel", |line| line.contains("CONNECT app.test:").then_some(()));
    let shown = crate::support::daemon::cli(&["check", "--config", daemon.config_file().to_str().unwrap()]).ok();
    assert!(shown.contains(&format!("proxy = \"http://(secret)@127.0.0.1:{port}/\"")) && !shown.contains("user:secret"), "{shown}");
    // Only the proxy knows the name: doctor goes the same way.
    let found = |daemon: &Daemon| crate::support::daemon::cli(&["doctor", "--config", daemon.config_file().to_str().unwrap()]).out;
    let line = |found: &str, route: &str| {
        found.lines().find(|line| line.contains(&format!("route {route}: url"))).unwrap_or_else(|| panic!("{found}")).to_owned()
    };
    let all = found(&daemon);
    for route in ["plain", "secure", "local"] {
        assert!(line(&all, route).starts_with("ok"), "{all}");
    }
    drop(daemon);
    // It does not know us: for a tunnel nobody is reached; in the clear its 401 could be anybody's.
    let daemon = start(config("wrong"));
    send(&daemon, "secure.test").starts("450 4.4.1 ");
    send(&daemon, "plain.test").starts("450 4.3.0 ");
    send(&daemon, "local.test").starts("250 ");
    let all = found(&daemon);
    assert!(line(&all, "secure").contains(&format!("the proxy 127.0.0.1:{port}: it refuses")) && !all.contains("wrong"), "{all}");
    drop(daemon);
    // Without the key nobody is asked.
    let daemon = start(config("secret").set("forward.proxy", ""));
    for domain in ["plain.test", "secure.test"] {
        send(&daemon, domain).starts("450 4.4.1 ");
    }
}
