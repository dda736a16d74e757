//! Host to addresses, through the system's resolver, with a short cache. Many calls that miss one host wait for one look-up, so that
//! a burst does not become a burst of look-ups. Logs nothing; fails when there is no address in time.

use crate::ring;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The system's resolver tells no time to live; an endpoint that moves is found again within this.
const TTL: Duration = Duration::from_secs(10);
/// When the resolver fails, addresses it knew this long ago still serve.
const STALE_MAX: Duration = Duration::from_secs(300);
/// A name that could not be found is asked for again after this.
const FAILED_TTL: Duration = Duration::from_secs(1);
/// Waiting for one look-up, within the deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// Look-ups under way at once, one for each host: each holds a thread until the system's resolver gives up.
const LOOKUPS_MAX: usize = 32;
/// Hosts are those of the configuration, and what their redirects name.
const HOSTS_MAX: usize = 1024;

/// What asks the system.
type Ask = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

#[derive(Debug, Clone)]
pub struct CachedResolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hosts: Mutex<Hosts>,
    answered: Notify,
    ask: Ask,
}

#[derive(Debug, Default)]
struct Hosts {
    known: HashMap<(String, u16), Entry>,
    lookups: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// The last answer that had addresses.
    addresses: Vec<SocketAddr>,
    found: Option<Instant>,
    /// The last look-up failed, and when.
    failed: Option<(Instant, String)>,
    under_way: bool,
}

impl Default for CachedResolver {
    fn default() -> Self {
        Self::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }
}

impl CachedResolver {
    fn new(ask: Ask) -> Self {
        Self(Arc::new(Shared { hosts: Mutex::default(), answered: Notify::new(), ask }))
    }

    /// # Errors
    /// The host has no address, or none was found in time.
    pub(super) async fn addresses(&self, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = literal.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let key = (host.to_owned(), port);
        let deadline = deadline.min(Instant::now() + PATIENCE);
        loop {
            // Before the look, so that an answer that comes behind it is heard.
            let answered = self.0.answered.notified();
            if let Some(done) = self.known(&key)? {
                return done;
            }
            if ring::timeout_at(deadline, answered).await.is_none() {
                return Err("timed out".to_owned());
            }
        }
    }

    /// What is known of it; `Ok(None)`: a look-up is under way.
    fn known(&self, key: &(String, u16)) -> Result<Option<Result<Vec<SocketAddr>, String>>, String> {
        let now = Instant::now();
        let mut hosts = self.0.hosts();
        if let Some(done) = hosts.known.get(key).and_then(|entry| entry.answer(now)) {
            return Ok(Some(done));
        }
        if !hosts.known.get(key).is_some_and(|entry| entry.under_way) {
            hosts.make_room(now)?;
            self.start_look_up(&mut hosts, key).map_err(|error| error.to_string())?;
        }
        Ok(None)
    }

    /// The system's resolver cannot be interrupted: it works on a thread of its own, which nobody has to wait for.
    fn start_look_up(&self, hosts: &mut Hosts, key: &(String, u16)) -> io::Result<()> {
        let (shared, key) = (Arc::clone(&self.0), key.clone());
        let asked = key.clone();
        std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            let found = (shared.ask)(&asked.0, asked.1);
            let mut hosts = shared.hosts();
            hosts.lookups -= 1;
            hosts.known.entry(asked).or_default().learn(found, Instant::now());
            shared.answered.notify_waiters();
        })?;
        hosts.lookups += 1;
        hosts.known.entry(key).or_default().under_way = true;
        Ok(())
    }
}

impl Shared {
    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosts {
    fn make_room(&mut self, now: Instant) -> Result<(), String> {
        if self.lookups >= LOOKUPS_MAX {
            return Err("too many look-ups of host names under way".to_owned());
        }
        if self.known.len() >= HOSTS_MAX {
            self.known.retain(|_, entry| entry.under_way || entry.is_fresh(now));
        }
        if self.known.len() >= HOSTS_MAX {
            return Err("too many host names at once".to_owned());
        }
        Ok(())
    }
}

impl Entry {
    fn is_fresh(&self, now: Instant) -> bool {
        self.found.is_some_and(|found| now < found + TTL)
    }

    /// What is known, if there is nothing to look up.
    fn answer(&self, now: Instant) -> Option<Result<Vec<SocketAddr>, String>> {
        if self.is_fresh(now) {
            return Some(Ok(self.addresses.clone()));
        }
        let (_, why) = self.failed.as_ref().filter(|(at, _)| now < *at + FAILED_TTL)?;
        if self.found.is_some_and(|found| now < found + STALE_MAX) {
            return Some(Ok(self.addresses.clone()));
        }
        Some(Err(why.clone()))
    }

    fn learn(&mut self, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        self.under_way = false;
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
                self.found = Some(now);
                self.failed = None;
            }
            Ok(_) => self.failed = Some((now, "the host has no address".to_owned())),
            Err(error) => self.failed = Some((now, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Look-ups wait on timers only, which any tokio has.
    fn wait<T>(look_up: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(look_up)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn literals_are_not_looked_up() {
        let resolver = CachedResolver::new(|_, _| Err(io::Error::other("asked")));
        assert_eq!(wait(resolver.addresses("[::1]", 8, soon())).unwrap(), ["[::1]:8".parse().unwrap()]);
        assert_eq!(wait(resolver.addresses("10.0.0.1", 9, soon())).unwrap(), ["10.0.0.1:9".parse().unwrap()]);
    }

    #[test]
    fn a_burst_is_one_look_up() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = CachedResolver::new(|_, port| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
        });
        std::thread::scope(|scope| {
            for _ in 0..100 {
                let resolver = resolver.clone();
                scope.spawn(move || assert_eq!(wait(resolver.addresses("app.example", 80, soon())).unwrap().len(), 1));
            }
        });
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn one_host_that_hangs_costs_its_callers_their_deadline_and_nobody_else_anything() {
        let resolver = CachedResolver::new(|host, port| {
            if host == "hangs.example" {
                std::thread::park_timeout(Duration::from_secs(60));
            }
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
        });
        for _ in 0..LOOKUPS_MAX + 1 {
            let ended = wait(resolver.addresses("hangs.example", 80, Instant::now() + Duration::from_millis(1)));
            assert_eq!(ended.unwrap_err(), "timed out");
        }
        assert!(wait(resolver.addresses("app.example", 80, soon())).is_ok());
        assert_eq!(resolver.0.hosts().lookups, 1, "one thread for the host that hangs");
    }

    #[test]
    fn a_failing_resolver_leaves_what_was_known() {
        let start = Instant::now();
        let mut entry = Entry::default();
        entry.learn(Err(io::Error::other("no such host")), start);
        assert!(entry.answer(start).is_some_and(|answer| answer.is_err()));
        assert!(entry.answer(start + FAILED_TTL).is_none(), "asked again");
        entry.learn(Ok(vec![SocketAddr::from(([192, 0, 2, 1], 80))]), start);
        assert!(entry.answer(start + TTL).is_none());
        entry.learn(Err(io::Error::other("resolver down")), start + TTL);
        assert!(entry.answer(start + TTL).is_some_and(|answer| answer.is_ok()));
        entry.learn(Err(io::Error::other("resolver down")), start + STALE_MAX);
        assert!(entry.answer(start + STALE_MAX).is_some_and(|answer| answer.is_err()));
    }
}
