//! Listening sockets: our own, or those systemd hands over. Both outlive a restart: ours are given to systemd to keep (its file
//! descriptor store, which a stop empties), and come back at the next start.
//!
//! A kept socket is matched to `smtp.listen` by the address it is bound to. Sockets of a `.socket` unit stand in its place, which is said
//! where the two differ. What can come later is not waited for: an address that no interface has yet is listened on all the same, and
//! `[::]` is `0.0.0.0` where the machine has no IPv6.

use super::error::Error;
use super::systemd::notify;
use crate::admin::AdminSocket;
use crate::config::{AdminListen, Config};
use nix::libc;
use sd_notify::NotifyState;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long an address may stay in use after the process before us was killed.
const IN_USE_PATIENCE: Duration = Duration::from_secs(3);

/// The name of our own sockets in systemd's keeping.
const KEPT: &str = "mailsluice-kept";
/// The name by which a `.socket` unit's TCP socket is the admin listener's.
const ADMIN: &str = "admin";

/// All listening sockets of the daemon.
pub(super) struct Sockets {
    pub(super) smtp: Vec<TcpListener>,
    pub(super) admin: AdminSocket,
}

impl Sockets {
    /// Takes over what systemd passed and opens the rest.
    ///
    /// # Errors
    /// An address is in use, not ours, or privileged; the line says which.
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let mut inherited = inherited();
        let smtp = match inherited.smtp.is_empty() {
            true => own(&config.smtp.listen, inherited.kept)?,
            false => {
                tell_other_addresses(&inherited.smtp, &config.smtp.listen);
                // Those of an address that the unit has as well stay beside it until a stop: what waits in them is not lost. Of the others
                // what came before is served; at the next start they are gone.
                let theirs: Vec<_> = inherited.smtp.iter().filter_map(|socket| socket.local_addr().ok()).collect();
                let has = |socket: &TcpListener| socket.local_addr().is_ok_and(|address| theirs.contains(&address));
                let (beside, others): (Vec<_>, Vec<_>) = inherited.kept.into_iter().partition(has);
                if !others.is_empty() {
                    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(KEPT)]);
                    keep(&beside);
                }
                inherited.smtp.extend(beside.into_iter().chain(others));
                inherited.smtp
            }
        };
        let admin = inherited.admin.pop();
        for _ in &inherited.admin {
            // Whoever connects to it would wait for ever.
            tracing::warn!("systemd hands over more than one socket for the admin listener, and the last one is served: keep one");
        }
        let admin = match (admin, &config.admin.listen) {
            (Some(socket), _) => socket,
            (None, AdminListen::Unix(path)) => AdminSocket::Unix(unix(path)?),
            (None, AdminListen::Tcp(address)) => AdminSocket::Tcp(tcp(*address, "admin.listen")?),
        };
        Ok(Self { smtp, admin })
    }
}

/// The sockets of a `.socket` unit are what counts: who has changed `smtp.listen` meanwhile is told.
fn tell_other_addresses(sockets: &[TcpListener], configured: &[SocketAddr]) {
    let bound: Vec<_> = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
    for address in configured.iter().filter(|address| !bound.contains(address)) {
        tracing::warn!(
            %address,
            "smtp.listen is not used: systemd hands over its own sockets; set ListenStream= (systemctl edit mailsluice.socket), or disable that unit"
        );
    }
}

/// A socket for each address: the kept one, or a new one, which is given into keeping.
fn own(addresses: &[SocketAddr], kept: Vec<TcpListener>) -> Result<Vec<TcpListener>, Error> {
    let configured = |socket: &TcpListener| addresses.iter().any(|address| stands_for(socket, *address));
    let (mut kept, stale): (Vec<_>, Vec<_>) = kept.into_iter().partition(configured);
    if !stale.is_empty() {
        // An address that is not configured any more, and may be in the way of one that is.
        drop(stale);
        notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(KEPT)]);
    }
    let mut sockets = Vec::new();
    for address in addresses {
        let place = kept.iter().position(|socket| stands_for(socket, *address));
        sockets.push(match place {
            Some(place) => kept.swap_remove(place),
            None => tcp(*address, "smtp.listen")?,
        });
    }
    keep(&sockets);
    Ok(sockets)
}

/// Gives them to systemd, for the next process.
fn keep(sockets: &[TcpListener]) {
    for socket in sockets {
        // So that systemd's own can be bound beside it (packaging/hand-over). Bound without it: whoever else wants the address is refused.
        if let Err(error) = SockRef::from(socket).set_reuse_port(true) {
            tracing::debug!(%error, "a socket unit cannot be taken into use beside this one");
        }
        // What systemd keeps already it does not keep twice.
        let state = [NotifyState::FdStore, NotifyState::FdName(KEPT)];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[socket.as_fd()]) {
            tracing::debug!(%error, "systemd keeps no socket over a restart");
        }
    }
}

/// Whether a socket is bound to this address, or to what stands for it without IPv6.
fn stands_for(socket: &TcpListener, address: SocketAddr) -> bool {
    socket.local_addr().is_ok_and(|bound| bound == address || without_ipv6(address) == Some(bound))
}

/// All addresses of a machine without IPv6.
fn without_ipv6(address: SocketAddr) -> Option<SocketAddr> {
    (address.is_ipv6() && address.ip().is_unspecified()).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

struct Inherited {
    smtp: Vec<TcpListener>,
    /// Ours, of the process before this one.
    kept: Vec<TcpListener>,
    admin: Vec<AdminSocket>,
}

/// The descriptors of `LISTEN_FDS` (sd_listen_fds(3)): a Unix socket is the admin's, TCP is SMTP; `LISTEN_FDNAMES` tells our own, and a
/// TCP socket that is `admin` by its `FileDescriptorName=`.
fn inherited() -> Inherited {
    let mut found = Inherited { smtp: Vec::new(), kept: Vec::new(), admin: Vec::new() };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let mut passed = listenfd::ListenFd::from_env();
    for index in 0..passed.len() {
        if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
            // The ring wants blocking descriptors.
            if socket.set_nonblocking(false).is_ok() {
                match names.get(index) {
                    Some(&KEPT) => found.kept.push(socket),
                    Some(&ADMIN) => found.admin.push(AdminSocket::Tcp(socket)),
                    Some(_) | None => found.smtp.push(socket),
                }
            }
        } else if let Ok(Some(socket)) = passed.take_unix_listener(index) {
            found.admin.push(AdminSocket::Unix(socket));
        } else {
            let name = names.get(index).copied().unwrap_or_default();
            tracing::warn!(name, "a socket that systemd hands over is neither TCP nor a Unix stream that listens: it is not used");
        }
    }
    found
}

fn tcp(address: SocketAddr, key: &str) -> Result<TcpListener, Error> {
    let opened = match (open(address), without_ipv6(address)) {
        (Err(error), Some(instead)) if is_no_ipv6(&error) => {
            tracing::info!(%address, %instead, "this machine has no IPv6");
            open(instead)
        }
        (opened, _) => opened,
    };
    if opened.is_ok() && is_absent(address.ip()) {
        tracing::warn!(%address, key, "no interface has this address yet; connections are taken once it comes");
    }
    opened.map_err(|error| Error::Listen { key: key.to_owned(), address: address.to_string(), mend: mend(&error, address), error })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 clients too, whatever net.ipv6.bindv6only says; any other address is IPv6 only.
        socket.set_only_v6(!address.ip().is_unspecified())?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    bind(&socket, &SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// An address that no interface has (a floating one, DHCP that is late, a slip of the pen).
fn is_absent(ip: IpAddr) -> bool {
    let bound = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&SockAddr::from(SocketAddr::new(ip, 0))));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// What to do about an address that cannot be had.
fn mend(error: &io::Error, address: SocketAddr) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        let holder = super::holder::of(address).unwrap_or_else(|| format!("what has it (ss -ltnp 'sport = :{}' shows it)", address.port()));
        format!("stop {holder}, or name another port in a file for --config")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "only the packaged unit and root may take a port below 1024: systemctl start mailsluice, or name one above".to_owned()
    } else {
        "name an address of this machine (ip address), or [::] for all".to_owned()
    }
}

/// A process that was killed may leave its socket to the kernel for a moment, until the ring's last accept is taken down: a
/// restart waits for that, any other owner of the address is an error.
fn bind(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let deadline = Instant::now() + IN_USE_PATIENCE;
    loop {
        match socket.bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "at the start, before anything runs: the kernel tells nobody when it lets go"
                )]
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

fn unix(path: &Path) -> Result<UnixListener, Error> {
    let open = || -> io::Result<UnixListener> {
        match std::fs::symlink_metadata(path) {
            // A socket that nobody answers on is left from a crash.
            Ok(there) if there.file_type().is_socket() => {
                let asked = std::os::unix::net::UnixStream::connect(path);
                if asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                    std::fs::remove_file(path)?;
                }
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else there, which was left alone")),
            Err(_) => {}
        }
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(socket)
    };
    open().map_err(|error| Error::Listen {
        key: "admin.listen".to_owned(),
        address: format!("unix:{}", path.display()),
        mend: "name a path in a folder that the daemon's user may write, as /run/mailsluice".to_owned(),
        error,
    })
}

/// Another descriptor for the same listening socket: one accept queue, so a restart or a slow ring loses no connection.
///
/// # Errors
/// No descriptors are left.
pub(super) fn duplicate(socket: &TcpListener) -> io::Result<TcpListener> {
    socket.try_clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn an_address_that_comes_late_is_listened_on() {
        let late = "192.0.2.77".parse().unwrap();
        assert!(is_absent(late) && !is_absent(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(open(SocketAddr::new(late, 0)).unwrap().local_addr().unwrap().ip(), late);
    }

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let port = |address: &str| without_ipv6(address.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(port("[::]:25").as_deref(), Some("0.0.0.0:25"));
        assert_eq!(port("[::1]:25"), None);
        assert_eq!(port("0.0.0.0:25"), None);
        let kept = TcpListener::bind("0.0.0.0:0").unwrap();
        let any = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), kept.local_addr().unwrap().port());
        assert!(stands_for(&kept, any));
    }

    #[test]
    fn a_kept_socket_is_used_where_it_is_configured_and_closed_where_it_is_not() {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |socket: &TcpListener| socket.local_addr().unwrap();
        let (wanted, stale) = (bound(), bound());
        let (wanted_address, stale_address) = (address(&wanted), address(&stale));
        // A connection that waits while nothing runs is there for the next process.
        let _early = TcpStream::connect(wanted_address).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let sockets = own(&[any, wanted_address], vec![stale, wanted]).unwrap();
        let [new, kept] = sockets.as_slice() else { panic!("two sockets: {sockets:?}") };
        assert_eq!(address(kept), wanted_address);
        assert!(kept.accept().is_ok());
        assert_ne!(address(new), stale_address);
        assert!(TcpStream::connect(stale_address).is_err());
    }

    #[test]
    fn beside_a_kept_socket_another_is_bound_on_purpose_only() {
        let kept = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = SockAddr::from(kept.local_addr().unwrap());
        let kept = [kept];
        keep(&kept);
        let beside = |on_purpose| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_reuse_port(on_purpose).unwrap();
            socket.bind(&address)
        };
        assert_eq!(beside(false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        beside(true).unwrap();
    }

    #[test]
    fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(unix(&path).unwrap());
        let serving = unix(&path).unwrap();
        assert!(unix(&path).is_err());
        drop(serving);
        std::fs::write(folder.path().join("file"), "precious").unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        for name in ["file", "folder", "link"] {
            let path = folder.path().join(name);
            let error = unix(&path).unwrap_err().to_string();
            assert!(error.contains("left alone"), "{error}");
            assert!(std::fs::symlink_metadata(&path).is_ok());
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("file")).unwrap(), "precious");
    }
}
