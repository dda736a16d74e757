//! Host to addresses: what is known serves while it is asked again (RFC 8767), many calls that miss one host wait for one
//! look-up, and nobody's hosts hold up another's. Logs nothing; fails when there is no address in time.

use super::dns::{Dns, Found, NotFound};
use super::origin::literal;
use crate::ring;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};

/// What the DNS says of its time to live is believed within these.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_hours(1);
/// What has run out for no longer than this serves at once; older addresses may be somebody else's by now.
const AT_ONCE: Duration = Duration::from_secs(30);
/// They serve when the DNS has not answered for this long (RFC 8767 section 5: client response timer) ...
const STALE_PATIENCE: Duration = Duration::from_millis(1800);
/// ... and at once for so long after that (failure recheck timer), up to this age.
const STALE_AGAIN: Duration = Duration::from_secs(30);
const STALE_MAX: Duration = Duration::from_hours(24);
/// A name is asked for again after this, found or not.
const AGAIN: Duration = Duration::from_secs(1);
/// Addresses that cannot be connected to may be old ones: new ones are waited for so long.
const OTHERS_PATIENCE: Duration = Duration::from_secs(1);
/// Waiting for one look-up, within the deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// Look-ups of one route under way, for its own hosts and for what redirects name.
const OF_ROUTE_MAX: usize = 16;
/// Look-ups under way, in all and for redirects: further ones wait for their turn. Each holds a socket.
const AT_WORK_MAX: usize = 256;
const REDIRECTED_AT_WORK_MAX: usize = 64;
/// Hosts that are known: those of a configuration, and what redirects name.
const HOSTS_MAX: usize = 256 * 1024;
const REDIRECTED_HOSTS_MAX: usize = 1024;

/// What all routes know.
pub struct Resolver {
    dns: Arc<Dns>,
    own: Table,
    redirected: Table,
}

/// Hosts of one kind.
struct Table {
    hosts: Mutex<HashMap<Arc<str>, Entry>>,
    hosts_max: usize,
    answered: Notify,
    at_work: Semaphore,
}

/// One route's way to it.
pub struct Names {
    resolver: Arc<Resolver>,
    own: Arc<AtomicUsize>,
    redirected: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Entry {
    /// The last answer that had addresses, the one that was connected to last in front.
    addresses: Vec<IpAddr>,
    until: Option<Instant>,
    asked: Option<Instant>,
    /// The last look-up did not answer, or not in time: when that was seen.
    failed: Option<(Instant, String)>,
    under_way: bool,
}

/// What is known of a host.
enum Known {
    Addresses(Vec<IpAddr>),
    /// They serve when nothing better has come by then.
    Soon(Vec<IpAddr>, Instant),
    Nothing(String),
    /// A look-up is under way.
    NotYet,
}

impl Resolver {
    /// # Errors
    /// There is no thread to be had for it.
    pub fn start(servers: &[SocketAddr], timeout: Duration) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            dns: Dns::start(servers, timeout)?,
            own: Table::new(HOSTS_MAX, AT_WORK_MAX),
            redirected: Table::new(REDIRECTED_HOSTS_MAX, REDIRECTED_AT_WORK_MAX),
        }))
    }

    /// For one route.
    #[must_use]
    pub fn names(self: &Arc<Self>) -> Names {
        Names { resolver: Arc::clone(self), own: Arc::default(), redirected: Arc::default() }
    }

    /// The host's addresses as they are said now; for who is on no ring.
    ///
    /// # Errors
    /// It has none, or nobody could say.
    pub fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Some(ip) = literal(host) {
            return Ok(vec![ip]);
        }
        let (tell, told) = mpsc::channel();
        let (dns, host) = (Arc::clone(&self.dns), host.to_owned());
        self.dns.spawn(async move { dns.look_up(&host, |found| drop(tell.send(found))).await });
        match told.recv() {
            Ok(Ok(found)) => Ok(found.addresses),
            Ok(Err(NotFound::Nothing(why))) => Err(why.to_owned()),
            Ok(Err(NotFound::Unknown(why))) => Err(why),
            Err(mpsc::RecvError) => Err("no answer".to_owned()),
        }
    }

    fn table(&self, redirected: bool) -> &Table {
        if redirected { &self.redirected } else { &self.own }
    }
}

impl Names {
    /// The host's addresses, in the order in which they are to be tried. `redirected`: the host is none of the configuration's.
    ///
    /// # Errors
    /// It has no address, or none was found in time.
    pub(super) async fn addresses(&self, host: &str, redirected: bool, deadline: Instant) -> Result<Vec<IpAddr>, String> {
        if let Some(ip) = literal(host) {
            return Ok(vec![ip]);
        }
        let table = self.resolver.table(redirected);
        let begun = Instant::now();
        let deadline = deadline.min(begun + PATIENCE);
        loop {
            // Before the look, so that an answer that comes behind it is heard.
            let answered = table.answered.notified();
            let (at, stale) = match self.known(host, redirected, begun)? {
                Known::Addresses(addresses) => return Ok(addresses),
                Known::Nothing(why) => return Err(why),
                Known::Soon(addresses, at) => (at.min(deadline), Some(addresses)),
                Known::NotYet => (deadline, None),
            };
            if ring::timeout_at(at, answered).await.is_none() {
                let Some(addresses) = stale else { return Err("timed out".to_owned()) };
                table.does_not_answer(host);
                return Ok(addresses);
            }
        }
    }

    /// None of these could be connected to: others, if asking anew finds some.
    pub(super) async fn others(&self, host: &str, redirected: bool, tried: &[IpAddr], deadline: Instant) -> Vec<IpAddr> {
        let table = self.resolver.table(redirected);
        let now = Instant::now();
        let deadline = deadline.min(now + OTHERS_PATIENCE);
        loop {
            let answered = table.answered.notified();
            if let Some(others) = self.known_others(host, redirected, tried, now) {
                return others;
            }
            if ring::timeout_at(deadline, answered).await.is_none() {
                return Vec::new();
            }
        }
    }

    /// `None`: a look-up is under way.
    fn known_others(&self, host: &str, redirected: bool, tried: &[IpAddr], begun: Instant) -> Option<Vec<IpAddr>> {
        let mut hosts = self.resolver.table(redirected).hosts();
        let Some(entry) = hosts.get(host) else { return Some(Vec::new()) };
        let others: Vec<IpAddr> = entry.addresses.iter().filter(|address| !tried.contains(address)).copied().collect();
        let under_way = entry.under_way;
        if !others.is_empty() || !under_way && entry.asked.is_some_and(|asked| asked + AGAIN > begun) {
            return Some(others);
        }
        if !under_way && self.start(&mut hosts, host, redirected).is_err() {
            return Some(Vec::new());
        }
        None
    }

    /// This one answered: it is tried first from now on.
    pub(super) fn connected(&self, host: &str, redirected: bool, to: IpAddr) {
        let mut hosts = self.resolver.table(redirected).hosts();
        let Some(entry) = hosts.get_mut(host) else { return };
        if let Some(at) = entry.addresses.iter().position(|address| *address == to) {
            to_front(&mut entry.addresses, at);
        }
    }

    fn known(&self, host: &str, redirected: bool, begun: Instant) -> Result<Known, String> {
        let now = Instant::now();
        let mut hosts = self.resolver.table(redirected).hosts();
        let known = hosts.get(host).map_or(Known::NotYet, |entry| entry.known(now, begun));
        let (due, under_way) = hosts.get(host).map_or((true, false), |entry| (entry.is_due(now), entry.under_way));
        // What is known serves, bounds or not.
        if due
            && !under_way
            && let Err(why) = self.start(&mut hosts, host, redirected)
            && matches!(known, Known::NotYet)
        {
            return Err(why);
        }
        Ok(known)
    }

    /// Asks, beside everything else.
    fn start(&self, hosts: &mut HashMap<Arc<str>, Entry>, host: &str, redirected: bool) -> Result<(), String> {
        let table = self.resolver.table(redirected);
        table.make_room(hosts)?;
        let count = if redirected { &self.redirected } else { &self.own };
        let room = |n: usize| (n < OF_ROUTE_MAX).then_some(n + 1);
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .map_err(|_| "too many look-ups of host names under way".to_owned())?;
        let host: Arc<str> = host.into();
        hosts.entry(Arc::clone(&host)).or_default().under_way = true;
        let look_up = LookUp { resolver: Arc::clone(&self.resolver), host, redirected, of_route: Arc::clone(count) };
        self.resolver.dns.spawn(async move {
            let table = look_up.resolver.table(redirected);
            let _turn = table.at_work.acquire().await;
            look_up.resolver.dns.look_up(&look_up.host, |found| table.learn(&look_up.host, found)).await;
        });
        Ok(())
    }
}

/// One that is under way; dropped, it has ended.
struct LookUp {
    resolver: Arc<Resolver>,
    host: Arc<str>,
    redirected: bool,
    of_route: Arc<AtomicUsize>,
}

impl Drop for LookUp {
    fn drop(&mut self) {
        let table = self.resolver.table(self.redirected);
        if let Some(entry) = table.hosts().get_mut(&self.host) {
            entry.under_way = false;
        }
        self.of_route.fetch_sub(1, Ordering::AcqRel);
        table.answered.notify_waiters();
    }
}

impl Table {
    fn new(hosts_max: usize, at_work_max: usize) -> Self {
        Self { hosts: Mutex::default(), hosts_max, answered: Notify::new(), at_work: Semaphore::new(at_work_max) }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self, hosts: &mut HashMap<Arc<str>, Entry>) -> Result<(), String> {
        if hosts.len() >= self.hosts_max {
            let now = Instant::now();
            hosts.retain(|_, entry| entry.under_way || entry.until.is_some_and(|until| until > now));
        }
        if hosts.len() >= self.hosts_max {
            hosts.retain(|_, entry| entry.under_way);
        }
        if hosts.len() >= self.hosts_max { Err("too many host names at once".to_owned()) } else { Ok(()) }
    }

    fn learn(&self, host: &str, found: Result<Found, NotFound>) {
        if let Some(entry) = self.hosts().get_mut(host) {
            entry.learn(found, Instant::now());
        }
        self.answered.notify_waiters();
    }

    fn does_not_answer(&self, host: &str) {
        if let Some(entry) = self.hosts().get_mut(host) {
            entry.failed = Some((Instant::now(), "timed out".to_owned()));
        }
    }
}

impl Entry {
    /// It is time to ask.
    fn is_due(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now) && self.asked.is_none_or(|asked| asked + AGAIN <= now)
    }

    fn known(&self, now: Instant, begun: Instant) -> Known {
        let over = self.until.map(|until| now.saturating_duration_since(until));
        match over.filter(|over| *over < STALE_MAX) {
            Some(over) if over < AT_ONCE => Known::Addresses(self.addresses.clone()),
            Some(_) if self.failed.as_ref().is_some_and(|(at, _)| now < *at + STALE_AGAIN) => Known::Addresses(self.addresses.clone()),
            Some(_) => Known::Soon(self.addresses.clone(), begun + STALE_PATIENCE),
            None => match &self.failed {
                Some((at, why)) if !self.under_way && now < *at + AGAIN => Known::Nothing(why.clone()),
                Some(_) | None => Known::NotYet,
            },
        }
    }

    fn learn(&mut self, found: Result<Found, NotFound>, now: Instant) {
        self.asked = Some(now);
        match found {
            Ok(Found { mut addresses, until }) => {
                // The one that answered last stays in front; else the families take turns, the newer one first (RFC 8305 section 4).
                let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
                addresses = taking_turns(v6, v4);
                if let Some(at) = self.addresses.first().and_then(|first| addresses.iter().position(|address| address == first)) {
                    to_front(&mut addresses, at);
                }
                let ttl = until.saturating_duration_since(now).clamp(TTL_MIN, TTL_MAX);
                self.addresses = addresses;
                self.until = Some(now + ttl);
                self.failed = None;
            }
            // Who says that there is nothing has answered (RFC 8767 section 4).
            Err(NotFound::Nothing(why)) => {
                self.addresses.clear();
                self.until = None;
                self.failed = Some((now, why.to_owned()));
            }
            Err(NotFound::Unknown(why)) => self.failed = Some((now, why)),
        }
    }
}

fn to_front(addresses: &mut [IpAddr], at: usize) {
    if let Some(start) = addresses.get_mut(..=at) {
        start.rotate_right(1);
    }
}

fn taking_turns(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            return all;
        }
    }
}
