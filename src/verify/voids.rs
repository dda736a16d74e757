//! Counts the void look-ups of one SPF evaluation (RFC 7208 section 4.6.4), which the library does not: it asks its cache
//! before each look-up and tells it each answer, so a name that was asked for and never answered is void.

use mail_auth::ResolverCache;
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

const VOIDS_MAX: usize = 2;

/// Stores no answers (the resolver does); remembers which names have none.
#[derive(Default)]
pub(super) struct Voids {
    hasher: RandomState,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    names: HashSet<u64>,
    last: u64,
    /// `exists:` asks for both families at once and does not tell the answer.
    last_twice: bool,
}

impl Voids {
    pub(super) fn over_limit(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // An `exists:` that came last may have been the match.
        let unsure = usize::from(open.last_twice && open.names.contains(&open.last));
        open.names.len().saturating_sub(unsure) > VOIDS_MAX
    }
}

impl<K: Hash + Eq, V> ResolverCache<K, V> for Voids {
    fn get<Q>(&self, name: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let name = self.hasher.hash_one(name);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last_twice = open.last == name && open.names.contains(&name);
        open.last = name;
        open.names.insert(name);
        None
    }

    fn remove<Q>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, name: K, _: V, _: std::time::Instant) {
        let name = self.hasher.hash_one(name);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).names.remove(&name);
    }
}
