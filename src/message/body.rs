//! One message in memory: contiguous, grown without a copy once it is large, counted in the budget by its lease.
//!
//! Up to 64 KiB it lives in a plain allocation, behind that in an anonymous map: `mremap` moves page tables, not
//! octets, and pages that no octet has reached are not resident, so they are not paid for either. Nothing is ever zeroed by us. The map of a message that
//! has gone serves the next one, if that comes soon. The copies there are: the re-allocation below 64 KiB, and the
//! move from there into the map. Logs nothing; where there is no room, in the budget or in the machine, the answer is
//! [`OverBudget`] and the body is as it was.

#![expect(unsafe_code, reason = "the ring reads into memory that is not initialised, and a map that grows may move")]

use super::{Lease, OverBudget};
use memmap2::{Advice, MmapMut, RemapOptions};

const KIB: usize = 1024;
/// Sizes of the plain allocation: most messages need the first only.
const HEAP_STEPS: [usize; 2] = [16 * KIB, 64 * KIB];
/// A map grows by half of itself, within these bounds. Only what may be filled next is paid for.
const MAP_STEP_MIN: usize = 256 * KIB;
const MAP_STEP_MAX: usize = 4 * KIB * KIB;
const PAGE: usize = 4 * KIB;
/// No map of another message is spent on one that has said it will fill less than this part of it.
const GENEROSITY: usize = 16;

/// A message's octets. Has no `Debug` that shows them, is not `Clone`, is freed (and its lease given back) on drop.
pub struct Body {
    // Dropped in this order: the budget never says that memory is free while it is not (but for the spare maps).
    room: Room,
    lease: Lease,
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Room::Map { map, .. } = std::mem::replace(&mut self.room, Room::Heap(Vec::new())) {
            self.lease.keep_spare(map);
        }
    }
}

enum Room {
    /// Filled up to the vector's length.
    Heap(Vec<u8>),
    Map {
        map: MmapMut,
        /// Octets filled; never more than are paid for.
        len: usize,
        /// Octets paid for; never more than the map is long.
        paid: usize,
    },
}

impl Body {
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self { room: Room::Heap(Vec::new()), lease }
    }

    /// Octets filled.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.room {
            Room::Heap(octets) => octets.len(),
            Room::Map { len, .. } => *len,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn octets(&self) -> &[u8] {
        match &self.room {
            Room::Heap(octets) => octets,
            Room::Map { map, len, .. } => map.get(..*len).unwrap_or_default(),
        }
    }

    /// The filled octets, for un-stuffing in place.
    pub fn octets_mut(&mut self) -> &mut [u8] {
        match &mut self.room {
            Room::Heap(octets) => octets,
            Room::Map { map, len, .. } => map.get_mut(..*len).unwrap_or_default(),
        }
    }

    /// Makes room for `more` octets behind the filled ones; growth is paid to the budget as it comes.
    pub fn reserve(&mut self, more: usize) -> Result<(), OverBudget> {
        if more <= self.spare() {
            return Ok(());
        }
        let needed = self.len().checked_add(more).ok_or(OverBudget)?;
        let pages = round_up(needed);
        match &self.room {
            Room::Map { map, .. } if pages <= map.len() => self.pay(pages),
            Room::Map { .. } => self.grow_map(pages),
            Room::Heap(_) => match HEAP_STEPS.into_iter().find(|step| *step >= needed) {
                // The comfortable step may not fit any more; what is needed may.
                Some(step) => self.grow_heap(step).or_else(|_| self.grow_heap(pages)),
                None => self.leave_heap(pages),
            },
        }
    }

    /// Writable octets behind the filled ones.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.capacity().saturating_sub(self.len())
    }

    /// Start of the spare octets; valid until the next call that takes `&mut self`, also when the `Body` value is moved.
    pub fn spare_ptr(&mut self) -> *mut u8 {
        match &mut self.room {
            Room::Heap(octets) => octets.spare_capacity_mut().as_mut_ptr().cast(),
            // SAFETY: `len` is never more than the map's length, so the result is within the map or one past its end.
            Room::Map { map, len, .. } => unsafe { map.as_mut_ptr().add(*len) },
        }
    }

    /// # Safety
    /// The first `n` spare octets have been written.
    pub unsafe fn advance(&mut self, n: usize) {
        assert!(n <= self.spare(), "more octets said to be written than there was room for");
        match &mut self.room {
            Room::Heap(octets) => {
                let len = octets.len() + n;
                // SAFETY: within the capacity by the line above, and written by the caller's promise.
                unsafe { octets.set_len(len) }
            }
            Room::Map { len, .. } => *len += n,
        }
    }

    /// Forgets what is filled behind `len`.
    pub fn truncate(&mut self, new_len: usize) {
        match &mut self.room {
            Room::Heap(octets) => octets.truncate(new_len),
            Room::Map { len, .. } => *len = new_len.min(*len),
        }
    }

    /// Copies octets in (pipelined data that came with the commands; TLS plaintext).
    pub fn extend(&mut self, more: &[u8]) -> Result<(), OverBudget> {
        self.reserve(more.len())?;
        match &mut self.room {
            Room::Heap(octets) => octets.extend_from_slice(more),
            Room::Map { map, len, .. } => {
                let end = *len + more.len();
                map.get_mut(*len..end).ok_or(OverBudget)?.copy_from_slice(more);
                *len = end;
            }
        }
        Ok(())
    }

    /// Fills so many octets with zeros: room for what is written in place.
    pub fn pad(&mut self, more: usize) -> Result<(), OverBudget> {
        self.reserve(more)?;
        match &mut self.room {
            Room::Heap(octets) => octets.resize(octets.len() + more, 0),
            Room::Map { map, len, .. } => {
                let end = *len + more;
                map.get_mut(*len..end).ok_or(OverBudget)?.fill(0);
                *len = end;
            }
        }
        Ok(())
    }

    /// Takes off what lies behind `len`, with its part of the lease where that is more than a connection has for nothing.
    pub fn split_off(&mut self, len: usize) -> (Vec<u8>, Option<Lease>) {
        let rest = self.octets().get(len..).unwrap_or_default().to_vec();
        self.truncate(len);
        let Room::Map { paid, .. } = &mut self.room else { return (rest, None) };
        let pages = rest.len() / PAGE * PAGE;
        *paid -= pages;
        let lease = self.lease.split(pages as u64);
        (rest, Some(lease))
    }

    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Octets paid for.
    fn capacity(&self) -> usize {
        match &self.room {
            Room::Heap(octets) => octets.capacity(),
            Room::Map { paid, .. } => *paid,
        }
    }

    /// Pays for so many octets of the map.
    fn pay(&mut self, octets: usize) -> Result<(), OverBudget> {
        self.lease.resize(octets as u64)?;
        if let Room::Map { paid, .. } = &mut self.room {
            *paid = octets;
        }
        Ok(())
    }

    /// Pays first, then grows; gives the difference back if the machine refuses.
    fn grow_heap(&mut self, capacity: usize) -> Result<(), OverBudget> {
        let held = self.lease.held();
        self.lease.resize(capacity as u64)?;
        if let Room::Heap(octets) = &mut self.room
            && octets.try_reserve_exact(capacity.saturating_sub(octets.len())).is_err()
        {
            self.lease.resize(held)?;
            return Err(OverBudget);
        }
        Ok(())
    }

    fn leave_heap(&mut self, needed: usize) -> Result<(), OverBudget> {
        let capacity = needed.max(self.capacity().saturating_add(MAP_STEP_MIN));
        if self.take_spare(capacity) {
            return Ok(());
        }
        let held = self.lease.held();
        self.lease.resize(needed as u64)?;
        let Ok(map) = MmapMut::map_anon(capacity) else {
            self.lease.resize(held)?;
            return Err(OverBudget);
        };
        // Promise 2: not in a core dump. A kernel without this advice still has RLIMIT_CORE 0 set by the daemon.
        if let Err(error) = map.advise(Advice::DontDump) {
            tracing::debug!(%error, "a message's memory may be dumped");
        }
        self.move_into(map, needed)
    }

    fn grow_map(&mut self, needed: usize) -> Result<(), OverBudget> {
        let held = self.lease.held();
        self.lease.resize(needed as u64)?;
        let Room::Map { map, paid, .. } = &mut self.room else { return Err(OverBudget) };
        let step = (map.len() / 2).clamp(MAP_STEP_MIN, MAP_STEP_MAX);
        let capacity = needed.max(map.len().saturating_add(step));
        // SAFETY: no reference into the map is alive, since `self` is borrowed mutably; raw pointers from
        // `spare_ptr` are void by its documentation. The map is anonymous, so it cannot be shorter than it says.
        if unsafe { map.remap(capacity, RemapOptions::new().may_move(true)) }.is_err() {
            self.lease.resize(held)?;
            return Err(OverBudget);
        }
        *paid = needed;
        Ok(())
    }

    /// A body that leaves the heap takes the map of one that has gone, if the budget has room for all of it.
    fn take_spare(&mut self, capacity: usize) -> bool {
        // Room is made before the first octet where the size was announced; without that it may become as large as any.
        let most = if self.is_empty() { capacity.saturating_mul(GENEROSITY) } else { usize::MAX };
        let Some(map) = self.lease.spare(capacity..=most) else { return false };
        if self.lease.resize(map.len() as u64).is_err() {
            self.lease.keep_spare(map);
            return false;
        }
        let all = map.len();
        // It may be resident to its end, so all of it is paid for.
        self.move_into(map, all).is_ok()
    }

    /// The one copy a large message sees.
    fn move_into(&mut self, mut map: MmapMut, paid: usize) -> Result<(), OverBudget> {
        if let Room::Heap(octets) = &self.room {
            let len = octets.len();
            map.get_mut(..len).ok_or(OverBudget)?.copy_from_slice(octets);
            self.room = Room::Map { map, len, paid };
        }
        Ok(())
    }
}

/// To whole pages.
fn round_up(octets: usize) -> usize {
    octets.checked_next_multiple_of(PAGE).unwrap_or(octets)
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, OverBudget};
    use super::{Body, KIB};
    use proptest::prelude::*;

    fn body(budget: u64) -> (std::sync::Arc<Budget>, Body) {
        let budget = Budget::new(budget, 1.0, 1.0);
        let body = Body::new(budget.lease(&budget.share()));
        (budget, body)
    }

    fn write(body: &mut Body, octets: &[u8]) {
        let at = body.spare_ptr();
        assert!(octets.len() <= body.spare());
        // SAFETY: there is room for them by the line above, and they are written before they count.
        unsafe {
            std::ptr::copy_nonoverlapping(octets.as_ptr(), at, octets.len());
            body.advance(octets.len());
        }
    }

    #[test]
    fn is_send_and_costs_nothing_while_empty() {
        fn send(_: &impl Send) {}
        let (budget, body) = body(1);
        send(&body);
        assert_eq!((body.len(), body.spare(), budget.held()), (0, 0, 0));
        assert!(body.is_empty() && body.octets().is_empty());
    }

    #[test]
    fn grows_from_heap_to_map_with_its_octets_and_its_charge() {
        let (budget, mut body) = body(64 * 1024 * 1024);
        let block: Vec<u8> = (0..7919_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut expected = Vec::new();
        while expected.len() < 6_000_000 {
            body.extend(&block).unwrap();
            expected.extend_from_slice(&block);
            assert_eq!(body.lease().held(), (body.len() + body.spare()) as u64);
            assert_eq!(budget.held(), body.lease().held());
        }
        assert!(body.octets() == expected);
        assert!(budget.held() <= 6_000_000 / 10 * 15, "held {}", budget.held());
        body.octets_mut()[5_000_000] = b'!';
        body.truncate(5_000_001);
        assert_eq!((body.len(), body.octets().last()), (5_000_001, Some(&b'!')));
        drop(body);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_spare_octets_stay_where_they_are_when_the_body_moves() {
        for size in [10, 3 * 1024 * KIB] {
            let (_, mut body) = body(64 * 1024 * 1024);
            body.reserve(size).unwrap();
            let before = body.spare_ptr();
            let mut moved = Box::new(body);
            assert_eq!(moved.spare_ptr(), before);
            write(&mut moved, b"octets");
            assert_eq!(moved.octets(), b"octets");
        }
    }

    #[test]
    fn a_refusal_leaves_the_body_whole_and_the_exact_need_is_tried() {
        let (budget, mut body) = body(300 * 1024);
        let block = vec![b'x'; 200 * KIB];
        body.extend(&block).unwrap();
        // The step would be 512 KiB; 280 KiB still fit.
        body.extend(&vec![b'y'; 80 * KIB]).unwrap();
        assert_eq!(body.len(), 280 * KIB);
        let held = budget.held();
        assert_eq!(body.extend(&vec![b'z'; 80 * KIB]), Err(OverBudget));
        assert_eq!(body.reserve(usize::MAX), Err(OverBudget));
        assert_eq!((body.len(), budget.held()), (280 * KIB, held));
        assert_eq!(body.octets().last(), Some(&b'y'));
    }

    #[test]
    fn a_large_message_uses_the_map_of_the_last_if_it_may_hold_so_much() {
        let budget = Budget::new(40 << 20, 1.0, 1.0);
        let large = |octets: usize| {
            let mut body = Body::new(budget.lease(&budget.share()));
            body.reserve(octets).map(|()| {
                body.extend(b"start").unwrap();
                body
            })
        };
        let first = large(6 << 20).unwrap();
        let room = budget.held();
        drop(first);
        assert_eq!(budget.held(), 0, "what is kept is in nobody's lease");
        let second = large(1 << 20).unwrap();
        assert_eq!((budget.held(), second.octets()), (room, b"start".as_slice()));
        drop(second);
        assert!(large(100 << 10).is_ok_and(|body| body.spare() < 1 << 20), "it has said that it is small");
        // One that has outgrown the heap may become as large as any, and none is too large for it.
        let mut third = large(60 << 10).unwrap();
        third.extend(&vec![b'x'; 60 << 10]).unwrap();
        third.reserve(64 << 10).unwrap();
        assert_eq!(budget.held(), room);
        drop(third);
        // With little left, the message gets a map of its own size.
        let other = large(35 << 20).unwrap();
        assert!(large(1 << 20).is_ok_and(|body| body.spare() < 2 << 20));
        drop(other);
    }

    #[test]
    fn an_impossible_map_gives_its_charge_back() {
        let (budget, mut body) = body(u64::MAX);
        body.extend(b"kept").unwrap();
        let held = budget.held();
        assert_eq!(body.reserve(isize::MAX as usize / 2), Err(OverBudget));
        assert_eq!((body.octets(), budget.held()), (&b"kept"[..], held));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn is_a_vector_that_counts(steps in proptest::collection::vec((0_u8..4, 0_usize..200_000), 1..20)) {
            let (budget, mut body) = body(u64::MAX);
            let mut reference = Vec::new();
            for (kind, size) in steps {
                let octets: Vec<u8> = (0..size).map(|n| (n % 251).to_le_bytes()[0]).collect();
                match kind {
                    0 => body.reserve(size).unwrap(),
                    1 => { body.truncate(size); reference.truncate(size); }
                    2 => { body.extend(&octets).unwrap(); reference.extend_from_slice(&octets); }
                    _ => {
                        body.reserve(size).unwrap();
                        write(&mut body, &octets);
                        reference.extend_from_slice(&octets);
                    }
                }
                prop_assert!(body.octets() == reference);
                prop_assert!(body.len() as u64 + body.spare() as u64 == budget.held());
            }
        }
    }
}
