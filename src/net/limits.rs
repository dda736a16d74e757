//! Connections at once, in all and for one address (an IPv6 client counts by its /64): one short lock at accept and one at close.

use crate::message::{Budget, Share};
use crate::stats::Stats;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Which limit refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TotalLimit,
    PerIpLimit,
}

pub struct Limits {
    total_max: AtomicUsize,
    per_ip_max: AtomicUsize,
    budget: Arc<Budget>,
    stats: Arc<Stats>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    total: usize,
    /// Only addresses that are connected now: it cannot grow beyond the connections.
    clients: HashMap<IpAddr, Client>,
}

struct Client {
    connections: usize,
    share: Arc<Share>,
}

/// One admitted connection; leaving is its drop.
pub struct Admission {
    limits: Arc<Limits>,
    key: IpAddr,
    share: Arc<Share>,
}

impl Limits {
    #[must_use]
    pub fn new(total_max: usize, per_ip_max: usize, budget: Arc<Budget>, stats: Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            total_max: AtomicUsize::new(total_max),
            per_ip_max: AtomicUsize::new(per_ip_max),
            budget,
            stats,
            table: Mutex::default(),
        })
    }

    /// At reload; connections that are there stay.
    pub fn set_limits(&self, total_max: usize, per_ip_max: usize) {
        self.total_max.store(total_max, Ordering::Relaxed);
        self.per_ip_max.store(per_ip_max, Ordering::Relaxed);
    }

    /// Counts a connection in, or says which limit it meets (`421 4.7.0`).
    ///
    /// # Errors
    /// The limit; it is counted.
    pub fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Admission, Refused> {
        let admitted = self.enter(client_of(ip));
        let connections = &self.stats.connections;
        match &admitted {
            Ok(_) => {
                connections.accepted.add(1);
                connections.open.add(1);
            }
            Err(Refused::TotalLimit) => connections.refused_total_limit.add(1),
            Err(Refused::PerIpLimit) => connections.refused_per_ip_limit.add(1),
        }
        admitted
    }

    fn enter(self: &Arc<Self>, key: IpAddr) -> Result<Admission, Refused> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.total >= self.total_max.load(Ordering::Relaxed) {
            return Err(Refused::TotalLimit);
        }
        // Looked at before an entry is made: a refused client leaves none behind.
        let held = table.clients.get(&key).map_or(0, |client| client.connections);
        if held >= self.per_ip_max.load(Ordering::Relaxed) {
            return Err(Refused::PerIpLimit);
        }
        let client = table.clients.entry(key).or_insert_with(|| Client { connections: 0, share: self.budget.share() });
        client.connections += 1;
        let share = Arc::clone(&client.share);
        table.total += 1;
        drop(table);
        Ok(Admission { limits: Arc::clone(self), key, share })
    }

    fn leave(&self, key: IpAddr) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.total = table.total.saturating_sub(1);
        if let Entry::Occupied(mut known) = table.clients.entry(key) {
            let client = known.get_mut();
            client.connections = client.connections.saturating_sub(1);
            if client.connections == 0 {
                known.remove();
            }
        }
    }
}

impl Admission {
    /// The part of the body budget that this client's connections share.
    #[must_use]
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.limits.leave(self.key);
        self.limits.stats.connections.open.sub(1);
    }
}

/// What counts as one client: an IPv4 address, an IPv6 /64 (the least that a network hands to one customer).
fn client_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Refused};
    use crate::message::Budget;
    use crate::stats::Stats;
    use std::net::IpAddr;
    use std::sync::Arc;

    fn limits(total_max: usize, per_ip_max: usize) -> (Arc<Limits>, Arc<Stats>) {
        let stats = Stats::new();
        (Limits::new(total_max, per_ip_max, Budget::new(1 << 20, 0.5, 1.0), Arc::clone(&stats)), stats)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_and_all_together_are_bounded() {
        let (limits, stats) = limits(3, 2);
        let first = limits.admit(ip("192.0.2.1")).unwrap();
        let _second = limits.admit(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1")).err(), Some(Refused::PerIpLimit));
        let _other = limits.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.3")).err(), Some(Refused::TotalLimit));
        drop(first);
        let _again = limits.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(stats.connections.open.get(), 3);
        assert_eq!(stats.connections.accepted.get(), 4);
        assert_eq!(stats.connections.refused_per_ip_limit.get(), 1);
        assert_eq!(stats.connections.refused_total_limit.get(), 1);
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let (limits, _) = limits(10, 1);
        let _one = limits.admit(ip("2001:db8:1:2::1")).unwrap();
        assert_eq!(limits.admit(ip("2001:db8:1:2:ffff::9")).err(), Some(Refused::PerIpLimit));
        assert!(limits.admit(ip("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn an_address_that_left_leaves_nothing_behind() {
        let (limits, _) = limits(10, 5);
        for last in 0..200_u8 {
            drop(limits.admit(IpAddr::from([192, 0, 2, last])));
        }
        limits.set_limits(10, 0);
        assert_eq!(limits.admit(ip("192.0.2.1")).err(), Some(Refused::PerIpLimit));
        assert!(limits.table.lock().unwrap().clients.is_empty());
    }

    #[test]
    fn a_reload_changes_the_limits_for_new_connections() {
        let (limits, _) = limits(1, 1);
        let _held = limits.admit(ip("192.0.2.1")).unwrap();
        limits.set_limits(5, 5);
        assert!(limits.admit(ip("192.0.2.1")).is_ok());
    }
}
