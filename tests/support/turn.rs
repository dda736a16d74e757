//! Tests that measure take a turn alone; all others run side by side.

use super::wait::PATIENCE;
use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

struct State {
    shared: usize,
    waiting: usize,
    alone: bool,
}

static STATE: Mutex<State> = Mutex::new(State { shared: 0, waiting: 0, alone: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// A thread that holds a turn may start a second daemon in it, whatever waits outside.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A turn; ends when dropped, in the thread that took it.
pub(crate) struct Turn {
    alone: bool,
}

/// A turn beside others, or inside the turn this thread has already.
pub(crate) fn shared() -> Turn {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if HELD.get() == 0 {
        while state.alone || state.waiting > 0 {
            // Those who measure take minutes in all, so this waits without a limit of its own.
            state = CHANGED.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    state.shared += 1;
    HELD.set(HELD.get() + 1);
    Turn { alone: false }
}

/// A turn with nothing beside it. To be taken before any daemon is started.
pub(crate) fn alone() -> Turn {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(HELD.get(), 0, "a turn alone is taken first");
    state.waiting += 1;
    while state.alone || state.shared > 0 {
        state = CHANGED.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
    }
    state.waiting -= 1;
    state.alone = true;
    HELD.set(1);
    Turn { alone: true }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(HELD.get() - 1);
        if self.alone {
            state.alone = false;
        } else {
            state.shared -= 1;
        }
        CHANGED.notify_all();
    }
}
