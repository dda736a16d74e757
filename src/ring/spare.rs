//! One descriptor that a listener holds back, so that a client can be told to come later when there is no other. Logs nothing; where
//! there is none to have, none is held.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;

/// A descriptor that is held for bad times.
#[derive(Default)]
pub(super) struct Spare(RefCell<Option<File>>);

impl Spare {
    /// Gives the descriptor up, for one accept; false if it is in use already.
    pub(super) fn lend(&self) -> bool {
        self.0.take().is_some()
    }

    /// Holds one (again), if there is one to have.
    pub(super) fn take(&self) -> bool {
        let mut held = self.0.borrow_mut();
        if held.is_none() {
            *held = File::open("/dev/null").ok();
        }
        held.is_some()
    }
}

/// A connection's hold on the spare descriptor: taken again when the connection is closed.
pub(super) struct Lent(Rc<Spare>);

impl Lent {
    pub(super) fn of(spare: &Rc<Spare>) -> Self {
        Self(Rc::clone(spare))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take();
    }
}
