//! Host to addresses, through the system's resolver, with a short cache: ureq's own starts a thread for every request that has
//! a deadline. Also where a redirect's rule about addresses is kept: only addresses that come out of here are connected to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::{redirect, transport};

/// The system's resolver tells no time to live; an endpoint that moves is found again within this.
const TTL: Duration = Duration::from_secs(10);
/// Look-ups under way at once: each holds a thread until the system's resolver gives up.
const LOOKUPS_MAX: usize = 32;
/// Hosts are those of the configuration, and what their redirects name.
const HOSTS_MAX: usize = 1024;
/// As many as ureq takes.
const ADDRESSES_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct CachedResolver {
    cache: Mutex<HashMap<String, Entry>>,
    lookups: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<SocketAddr>,
    expires: Instant,
}

impl Resolver for CachedResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = self.addresses(host, port, *timeout.after)?;
        let allowed = if transport::only_public() {
            addresses.into_iter().filter(|address| redirect::is_public(address.ip())).collect()
        } else {
            addresses
        };
        if allowed.is_empty() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, redirect::NOT_PUBLIC).into());
        }
        let mut resolved = self.empty();
        for address in allowed.into_iter().take(ADDRESSES_MAX) {
            resolved.push(address);
        }
        Ok(resolved)
    }
}

impl CachedResolver {
    fn addresses(&self, host: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = literal.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let key = format!("{host}:{port}");
        if let Some(known) = self.cached(&key) {
            return Ok(known);
        }
        let addresses = self.look_up(key.clone(), patience)?;
        self.remember(key, &addresses);
        Ok(addresses)
    }

    fn cached(&self, key: &str) -> Option<Vec<SocketAddr>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).filter(|entry| entry.expires > Instant::now()).map(|entry| entry.addresses.clone())
    }

    fn remember(&self, key: String, addresses: &[SocketAddr]) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if cache.len() >= HOSTS_MAX {
            cache.retain(|_, entry| entry.expires > now);
        }
        if cache.len() < HOSTS_MAX {
            cache.insert(key, Entry { addresses: addresses.to_vec(), expires: now + TTL });
        }
    }

    /// The system's resolver cannot be interrupted: it works on a thread of its own, which is left behind at the deadline.
    fn look_up(&self, key: String, patience: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        let slot = Slot::take(&self.lookups).ok_or_else(|| io::Error::other("too many look-ups of host names under way"))?;
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            let found = key.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            drop(slot);
            // Nobody waits any more after the deadline.
            drop(sender.send(found));
        })?;
        match receiver.recv_timeout(patience) {
            Ok(found) => Ok(found?),
            Err(_) => Err(ureq::Error::Timeout(ureq::Timeout::Resolve)),
        }
    }
}

struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < LOOKUPS_MAX).then_some(n + 1));
        taken.ok().map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
