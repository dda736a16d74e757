//! How far each sink of the fleet has been brought, and what is undelivered on all boxes. Nothing here fails or logs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// One place that records are brought to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sink {
    pub up: bool,
    /// Records that are not there yet.
    pub behind: u64,
    /// Records that went before they were brought.
    pub lost: u64,
}

/// All sinks by their names; empty without a fleet.
#[derive(Default)]
pub struct Sinks(Mutex<State>);

#[derive(Default)]
struct State {
    sinks: BTreeMap<&'static str, Sink>,
    undelivered: Option<u64>,
}

impl Sinks {
    pub fn set(&self, name: &'static str, sink: Sink) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sinks.insert(name, sink);
    }

    /// On all boxes, as the fleet's database says; `None` while it does not.
    pub fn set_undelivered(&self, messages: Option<u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).undelivered = messages;
    }

    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, Sink)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sinks.iter().map(|(name, sink)| (*name, *sink)).collect()
    }

    #[must_use]
    pub fn undelivered(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).undelivered
    }
}
