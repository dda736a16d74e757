//! The bound over all routes' forwarders, and whose turn it is when all are at work.
//!
//! A *ticket* stands for one permit of a lane that waits for a forwarder. Tickets are served in their order, so a lane with a
//! long queue and one with a single job take turns. Logs nothing, never fails.

use super::lane::Lane;
use crate::stats::Stats;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) struct Workers {
    state: Mutex<State>,
    stats: Arc<Stats>,
}

struct State {
    busy: usize,
    max: usize,
    /// Most at once since the start: what a pool of threads would have started.
    most: usize,
    tickets: VecDeque<Arc<Lane>>,
}

impl Workers {
    pub(super) fn new(max: usize, stats: &Arc<Stats>) -> Arc<Self> {
        let state = State { busy: 0, max: max.max(1), most: 0, tickets: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), stats: Arc::clone(stats) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new bound; what is at work finishes.
    pub(super) fn set_max(&self, max: usize) {
        self.state().max = max.max(1);
        self.serve();
    }

    /// A forwarder, if one is free and nobody waits for it.
    pub(super) fn take(&self) -> bool {
        let mut state = self.state();
        let free = state.tickets.is_empty() && state.busy < state.max;
        if free {
            self.engage(&mut state);
        }
        free
    }

    /// The lane's next job waits for a forwarder.
    pub(super) fn wait(&self, lane: Arc<Lane>) {
        self.state().tickets.push_back(lane);
        self.serve();
    }

    /// A forwarder is free again.
    pub(super) fn release(&self) {
        self.state().busy -= 1;
        self.serve();
    }

    /// Gives free forwarders to the lanes that wait.
    fn serve(&self) {
        loop {
            let mut state = self.state();
            if state.busy >= state.max {
                return;
            }
            let Some(lane) = state.tickets.pop_front() else { return };
            self.engage(&mut state);
            drop(state);
            if !lane.engage_next() {
                self.state().busy -= 1;
            }
        }
    }

    fn engage(&self, state: &mut State) {
        state.busy += 1;
        if state.busy > state.most {
            state.most = state.busy;
            self.stats.forwarders.started.set(u64::try_from(state.most).unwrap_or(u64::MAX));
        }
    }
}
