//! Whether each `smtp.listen` can be had, is already ours, or is systemd's.

use super::Finding;
use crate::cli::client::{connect_tcp, reachable};
use crate::cli::unit::{SOCKET, Unit};
use crate::config::Config;
use nix::libc;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

/// For a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn inspect(config: &Config, socket: Option<&Unit>) -> Vec<Finding> {
    let socket = socket.filter(|unit| unit.text("ActiveState") == Some("active"));
    let Some(socket) = socket else {
        return config.smtp.listen.iter().map(|address| port(*address, &config.smtp.hostname)).collect();
    };
    let listens: Vec<&str> = socket.words("Listen").filter(|word| word.parse::<SocketAddr>().is_ok()).collect();
    let is_systemds = |address: &SocketAddr| listens.iter().any(|listen| listen.parse() == Ok(*address));
    let finding = |address: &SocketAddr| {
        if is_systemds(address) {
            return Finding::fine(format!("smtp.listen {address}: {SOCKET} listens there"));
        }
        Finding::warning(
            format!("smtp.listen {address} is not used: {SOCKET} is active, and listens on {}", listens.join(", ")),
            format!("systemctl edit {SOCKET}: ListenStream={address}; or systemctl disable --now {SOCKET}"),
        )
    };
    config.smtp.listen.iter().map(finding).collect()
}

fn port(address: SocketAddr, hostname: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::fine(format!("smtp.listen {address}: free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => in_use(address, hostname),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::warning(
            format!("smtp.listen {address}: this user may not take the port"),
            "the packaged unit may (CAP_NET_BIND_SERVICE); by hand: run doctor as root",
        ),
        // As the daemon does it.
        Err(error) if is_no_ipv6(&error) && address.ip().is_unspecified() && address.is_ipv6() => {
            let instead = port(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), hostname);
            Finding { what: format!("this machine has no IPv6, {address} is taken for 0.0.0.0: {}", instead.what), ..instead }
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Finding::warning(
            format!("smtp.listen {address}: no interface has this address now; connections are taken once it comes"),
            "ip address shows those of this machine; write [::]:25 for all of them",
        ),
        Err(error) => {
            Finding::problem(format!("smtp.listen {address}: {error}"), "write an address of this machine (ip address), or [::] for all")
        }
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn in_use(address: SocketAddr, hostname: &str) -> Finding {
    let mend = format!("stop it; to see which: ss -ltnp 'sport = :{}'", address.port());
    match greeting(address) {
        Some(greeting) if greeting.starts_with("220 ") && greeting.contains(hostname) => {
            Finding::fine(format!("smtp.listen {address}: the daemon answers there"))
        }
        // Its configuration has changed since, or it is another one's.
        Some(greeting) if greeting.starts_with("220 ") && greeting.ends_with(" ESMTP mailsluice") => Finding::warning(
            format!("smtp.listen {address}: a mailsluice answers there that goes by another name ({greeting:?})"),
            "systemctl reload mailsluice, if it is this one; else stop it",
        ),
        Some(greeting) => Finding::problem(format!("smtp.listen {address}: another server answers there ({greeting:?})"), mend),
        None => Finding::problem(format!("smtp.listen {address}: in use by something that does not greet"), mend),
    }
}

fn greeting(address: SocketAddr) -> Option<String> {
    let mut stream = connect_tcp(&reachable(address).to_string(), TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let mut octets = [0; 200];
    let read = stream.read(&mut octets).ok().filter(|&read| read > 0)?;
    Some(String::from_utf8_lossy(octets.get(..read)?).lines().next()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use std::io::Write as _;

    /// Greets one client.
    fn server(greeting: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(greeting.as_bytes()).expect("it reads");
        });
        (address, thread)
    }

    #[test]
    fn a_port_is_free_ours_or_taken() {
        for (greeting, severity, what) in [
            ("220 mx.example.com ESMTP\r\n", Severity::Fine, "the daemon answers there"),
            ("220 old.example.com ESMTP mailsluice\r\n", Severity::Warning, "by another name"),
            ("220 other.example ESMTP\r\n", Severity::Problem, "another server answers there"),
            ("", Severity::Problem, "does not greet"),
        ] {
            let (address, thread) = server(greeting);
            let finding = port(address, "mx.example.com");
            assert!(finding.severity == severity && finding.what.contains(what), "{finding:?}");
            assert!(severity != Severity::Problem || finding.mend.contains("ss -ltnp"), "{finding:?}");
            thread.join().expect("it ends");
            // Whoever had it is gone.
            assert_eq!(port(address, "mx.example.com").severity, Severity::Fine);
        }
        let late = port("192.0.2.1:2525".parse().expect("an address"), "mx.example.com");
        assert!(late.severity == Severity::Warning && late.what.contains("once it comes"), "{late:?}");
    }
}
