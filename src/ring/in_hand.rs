//! What a thread's ring has in hand: its tasks, and the operations that the kernel has not ended. Logs nothing, cannot fail.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::task::Waker;
use std::time::Instant;
use tokio::task::AbortHandle;

/// What one thread's ring has in hand.
#[derive(Default)]
pub(super) struct InHand {
    /// Set while the ring runs: outside, nothing may be submitted or spawned.
    pub(super) running: Cell<bool>,
    /// A spawned task is being polled.
    pub(super) in_task: Cell<bool>,
    pub(super) tasks: RefCell<HashMap<u64, AbortHandle>>,
    pub(super) next_task: Cell<u64>,
    pub(super) operations: Cell<usize>,
    pub(super) emptying: RefCell<Option<Waker>>,
    /// When something first went on in the present round that could have given way.
    pub(super) gone_on_since: Cell<Option<Instant>>,
}

thread_local! {
    pub(super) static RING: InHand = InHand::default();
}

impl InHand {
    pub(super) fn is_empty(&self) -> bool {
        self.operations.get() == 0 && self.tasks.borrow().is_empty()
    }

    pub(super) fn wake_if_empty(&self) {
        if self.is_empty()
            && let Some(waker) = self.emptying.take()
        {
            waker.wake();
        }
    }
}

/// Operations that the kernel has not ended yet, on this thread's ring.
#[cfg(test)]
pub(super) fn operations() -> usize {
    RING.with(|ring| ring.operations.get())
}

/// Counts an operation from its submission until the kernel is done with its buffers.
pub(super) struct InFlight(());

impl InFlight {
    pub(super) fn new() -> Self {
        RING.with(|ring| ring.operations.set(ring.operations.get() + 1));
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        RING.with(|ring| {
            ring.operations.set(ring.operations.get() - 1);
            ring.wake_if_empty();
        });
    }
}
