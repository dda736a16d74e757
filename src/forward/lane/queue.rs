//! Jobs that wait, first in, first out. One that goes leaves a gap, so that it goes in constant time from anywhere. Pure.

use std::collections::VecDeque;
use std::time::Instant;

pub(super) struct Queue<W> {
    /// `None` is a gap; there is none at either end.
    places: VecDeque<Option<Waiting<W>>>,
    /// Of the place in front, counted over all time.
    front: u64,
    number: u64,
    len: usize,
}

pub(super) struct Waiting<W> {
    pub(super) job: W,
    pub(super) deadline: Instant,
    pub(super) octets: u64,
    number: u64,
}

/// Where a job waits. A place is used again, a number is not.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Key {
    place: u64,
    number: u64,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { places: VecDeque::new(), front: 0, number: 0, len: 0 }
    }
}

impl<W> Queue<W> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, job: W, deadline: Instant, octets: u64) -> Key {
        let key = Key { place: self.front + self.places.len() as u64, number: self.number };
        self.places.push_back(Some(Waiting { job, deadline, octets, number: self.number }));
        self.number += 1;
        self.len += 1;
        key
    }

    pub(super) fn oldest(&self) -> Option<&Waiting<W>> {
        self.places.front().and_then(Option::as_ref)
    }

    pub(super) fn youngest(&self) -> Option<&Waiting<W>> {
        self.places.back().and_then(Option::as_ref)
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Waiting<W>> {
        let oldest = self.places.pop_front().flatten()?;
        self.front += 1;
        self.len -= 1;
        self.close_gaps();
        Some(oldest)
    }

    pub(super) fn pop_youngest(&mut self) -> Option<Waiting<W>> {
        let youngest = self.places.pop_back().flatten()?;
        self.len -= 1;
        self.close_gaps();
        Some(youngest)
    }

    /// False: it does not wait any more.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let place = key.place.checked_sub(self.front).and_then(|at| usize::try_from(at).ok()).and_then(|at| self.places.get_mut(at));
        let Some(place) = place.filter(|place| place.as_ref().is_some_and(|waiting| waiting.number == key.number)) else { return false };
        *place = None;
        self.len -= 1;
        self.close_gaps();
        true
    }

    fn close_gaps(&mut self) {
        while self.places.pop_front_if(|place| place.is_none()).is_some() {
            self.front += 1;
        }
        while self.places.pop_back_if(|place| place.is_none()).is_some() {}
        if self.places.is_empty() {
            // What a bad hour needed is not kept.
            self.places.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use std::time::Instant;

    #[test]
    fn a_place_that_is_used_again_is_not_taken_for_the_former_one() {
        let (now, mut queue) = (Instant::now(), Queue::default());
        let keys: Vec<_> = (0..5).map(|job| queue.push(job, now, 0)).collect();
        assert!(queue.remove(keys[2]));
        assert!(!queue.remove(keys[2]), "once");
        assert_eq!(queue.pop_youngest().unwrap().job, 4);
        let again = queue.push(5, now, 0);
        assert!(!queue.remove(keys[4]), "its place is another's now");
        assert_eq!(queue.pop_oldest().unwrap().job, 0);
        assert!(!queue.remove(keys[0]));
        assert_eq!((queue.len(), queue.pop_oldest().unwrap().job, queue.pop_oldest().unwrap().job), (3, 1, 3));
        assert!(queue.remove(again));
        assert!(queue.is_empty() && queue.pop_oldest().is_none() && queue.pop_youngest().is_none() && queue.oldest().is_none());
        queue.push(6, now, 0);
        assert_eq!(queue.oldest().unwrap().job, 6);
    }
}
