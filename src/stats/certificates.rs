//! When the certificates in use end, and how often a changed file could not be used.

use super::Counter;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub struct Certificates {
    /// By file: seconds since 1970.
    not_after: Mutex<BTreeMap<String, i64>>,
    /// Changed files that could not be used; the pair before them stayed.
    pub reload_failures: Counter,
}

impl Certificates {
    /// All that are in use now.
    pub fn set(&self, not_after: BTreeMap<String, i64>) {
        *self.not_after.lock().unwrap_or_else(PoisonError::into_inner) = not_after;
    }

    pub fn not_after(&self) -> BTreeMap<String, i64> {
        self.not_after.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
