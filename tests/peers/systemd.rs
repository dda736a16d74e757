//! Started by systemd's own `systemd-socket-activate`, as `mailsluice.socket` does it.

use crate::support::client::deliver;
use crate::support::daemon::BINARY;
use crate::support::{Client, Config, Daemon, Endpoint, eventually, messages, port};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

#[test]
fn the_first_connection_starts_it() {
    let endpoint = Endpoint::ok();
    let address = SocketAddr::from(([127, 0, 0, 1], port::free()));
    // It waits in the socket's queue while the daemon starts.
    let first = std::thread::spawn(move || eventually("the activating socket", || Client::try_connect(address).ok()));
    // The configured address does not count beside the socket handed over.
    let config = Config::to(&endpoint).set("smtp.listen", vec!["192.0.2.1:25"]);
    let daemon = Daemon::spawn(Arc::new(tempfile::tempdir().unwrap()), config, |command| {
        let mut activator = Command::new(super::program("systemd-socket-activate"));
        activator.arg("--listen").arg(address.to_string()).args(["--fdname=smtp", BINARY]).args(command.get_args());
        activator.current_dir(command.get_current_dir().unwrap());
        *command = activator;
    })
    .ready();
    assert_eq!(daemon.smtp(), address);
    let mut first = first.join().unwrap();
    first.reply().starts("220 ");
    first.envelope("a@sender.test", &["b@example.test"]);
    first.data(&messages::simple("first", "text")).starts("250 2.0.0 Ok: ");
    deliver(address, "a@sender.test", &["b@example.test"], &messages::simple("second", "text")).starts("250 2.0.0 Ok: ");
    assert_eq!(endpoint.wait_for(2).len(), 2);
    let stopped = daemon.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.log);
}

#[test]
fn a_second_socket_for_the_admin_listener_is_said() {
    let endpoint = Endpoint::ok();
    let addresses = [port::free(), port::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let first = std::thread::spawn(move || eventually("the activating socket", || std::net::TcpStream::connect(addresses[0]).ok()));
    let daemon = Daemon::spawn(Arc::new(tempfile::tempdir().unwrap()), Config::to(&endpoint), |command| {
        let mut activator = Command::new(super::program("systemd-socket-activate"));
        for address in addresses {
            activator.arg("--listen").arg(address.to_string());
        }
        activator.args(["--fdname=admin:admin", BINARY]).args(command.get_args());
        activator.current_dir(command.get_current_dir().unwrap());
        *command = activator;
    })
    .ready();
    drop(first.join().unwrap());
    let said = |log: &str| log.lines().any(|line| line.contains("more than one socket for the admin listener"));
    eventually("a line that says so", || said(&daemon.log()).then_some(()));
    // Mail comes to the configured address, and the last socket is the admin listener's.
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts("250 ");
    assert_eq!(daemon.admin.get("/readyz").status, 200);
}
