//! Who was refused before there was a record: every refusing reply counted by its code, and the last refusals in memory.
//!
//! Bounded: 1 000 rows, 20 of one client (an IPv6 client counts by its /64), the rest of it a number. They never reach a disk.
//! Nothing here fails or logs.

use super::Counter;
use serde::Serialize;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ROWS: usize = 1000;
const ROWS_OF_A_CLIENT: usize = 20;
/// The codes that refuse.
const CODES: std::ops::Range<u16> = 400..600;

/// One refusal, redacted already. What is not known, or not kept, is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub time: jiff::Timestamp,
    pub address: Option<String>,
    pub greeting: Option<String>,
    pub sender: Option<String>,
    pub recipient: Option<String>,
    pub reply: String,
    /// Of a message, for the report.
    #[serde(skip)]
    pub route: Option<String>,
}

/// A refusal as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Rising; for whoever goes on reading.
    pub number: u64,
    #[serde(flatten)]
    pub refusal: Refusal,
    /// Older ones of the same client that are not kept any more; on its oldest row.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    #[serde(skip)]
    client: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

pub struct Refusals {
    codes: Vec<Counter>,
    /// Clients are told apart by a hash, so that a redacted address is not here either.
    hasher: RandomState,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    /// Oldest first.
    kept: VecDeque<Row>,
    last: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { codes: CODES.map(|_| Counter::default()).collect(), hasher: RandomState::new(), rows: Mutex::default() }
    }
}

impl Refusals {
    /// A refusing reply has been made.
    pub fn count(&self, code: u16) {
        if let Some(counter) = code.checked_sub(CODES.start).and_then(|at| self.codes.get(usize::from(at))) {
            counter.add(1);
        }
    }

    /// The codes that have been counted.
    pub fn by_code(&self) -> impl Iterator<Item = (u16, u64)> {
        CODES.zip(&self.codes).map(|(code, counter)| (code, counter.get())).filter(|(_, n)| *n > 0)
    }

    /// Keeps one; `ip` tells the client's others from it.
    pub fn keep(&self, ip: IpAddr, refusal: Refusal) {
        let client = self.hasher.hash_one(client_of(ip));
        let mut rows = self.rows();
        rows.last += 1;
        let number = rows.last;
        let of_client = rows.kept.iter().filter(|row| row.client == client).count();
        if of_client >= ROWS_OF_A_CLIENT {
            rows.leave_out_one_of(client);
        } else if rows.kept.len() >= ROWS {
            // A client with none left is forgotten, and so is its number.
            if let Some(oldest) = rows.kept.front().map(|row| row.client) {
                rows.leave_out_one_of(oldest);
            }
        }
        rows.kept.push_back(Row { number, refusal, left_out: 0, client });
    }

    /// Newest first: those with a greater number than this.
    #[must_use]
    pub fn rows_after(&self, number: u64) -> Vec<Row> {
        self.rows().kept.iter().rev().take_while(|row| row.number > number).cloned().collect()
    }

    /// Takes out what may name an address that is to be forgotten: any row with its local part in it, however the rest is spelled. Too
    /// much goes rather than too little; a local part that is not ASCII can be spelled in too many ways, so all go.
    pub fn forget(&self, address: &str) {
        let local = address.trim().trim_matches(['<', '>', '"']).rsplit_once('@').map_or(address, |(local, _)| local);
        let local = local.trim_matches('"').to_ascii_lowercase();
        self.rows().kept.retain(|Row { refusal, .. }| {
            let options = [&refusal.greeting, &refusal.sender, &refusal.recipient].into_iter().flatten();
            local.is_ascii() && !options.chain([&refusal.reply]).any(|text| text.to_ascii_lowercase().contains(&local))
        });
    }

    /// Takes out what is older than this.
    pub fn expire(&self, before: jiff::Timestamp) {
        self.rows().kept.retain(|row| row.refusal.time >= before);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// The client's oldest row goes and is counted on the next one.
    fn leave_out_one_of(&mut self, client: u64) {
        let Some(at) = self.kept.iter().position(|row| row.client == client) else { return };
        let Some(gone) = self.kept.remove(at) else { return };
        if let Some(next) = self.kept.iter_mut().skip(at).find(|row| row.client == client) {
            next.left_out = next.left_out.saturating_add(gone.left_out).saturating_add(1);
        }
    }
}

/// An IPv6 client has all of its network.
fn client_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(recipient: &str) -> Refusal {
        Refusal {
            time: jiff::Timestamp::UNIX_EPOCH,
            address: None,
            greeting: None,
            sender: Some(String::new()),
            recipient: Some(recipient.to_owned()),
            reply: "550 5.1.1 No such recipient here".to_owned(),
            route: None,
        }
    }

    fn recipients(refusals: &Refusals) -> Vec<(String, u64)> {
        refusals.rows_after(0).into_iter().map(|row| (row.refusal.recipient.unwrap_or_default(), row.left_out)).collect()
    }

    #[test]
    fn a_client_keeps_its_last_twenty_and_a_number() {
        let refusals = Refusals::default();
        let one = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        refusals.keep(IpAddr::from([192, 0, 2, 1]), refusal("other"));
        for n in 0..50_u16 {
            refusals.keep(one(n), refusal(&n.to_string()));
        }
        let rows = recipients(&refusals);
        assert_eq!(rows.len(), 21);
        assert_eq!(rows.first(), Some(&("49".to_owned(), 0)));
        assert_eq!(rows.get(19), Some(&("30".to_owned(), 30)), "the count stands on the oldest that is left");
        assert_eq!(rows.get(20), Some(&("other".to_owned(), 0)));
        assert_eq!(refusals.rows_after(50).len(), 1);
    }

    #[test]
    fn a_crowd_is_bounded() {
        let refusals = Refusals::default();
        for n in 0..3000_u16 {
            let [a, b] = n.to_be_bytes();
            refusals.keep(IpAddr::from([10, 0, a, b]), refusal(&n.to_string()));
        }
        let rows = recipients(&refusals);
        assert_eq!((rows.len(), rows.first().map(|row| row.0.as_str())), (ROWS, Some("2999")));
        assert!(rows.iter().all(|(_, left_out)| *left_out == 0));
    }

    #[test]
    fn what_may_name_a_forgotten_address_goes() {
        let table = [
            ("Ann@Example.test", "ann@example.test", 0),
            ("ann@xn--bcher-kva.test", "<ann@bücher.test>", 0),
            ("list+ann=example.test@x.test", "ann@example.test", 0),
            ("bob@example.test", "ann@example.test", 1),
            ("bob@example.test", "änn@example.test", 0),
            ("\"a b\"@example.test", "\"a b\"@example.test", 0),
        ];
        for (kept, forgotten, left) in table {
            let refusals = Refusals::default();
            refusals.keep(IpAddr::from([192, 0, 2, 1]), refusal(kept));
            refusals.forget(forgotten);
            assert_eq!(refusals.rows_after(0).len(), left, "{kept} and {forgotten}");
        }
    }

    #[test]
    fn the_old_goes_and_codes_are_counted() {
        let refusals = Refusals::default();
        refusals.keep(IpAddr::from([192, 0, 2, 1]), refusal("a@b"));
        refusals.expire("1970-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(refusals.rows_after(0).len(), 1);
        refusals.expire("1970-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(refusals.rows_after(0).len(), 0);
        for code in [250, 400, 550, 550, 599, 600, 0] {
            refusals.count(code);
        }
        assert_eq!(refusals.by_code().collect::<Vec<_>>(), [(400, 1), (550, 2), (599, 1)]);
    }
}
