//! All lanes and the forwarders they share, without I/O and without a clock.
//!
//! While other routes are configured one holds at most half of the forwarders. A forwarder that becomes free goes to the lane
//! that holds fewest of those that wait, so a lane with a long queue and one with a single job do not wait for each other.

use super::lane::{Arrival, Came, Flight, Key, Lane, Settings};
use super::refused::Refused;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LaneId(u64);

/// `W` is whoever waits.
pub(super) struct Lanes<W> {
    workers: usize,
    busy: usize,
    /// Most at once since the start: what a pool of threads would have started.
    busiest: usize,
    lanes: HashMap<LaneId, Member<W>>,
    next: u64,
    /// Lanes whose next job waits for a forwarder, in the order in which they get one.
    hungry: BTreeSet<(usize, u64, LaneId)>,
    /// Among equals the one that has waited longest is first.
    turn: u64,
}

struct Member<W> {
    lane: Lane<W>,
    place: Option<(usize, u64, LaneId)>,
}

/// Somebody who waits is to be told.
pub(super) struct Told<W> {
    pub(super) job: W,
    pub(super) word: Result<Flight, Refused>,
}

impl<W> Lanes<W> {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), busy: 0, busiest: 0, lanes: HashMap::new(), next: 0, hungry: BTreeSet::new(), turn: 0 }
    }

    pub(super) fn add(&mut self, settings: Settings) -> LaneId {
        let id = LaneId(self.next);
        self.next += 1;
        self.lanes.insert(id, Member { lane: Lane::new(settings), place: None });
        id
    }

    /// Nobody waits in it any more.
    pub(super) fn remove(&mut self, id: LaneId) {
        if let Some(Member { place: Some(place), .. }) = self.lanes.remove(&id) {
            self.hungry.remove(&place);
        }
    }

    pub(super) fn get(&mut self, id: LaneId) -> Option<&mut Lane<W>> {
        self.lanes.get_mut(&id).map(|member| &mut member.lane)
    }

    /// New limits, also for the jobs that wait.
    pub(super) fn configure(&mut self, id: LaneId, settings: Settings, now: Instant, told: &mut Vec<Told<W>>) {
        if let Some(lane) = self.get(id) {
            lane.configure(settings);
        }
        self.look_after(id, now, told);
    }

    /// A new bound; what is at work finishes.
    pub(super) fn set_workers(&mut self, workers: usize, now: Instant, told: &mut Vec<Told<W>>) {
        self.workers = workers.max(1);
        self.serve(now, told);
    }

    /// # Errors
    /// The job is told "later" at once.
    pub(super) fn arrive(
        &mut self,
        id: LaneId,
        now: Instant,
        deadline: Instant,
        octets: u64,
        job: impl FnOnce() -> W,
        told: &mut Vec<Told<W>>,
    ) -> Result<Arrival, Refused> {
        let worker = self.busy < self.workers && self.hungry.is_empty();
        let lane = self.get(id).ok_or(Refused::Draining)?;
        let arrival = lane.arrive(now, deadline, octets, worker, job);
        if matches!(arrival, Ok(Arrival::Go(_))) {
            self.engage();
            if let Some(lane) = self.get(id) {
                lane.settle(now);
            }
        } else {
            self.look_after(id, now, told);
        }
        arrival
    }

    /// A flight is over.
    pub(super) fn done(&mut self, id: LaneId, now: Instant, flight: &Flight, came: Came, told: &mut Vec<Told<W>>) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(lane) = self.get(id) {
            lane.done(now, flight, came);
        }
        self.look_after(id, now, told);
    }

    /// A job does not wait any longer; false: it did not.
    pub(super) fn gone(&mut self, id: LaneId, key: Key, now: Instant, told: &mut Vec<Told<W>>) -> bool {
        let gone = self.get(id).is_some_and(|lane| lane.gone(key));
        if gone {
            self.look_after(id, now, told);
        }
        gone
    }

    /// Tells those of a lane that wait in vain, and gives what is free to those who wait for it.
    pub(super) fn look_after(&mut self, id: LaneId, now: Instant, told: &mut Vec<Told<W>>) {
        if let Some(lane) = self.get(id) {
            while let Some((job, why)) = lane.tick(now) {
                told.push(Told { job, word: Err(why) });
            }
        }
        self.line_up(id);
        self.serve(now, told);
        if let Some(lane) = self.get(id) {
            lane.settle(now);
        }
    }

    /// Gives a lane its place among those that wait for a forwarder, or takes it away.
    fn line_up(&mut self, id: LaneId) {
        let Some(member) = self.lanes.get_mut(&id) else { return };
        let holds = member.lane.in_flight();
        let stands = member.lane.wants();
        match member.place {
            Some((held, ..)) if stands && held == holds => return,
            Some(place) => {
                self.hungry.remove(&place);
            }
            None => {}
        }
        member.place = stands.then_some((holds, self.turn, id));
        if let Some(place) = member.place {
            self.turn += 1;
            self.hungry.insert(place);
        }
    }

    fn serve(&mut self, now: Instant, told: &mut Vec<Told<W>>) {
        while self.busy < self.workers {
            let Some(place) = self.hungry.pop_first() else { return };
            let id = place.2;
            let Some(member) = self.lanes.get_mut(&id) else { continue };
            member.place = None;
            let granted = member.lane.grant(now);
            if let Some((job, word)) = granted {
                if word.is_ok() {
                    self.engage();
                }
                told.push(Told { job, word });
            }
            self.line_up(id);
        }
    }

    fn engage(&mut self) {
        self.busy += 1;
        self.busiest = self.busiest.max(self.busy);
    }

    pub(super) fn busiest(&self) -> usize {
        self.busiest
    }
}
