//! The memory that bodies and rendered requests may hold, in all, for one address and for one route.
//!
//! Counters, no lock: a lease takes from its shares and then from the whole, or from none. Logs nothing; fails only with
//! [`OverBudget`], which the session answers with `452 4.3.1`.

use super::spare::Spares;
use memmap2::MmapMut;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

// The counters guard no other memory, so every access may be relaxed: the sums are exact in any order.
const ORDER: Ordering = Ordering::Relaxed;

/// The whole daemon's budget (`[memory] body_budget`), octets.
pub struct Budget {
    limit: AtomicU64,
    per_ip: AtomicU64,
    per_route: AtomicU64,
    held: AtomicU64,
    spares: Spares,
}

/// What one address (IPv6: one /64; made by the connection limiter at accept, shared by its connections) or one route holds of it.
#[derive(Default)]
pub struct Share {
    held: AtomicU64,
}

/// A part of the budget that is held; given back on drop.
pub struct Lease {
    budget: Arc<Budget>,
    share: Arc<Share>,
    /// Once it is known.
    of_route: Option<Arc<Share>>,
    held: u64,
}

/// The budget, or a share of it, has no room for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory budget exhausted")]
pub struct OverBudget;

impl Budget {
    #[must_use]
    pub fn new(octets: u64, per_ip_share: f64, per_route_share: f64) -> Arc<Self> {
        let none = || AtomicU64::new(0);
        let budget = Self { limit: none(), per_ip: none(), per_route: none(), held: none(), spares: Spares::default() };
        budget.set_limits(octets, per_ip_share, per_route_share);
        Arc::new(budget)
    }

    /// At reload; what is held stays held.
    pub fn set_limits(&self, octets: u64, per_ip_share: f64, per_route_share: f64) {
        self.limit.store(octets, ORDER);
        self.per_ip.store(fraction(octets, per_ip_share), ORDER);
        self.per_route.store(fraction(octets, per_route_share), ORDER);
    }

    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(ORDER)
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(ORDER)
    }

    /// Frees what is kept of messages that have gone; to be called every second.
    pub fn tidy(&self) {
        self.spares.tidy();
    }

    #[must_use]
    pub fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::default()
    }

    /// An empty lease on this budget and that share.
    #[must_use]
    pub fn lease(self: &Arc<Self>, share: &Arc<Share>) -> Lease {
        Lease { budget: Arc::clone(self), share: Arc::clone(share), of_route: None, held: 0 }
    }
}

impl Share {
    /// What all leases on this share hold together.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(ORDER)
    }
}

impl Lease {
    /// Counts for that route as well, as do the leases that are made of it from now on. To be called while it holds nothing.
    #[must_use]
    pub fn of_route(mut self, route: Option<&Arc<Share>>) -> Self {
        debug_assert_eq!(self.held, 0, "what is held would be given back to a share that never had it");
        self.of_route = route.map(Arc::clone);
        self
    }

    /// Holds `octets` in all from now on (more or less than before). On failure it holds what it held.
    pub fn resize(&mut self, octets: u64) -> Result<(), OverBudget> {
        if octets > self.held {
            self.take(octets - self.held)?;
        } else if octets < self.held {
            self.give(self.held - octets);
        }
        self.held = octets;
        Ok(())
    }

    /// What it counts in, and how much of that there may be.
    fn counters(&self) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let Budget { limit, per_ip, per_route, held, .. } = &*self.budget;
        let route = self.of_route.as_ref().map(|route| (&route.held, per_route.load(ORDER)));
        [(&self.share.held, per_ip.load(ORDER))].into_iter().chain(route).chain([(held, limit.load(ORDER))])
    }

    /// From all of them, or from none.
    fn take(&self, more: u64) -> Result<(), OverBudget> {
        for (nth, (held, limit)) in self.counters().enumerate() {
            if let Err(over) = take(held, more, limit) {
                for (held, _) in self.counters().take(nth) {
                    held.fetch_sub(more, ORDER);
                }
                return Err(over);
            }
        }
        Ok(())
    }

    fn give(&self, less: u64) {
        for (held, _) in self.counters() {
            held.fetch_sub(less, ORDER);
        }
    }

    /// Would so much more be granted now?
    pub fn check(&self, octets: u64) -> Result<(), OverBudget> {
        let fits = self.counters().all(|(held, limit)| held.load(ORDER).saturating_add(octets) <= limit);
        if fits { Ok(()) } else { Err(OverBudget) }
    }

    /// A part of what is held, up to so much, as a lease of its own.
    #[must_use]
    pub fn split(&mut self, octets: u64) -> Self {
        let held = octets.min(self.held);
        self.held -= held;
        let mut part = self.sibling();
        part.held = held;
        part
    }

    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// A map that has as many octets as fit, of a message that has gone.
    pub(super) fn spare(&self, fits: RangeInclusive<usize>) -> Option<MmapMut> {
        self.budget.spares.take(fits)
    }

    pub(super) fn keep_spare(&self, map: MmapMut) {
        self.budget.spares.put(map, self.budget.limit());
    }

    /// A second, empty lease on the same budget and shares (for a rendered request).
    #[must_use]
    pub fn sibling(&self) -> Self {
        self.budget.lease(&self.share).of_route(self.of_route.as_ref())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held > 0 {
            self.give(self.held);
        }
    }
}

/// Adds to a counter unless that would pass its limit.
fn take(held: &AtomicU64, more: u64, limit: u64) -> Result<(), OverBudget> {
    let mut now = held.load(ORDER);
    loop {
        let then = now.checked_add(more).filter(|then| *then <= limit).ok_or(OverBudget)?;
        match held.compare_exchange_weak(now, then, ORDER, ORDER) {
            Ok(_) => return Ok(()),
            Err(changed) => now = changed,
        }
    }
}

/// The part of `octets` that one may hold. A share that is no number counts as the whole.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the factor is within 0 and 1, so the product is within u64; an octet more or less does not matter"
)]
fn fraction(octets: u64, share: f64) -> u64 {
    if share.is_nan() {
        return octets;
    }
    ((octets as f64 * share.clamp(0.0, 1.0)) as u64).min(octets)
}

#[cfg(test)]
mod tests {
    use super::{Budget, OverBudget};
    use std::sync::Arc;

    #[test]
    fn the_share_and_the_whole_are_limits_and_nothing_leaks_from_a_refusal() {
        let budget = Budget::new(1000, 0.25, 1.0);
        let share = budget.share();
        let mut lease = budget.lease(&share);
        assert_eq!(lease.resize(250), Ok(()));
        assert_eq!(lease.resize(251), Err(OverBudget));
        assert_eq!((lease.held(), budget.held(), share.held()), (250, 250, 250));

        let mut sibling = lease.sibling();
        assert_eq!(sibling.resize(1), Err(OverBudget), "siblings have one share");
        assert_eq!(lease.resize(200), Ok(()));
        assert_eq!(sibling.resize(50), Ok(()));

        let others: Vec<_> = (0..3)
            .map(|_| {
                let mut lease = budget.lease(&budget.share());
                assert_eq!(lease.resize(250), Ok(()));
                lease
            })
            .collect();
        let fifth = budget.share();
        let mut late = budget.lease(&fifth);
        assert_eq!(late.resize(1), Err(OverBudget), "the whole is taken");
        assert_eq!(fifth.held(), 0, "a refusal by the whole gives the share back");
        drop(others);
        assert_eq!(late.resize(250), Ok(()));
        drop((lease, sibling, late));
        assert_eq!((budget.held(), share.held()), (0, 0));
    }

    #[test]
    fn a_route_has_its_share_whoever_sends() {
        let budget = Budget::new(1000, 0.5, 0.4);
        let (one, other) = (budget.share(), budget.share());
        let (busy, quiet) = (Arc::default(), Arc::default());
        let mut first = budget.lease(&one).of_route(Some(&busy));
        assert_eq!(first.resize(300), Ok(()));
        // A rendered request beside its body counts as well.
        let mut rendered = first.sibling();
        assert_eq!((rendered.resize(101), rendered.resize(100)), (Err(OverBudget), Ok(())));
        let mut second = budget.lease(&other).of_route(Some(&busy));
        assert_eq!((second.check(1), second.resize(1)), (Err(OverBudget), Err(OverBudget)));
        assert_eq!((other.held(), busy.held(), budget.held()), (0, 400, 400), "a refusal by the route's share gives the others back");
        let mut third = budget.lease(&other).of_route(Some(&quiet));
        assert_eq!(third.resize(400), Ok(()), "the other route has its own");
        let part = first.split(200);
        drop((first, rendered));
        assert_eq!((busy.held(), one.held()), (200, 200));
        drop((part, third));
        assert_eq!((busy.held(), quiet.held(), one.held(), other.held(), budget.held()), (0, 0, 0, 0, 0));
    }

    #[test]
    fn what_is_split_off_is_held_until_both_are_gone() {
        let budget = Budget::new(1000, 0.5, 1.0);
        let share = budget.share();
        let mut lease = budget.lease(&share);
        assert_eq!(lease.resize(400), Ok(()));
        assert_eq!((lease.check(100), lease.check(101)), (Ok(()), Err(OverBudget)));
        let part = lease.split(150);
        assert_eq!((lease.held(), part.held(), share.held()), (250, 150, 400));
        let all = lease.split(1000);
        assert_eq!((lease.held(), all.held()), (0, 250));
        drop((lease, all));
        assert_eq!(budget.held(), 150);
        drop(part);
        assert_eq!((budget.held(), share.held()), (0, 0));
    }

    #[test]
    fn new_limits_leave_what_is_held() {
        let budget = Budget::new(1000, 1.0, 1.0);
        let mut lease = budget.lease(&budget.share());
        assert_eq!(lease.resize(900), Ok(()));
        budget.set_limits(100, 0.5, 1.0);
        assert_eq!(lease.resize(901), Err(OverBudget));
        assert_eq!(lease.resize(899), Ok(()), "less is always granted");
        drop(lease);
        assert_eq!((budget.held(), budget.limit()), (0, 100));
    }

    #[test]
    fn a_sum_beyond_u64_is_over_the_budget() {
        let budget = Budget::new(u64::MAX, 1.0, 1.0);
        let share = budget.share();
        let (mut one, mut two) = (budget.lease(&share), budget.lease(&share));
        assert_eq!(one.resize(u64::MAX), Ok(()));
        assert_eq!(two.resize(1), Err(OverBudget));
        assert_eq!(two.held(), 0);
    }

    #[test]
    fn threads_never_pass_the_limit_and_leave_nothing_behind() {
        let budget = Budget::new(64, 1.0, 1.0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let budget = Arc::clone(&budget);
                scope.spawn(move || {
                    let mut lease = budget.lease(&budget.share());
                    for size in 0..2000 {
                        if lease.resize(size % 40).is_ok() {
                            assert!(budget.held() <= 64);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
    }
}
