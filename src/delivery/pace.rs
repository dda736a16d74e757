//! How many lines about mail a second may have, and who had none: each client is named some time, or the network that it is in.
//!
//! Bounded, whatever a crowd does: 20 lines and 16 KiB a second, 16 384 clients that wait to be named. Where more come for long than can
//! be named, those next to each other become their network, the narrowest that makes room. Nothing here fails or logs.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// What some lines may have of a second, each kind counting those of the other.
pub(super) struct Share {
    lines: u32,
    octets: usize,
    /// Of one client: who comes again and again hides nobody.
    of_client: u32,
}

/// All there is, the lines with names included.
pub(super) const MESSAGES: Share = Share { lines: 20, octets: 16 << 10, of_client: 20 };
/// A crowd that is refused does not hide what becomes of messages.
pub(super) const REFUSALS: Share = Share { lines: 15, octets: 12 << 10, of_client: 10 };
/// Of names in one line. A syslog on the way may cut lines at 8 KiB.
const NAMES_OCTETS: usize = 4 << 10;
/// The longest name and its number.
const NAME_OCTETS: usize = 64;
const CLIENTS_WAITING: usize = 1 << 14;
/// Networks that clients become, IPv4 and IPv6: first the ones that are somebody's.
const NETWORKS: [(u8, u8); 5] = [(24, 64), (16, 48), (16, 32), (8, 16), (8, 8)];

/// How many lines this second has had.
pub(super) struct Pace {
    second: Instant,
    written: u32,
    octets: usize,
    of_client: BTreeMap<IpAddr, u32>,
    left_out: u64,
    waiting: BTreeMap<IpNet, u64>,
    /// Up to here they have had their turn.
    named: Option<IpNet>,
}

/// Lines of the last second, and clients or networks with the number of theirs since they were named last.
pub(super) struct LeftOut {
    pub(super) lines: u64,
    pub(super) clients: BTreeMap<IpNet, u64>,
}

impl LeftOut {
    /// `192.0.2.1 (2), 198.51.100.0/24 (300)`.
    pub(super) fn names(&self) -> String {
        let name = |(net, lines): (&IpNet, &u64)| match net.prefix_len() == net.max_prefix_len() {
            true => format!("{} ({lines})", net.addr()),
            false => format!("{net} ({lines})"),
        };
        self.clients.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let (of_client, waiting) = (BTreeMap::new(), BTreeMap::new());
        Self { second: now, written: 0, octets: 0, of_client, left_out: 0, waiting, named: None }
    }

    /// Begins a second when the last one is over; what was left out in that one is to be said now, and is a line of the new one.
    pub(super) fn turn(&mut self, now: Instant) -> Option<LeftOut> {
        if now.saturating_duration_since(self.second) < Duration::from_secs(1) {
            return None;
        }
        self.second = now;
        self.of_client.clear();
        let left_out = self.left_out();
        self.written = u32::from(left_out.is_some());
        self.octets = left_out.as_ref().map_or(0, |left_out| left_out.names().len());
        left_out
    }

    /// The next to be named; nobody is left when it is `None`.
    pub(super) fn left_out(&mut self) -> Option<LeftOut> {
        let lines = std::mem::take(&mut self.left_out);
        // In turn, so that those who come again and again hide nobody.
        let behind = (self.named.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let before = (Bound::Unbounded, self.named.map_or(Bound::Unbounded, Bound::Included));
        let mut clients = BTreeMap::new();
        let mut octets = 0;
        for (net, lines) in self.waiting.range(behind).chain(self.waiting.range(before)) {
            if octets + NAME_OCTETS > NAMES_OCTETS {
                break;
            }
            octets += net.addr().to_string().len() + lines.to_string().len() + ", /64 ()".len();
            self.named = Some(*net);
            clients.insert(*net, *lines);
        }
        self.waiting.retain(|net, _| !clients.contains_key(net));
        (lines > 0 || !clients.is_empty()).then_some(LeftOut { lines, clients })
    }

    /// Whether a line of so many octets may be written.
    pub(super) fn take(&mut self, ip: IpAddr, share: &Share, octets: usize) -> bool {
        let of_client = self.of_client.get(&ip).copied().unwrap_or_default();
        if self.written < share.lines && self.octets + octets <= share.octets && of_client < share.of_client {
            self.written += 1;
            self.octets += octets;
            self.of_client.insert(ip, of_client + 1);
            return true;
        }
        self.left_out += 1;
        *self.waiting.entry(ip.into()).or_default() += 1;
        if self.waiting.len() > CLIENTS_WAITING {
            self.make_room();
        }
        false
    }

    /// Half of it, so that this is seldom done.
    fn make_room(&mut self) {
        for (v4, v6) in NETWORKS {
            if self.waiting.len() <= CLIENTS_WAITING / 2 {
                return;
            }
            let mut networks: BTreeMap<IpNet, (IpNet, u64)> = BTreeMap::new();
            for (net, lines) in std::mem::take(&mut self.waiting) {
                let bits = if net.addr().is_ipv4() { v4 } else { v6 };
                let around = IpNet::new(net.addr(), bits.min(net.prefix_len())).unwrap_or(net).trunc();
                // Who is alone in it stays exact.
                networks.entry(around).and_modify(|(whole, sum)| (*whole, *sum) = (around, *sum + lines)).or_insert((net, lines));
            }
            self.waiting = networks.into_values().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn twenty_a_second_and_a_count_with_names() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.turn(start).is_none());
        let refused = (0..2000).filter(|n| pace.take(ip(n % 1000), &REFUSALS, 300)).count();
        let messages = (0..100).filter(|_| pace.take(ip(2000), &MESSAGES, 300)).count();
        assert_eq!((refused, messages), (15, 5), "a message's line finds room beside a crowd");
        let later = start + Duration::from_secs(1);
        let Some(left_out) = pace.turn(later) else { panic!("nothing was left out") };
        assert_eq!(left_out.lines, 1985 + 95);
        assert!((150..=400).contains(&left_out.clients.len()) && left_out.names().len() <= NAMES_OCTETS, "{}", left_out.names());
        assert_eq!(left_out.clients.get(&ip(20).into()), Some(&2));
        // Who was not named yet is, and then there is nothing more to say.
        let mut named = left_out.clients;
        for second in 1..100 {
            named.extend(pace.turn(later + Duration::from_secs(second)).into_iter().flat_map(|left_out| left_out.clients));
        }
        assert_eq!(named.len(), 1001);
    }

    #[test]
    fn one_client_leaves_room_and_octets_are_bounded() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!((0..100).filter(|_| pace.take(ip(1), &REFUSALS, 300)).count(), 10);
        assert_eq!((0..100).filter(|_| pace.take(ip(2), &REFUSALS, 300)).count(), 5);
        assert!(pace.turn(start + Duration::from_secs(1)).is_some());
        assert_eq!((0..100).filter(|n| pace.take(ip(*n), &REFUSALS, 4000)).count(), 3);
        assert_eq!((0..100).filter(|_| pace.take(ip(3), &MESSAGES, 4000)).count(), 1);
    }

    /// A crowd for so many seconds, each client new and refused twice: at most so many lines and octets, and each client in one of them, by
    /// its address where that can be done.
    #[track_caller]
    fn crowd(seconds: u32, new_a_second: u32, client: impl Fn(u32) -> IpAddr, exact: bool) {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut lines, mut octets) = (0_u32, 0);
        let mut named: BTreeSet<IpNet> = BTreeSet::new();
        for second in 0..seconds {
            if let Some(left_out) = pace.turn(start + Duration::from_secs(u64::from(second))) {
                lines += 1;
                octets += left_out.names().len();
                named.extend(left_out.clients.into_keys());
            }
            for attempt in 0..new_a_second * 2 {
                let ip = client(second * new_a_second + attempt % new_a_second);
                if pace.take(ip, &REFUSALS, 300) {
                    lines += 1;
                    octets += 300;
                    named.insert(ip.into());
                }
            }
            assert!(pace.waiting.len() <= CLIENTS_WAITING);
        }
        while let Some(left_out) = pace.left_out() {
            assert!(left_out.names().len() <= NAMES_OCTETS);
            named.extend(left_out.clients.into_keys());
        }
        assert!(lines <= seconds * MESSAGES.lines && octets <= seconds as usize * MESSAGES.octets, "{lines} lines, {octets} octets");
        for n in (0..seconds * new_a_second).step_by(if exact { 1 } else { 7 }) {
            let ip = client(n);
            let bits = if ip.is_ipv4() { 8..=32 } else { 8..=128 };
            let found = bits.rev().find(|bits| IpNet::new(ip, *bits).is_ok_and(|net| named.contains(&net.trunc())));
            let Some(bits) = found else { panic!("{ip} is nowhere") };
            assert!(!exact || IpNet::from(ip).prefix_len() == bits, "{ip} is only known by its /{bits}");
        }
    }

    #[test]
    fn thirty_new_clients_a_second_are_named() {
        crowd(3600, 30, |n| ip(0x0a00_0000 + n), true);
    }

    #[test]
    fn one_hundred_and_fifty_new_ones_from_all_over_are_named() {
        crowd(3600, 150, |n| ip(n.wrapping_mul(0x9e37_79b1)), true);
    }

    #[test]
    fn of_a_thousand_new_ones_a_second_each_is_in_a_network() {
        crowd(300, 1000, |n| ip(0x0a00_0000 + n), false);
        crowd(300, 1000, |n| ip(n.wrapping_mul(0x9e37_79b1)), false);
        crowd(300, 700, |n| IpAddr::from((u128::from(n.wrapping_mul(0x9e37_79b1)) << 96 | u128::from(n)).to_be_bytes()), false);
    }
}
