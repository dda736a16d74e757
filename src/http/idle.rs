//! The kept-alive connections of one ring, by origin: the one used last is used next. No lock: they never leave their thread.
//!
//! A task of the ring closes those that have been idle for too long, and ends with the last of them. Logs nothing.

use super::address;
use super::failure::NoAnswer;
use super::origin::Origin;
use super::wire::Wire;
use crate::ring;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// A kept-alive connection is not used after this: the usual servers close theirs after five seconds.
const IDLE_AGE_MAX: Duration = Duration::from_secs(4);
/// Of one ring. Connections are made by forwarders, so only many origins at once could come to more.
const IDLE_MAX: usize = 1024;

thread_local! {
    /// The ring's, while it has any: the task that closes them owns it, so that nothing outlives the ring.
    static OF_RING: RefCell<Weak<RefCell<Idle>>> = const { RefCell::new(Weak::new()) };
}

/// In the order in which they became idle.
#[derive(Default)]
struct Idle(VecDeque<Kept>);

struct Kept {
    client: u64,
    origin: Origin,
    since: Instant,
    wire: Wire,
}

/// A connection to the origin that is still open and has nothing unread. Those that are not are closed. `Err`: there is one, but
/// only to an address that may not be asked.
pub(super) fn take(client: u64, origin: &Origin, only_public: bool) -> Result<Option<Wire>, NoAnswer> {
    let Some(idle) = OF_RING.with_borrow(Weak::upgrade) else { return Ok(None) };
    let mut idle = idle.borrow_mut();
    while let Some(at) = idle.0.iter().rposition(|kept| kept.client == client && kept.origin == *origin) {
        let Some(Kept { wire, since, .. }) = idle.0.remove(at) else { break };
        if since.elapsed() >= IDLE_AGE_MAX || !wire.is_quiet() {
            continue;
        }
        // The origin is a name; the rule is about addresses.
        if only_public && !address::is_public(wire.peer()) {
            return Err(NoAnswer::not_public());
        }
        return Ok(Some(wire));
    }
    Ok(None)
}

/// Keeps a connection whose last exchange is over.
pub(super) fn put(client: u64, origin: Origin, wire: Wire) {
    let idle = OF_RING.with_borrow(Weak::upgrade).unwrap_or_else(|| {
        let idle = Rc::<RefCell<Idle>>::default();
        OF_RING.set(Rc::downgrade(&idle));
        ring::spawn(close_old(Rc::clone(&idle)));
        idle
    });
    let mut idle = idle.borrow_mut();
    if idle.0.len() >= IDLE_MAX {
        drop(idle.0.pop_front());
    }
    idle.0.push_back(Kept { client, origin, since: Instant::now(), wire });
}

async fn close_old(idle: Rc<RefCell<Idle>>) {
    // The first is put by who has spawned this.
    let mut next = Instant::now() + IDLE_AGE_MAX;
    loop {
        ring::sleep_until(next).await;
        let mut idle = idle.borrow_mut();
        let now = Instant::now();
        while idle.0.front().is_some_and(|kept| now >= kept.since + IDLE_AGE_MAX) {
            drop(idle.0.pop_front());
        }
        match idle.0.front() {
            Some(kept) => next = kept.since + IDLE_AGE_MAX,
            None => return,
        }
    }
}
