//! What systemd sees: readiness and status by its notify protocol, sockets that it hands over and that outlive a restart.

use crate::support::client::deliver;
use crate::support::daemon::BINARY;
use crate::support::load::{self, Load};
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE, messages, turn};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The notify socket, as the service manager has it.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a datagram with this line; all lines seen on the way.
    #[track_caller]
    fn wait_for(&self, wanted: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut octets = [0; 4096];
            let Ok(n) = self.0.recv(&mut octets) else { continue };
            let text = String::from_utf8_lossy(&octets[..n]).into_owned();
            seen.extend(text.lines().map(str::to_owned));
            if seen.iter().any(|line| line.starts_with(wanted)) {
                return seen;
            }
        }
        panic!("no {wanted}, only {seen:?}");
    }
}

#[test]
fn readiness_status_reload_and_stop_are_told() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path().join("notify");
    let away = format!("http://127.0.0.1:{}/in", crate::support::port::free());
    let config = Config::to(&endpoint).route("away", &["*@away.test"], &away).reversed_routes().set("forward.breaker.failures", 2);
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut daemon = Daemon::spawn(dir, config, |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "10000000");
    });
    // Ready means that mail is taken, and that systemd keeps the socket over a restart.
    let seen = manager.wait_for("READY=1");
    assert!(seen.iter().any(|line| line == "FDSTORE=1"), "{seen:?}");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    let seen = manager.wait_for("STATUS=");
    assert!(seen.last().is_some_and(|line| line.contains(" connections, ")), "{seen:?}");
    manager.wait_for("WATCHDOG=1");
    // What is wrong comes first.
    for _ in 0..2 {
        deliver(daemon.smtp(), "a@sender.test", &["b@away.test"], &messages::simple("x", "text")).starts("45");
    }
    manager.wait_for("STATUS=1 of 2 routes not answering; ");
    daemon.signal(Signal::SIGHUP);
    let seen = manager.wait_for("RELOADING=1");
    assert!(seen.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{seen:?}");
    manager.wait_for("READY=1");
    daemon.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    // The default grace of 30 s and the last replies.
    manager.wait_for("EXTEND_TIMEOUT_USEC=33000000");
    assert_eq!(daemon.ended().code, Some(0));
}

/// Starts the daemon with a listening socket as descriptor 3, as socket activation does, and at most `descriptors` open files.
fn with_socket(command: &mut Command, socket: &TcpListener, descriptors: u32) {
    // The shell knows the child's own number, which LISTEN_PID has to be.
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let script = format!("exec 3<&{}; ulimit -n {descriptors}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"", socket.as_raw_fd());
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(script).arg(BINARY).args(arguments);
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    *command = shell;
}

#[test]
fn a_restart_under_load_refuses_no_connection_and_loses_nothing() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let socket = TcpListener::bind(("127.0.0.1", crate::support::port::free())).unwrap();
    let address = socket.local_addr().unwrap();
    let start = || Daemon::spawn(Arc::clone(&dir), Config::to(&endpoint), |command| with_socket(command, &socket, 1024)).ready();
    let mut daemon = start();
    assert_eq!(daemon.smtp(), address);
    let load = Load { senders: 6, per_connection: 5, persistent: true, ..Load::new(address, u64::MAX) };
    let stop = AtomicBool::new(false);
    let (outcome, daemon) = std::thread::scope(|scope| {
        let running = scope.spawn(|| load::run(&load, &stop));
        for _ in 0..4 {
            let seen = endpoint.count();
            endpoint.wait_for(seen + 60);
            let stopped = daemon.stop();
            assert_eq!(stopped.code, Some(0), "{}", stopped.log);
            daemon = start();
        }
        let seen = endpoint.count();
        endpoint.wait_for(seen + 60);
        stop.store(true, Ordering::Relaxed);
        (running.join().unwrap(), daemon)
    });
    assert_eq!(outcome.refused_connections, 0);
    let codes: std::collections::BTreeSet<_> = outcome.replies.values().copied().collect();
    assert!(codes.iter().all(|code| matches!(code, Some(250 | 421 | 451) | None)), "{codes:?}");
    let arrived: std::collections::BTreeSet<u64> = endpoint.requests().iter().map(|request| load::id_of(request)).collect();
    let lost: Vec<_> = outcome.accepted().filter(|id| !arrived.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(outcome.count(Some(250)) > 200);
    // What waits in the socket's queue while nothing runs is served by the next.
    daemon.stop();
    let mut early = Client::connect_silently(address);
    let _daemon = start();
    early.reply().starts("220 ");
}

#[test]
fn a_crowd_at_the_socket_does_not_keep_it_from_starting() {
    let endpoint = Endpoint::ok();
    let socket = TcpListener::bind(("127.0.0.1", crate::support::port::free())).unwrap();
    let address = socket.local_addr().unwrap();
    // More than the daemon has descriptors for: it must have its own rings before it lets the first of them in.
    let mut crowd: Vec<_> = (0..100).map(|_| Client::connect_silently(address)).collect();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = Config::to(&endpoint).set("smtp.max_connections_per_ip", 10_000).set("smtp.threads", 4);
    let daemon = Daemon::spawn(dir, config, |command| with_socket(command, &socket, 80));
    crowd[0].reply().starts("220 ");
    drop(crowd);
    deliver(daemon.ready().smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
}
