//! Counts the void look-ups of one SPF evaluation (RFC 7208 section 4.6.4), which the library does not: it asks its cache
//! before each look-up and tells it each answer, so a name that was asked for and never answered is void.

use mail_auth::{MX, RecordSet, ResolverCache, Txt};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    policies: Vec<Box<str>>,
}

impl Voids {
    /// Names whose TXT records were looked at, at most as many as the evaluation's limit of look-ups allows.
    pub(super) fn policies(&self) -> Vec<String> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.policies.iter().map(ToString::to_string).collect()
    }

    pub(super) fn over_limit(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // An `exists:` that came last may have been the match.
        let unsure = usize::from(open.last_twice && open.names.contains(&open.last));
        open.names.len().saturating_sub(unsure) > VOIDS_MAX
    }
}

/// The names of policies are kept as they are: their records are looked at once more. A name without a record is void too
/// (section 4.6.4 counts `include` and `redirect`), but that is an error of its own.
impl ResolverCache<Box<str>, Txt> for Voids {
    fn get<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, name: Box<str>, _: Txt, _: std::time::Instant) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).policies.push(name);
    }
}

macro_rules! counts_voids {
    ($($key:ty => $value:ty),*) => { $(
impl ResolverCache<$key, $value> for Voids {
    fn get<Q>(&self, name: &Q) -> Option<$value>
    where
        $key: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let name = self.hasher.hash_one(name);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last_twice = open.last == name && open.names.contains(&name);
        open.last = name;
        open.names.insert(name);
        None
    }

    fn remove<Q>(&self, _: &Q) -> Option<$value>
    where
        $key: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, name: $key, _: $value, _: std::time::Instant) {
        let name = self.hasher.hash_one(name);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).names.remove(&name);
    }
}
    )* };
}

counts_voids! {
    Box<str> => RecordSet<MX>,
    Box<str> => RecordSet<Ipv4Addr>,
    Box<str> => RecordSet<Ipv6Addr>,
    IpAddr => RecordSet<Box<str>>
}
