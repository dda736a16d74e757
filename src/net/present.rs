//! What one ring's tasks share: who is there, and whether the daemon drains. Logs nothing, cannot fail.

use super::Shared;
use crate::delivery::Desk;
use crate::ring::{Conn, Interrupter};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// Never leaves its thread.
pub(super) struct RingState {
    pub(super) shared: Arc<Shared>,
    pub(super) desk: Desk,
    draining: Cell<bool>,
    connections: RefCell<HashMap<u64, Interrupter>>,
    next: Cell<u64>,
    /// Connections that are in no limit: refused ones on their way out, and those whose PROXY header has not come.
    guests: Cell<usize>,
    /// Told when the last connection has gone.
    pub(super) empty: Notify,
}

/// Marks a connection as there, also when its task ends by a panic.
pub(super) struct Present {
    ring: Rc<RingState>,
    key: u64,
}

/// One of the few places for connections that are in no limit.
pub(super) struct Guest(Rc<RingState>);

impl RingState {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            desk: Desk { recorder: shared.stats.recorder(), beat: Notify::new() },
            shared,
            draining: Cell::new(false),
            connections: RefCell::default(),
            next: Cell::new(0),
            guests: Cell::new(0),
            empty: Notify::new(),
        }
    }

    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }

    /// From now on nothing begins; who waits is told.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        for conn in self.connections.borrow().values() {
            conn.interrupt();
        }
    }
}

impl Present {
    pub(super) fn enter(ring: &Rc<RingState>, conn: &Conn) -> Self {
        let key = ring.next.get();
        ring.next.set(key.wrapping_add(1));
        ring.connections.borrow_mut().insert(key, conn.interrupter());
        Self { ring: Rc::clone(ring), key }
    }

    pub(super) fn ring(&self) -> &RingState {
        &self.ring
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut connections = self.ring.connections.borrow_mut();
        connections.remove(&self.key);
        if connections.is_empty() {
            self.ring.empty.notify_one();
        }
    }
}

impl Guest {
    /// `None`: there are `most` already.
    pub(super) fn enter(ring: &Rc<RingState>, most: usize) -> Option<Self> {
        let guests = ring.guests.get();
        (guests < most).then(|| {
            ring.guests.set(guests + 1);
            Self(Rc::clone(ring))
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.set(self.0.guests.get().saturating_sub(1));
    }
}
