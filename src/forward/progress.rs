//! What the call that this thread is making may do, and how far it has come: ureq tells neither whether a connection was a
//! kept-alive one, nor whether an octet went out or came back. A forwarder makes one call at a time, so the notes are its thread's.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
pub(super) struct Progress {
    /// Tells calls apart; 0 is none.
    pub(super) call: u64,
    /// For everything: look-up, connect, TLS, request, response.
    pub(super) deadline: Option<Instant>,
    /// May connect to no loopback, link-local or private address.
    pub(super) only_public: bool,
    /// Takes no kept-alive connection.
    pub(super) fresh: bool,
    /// The connection it uses had carried a call before.
    pub(super) reused: bool,
    /// The address it is connected to.
    pub(super) peer: Option<IpAddr>,
    /// No address could be connected to because of `only_public`.
    pub(super) not_public: bool,
    /// An octet of the request went out.
    pub(super) sent: bool,
    /// The endpoint did not take the whole request.
    pub(super) incomplete: bool,
    /// An octet of the response came.
    pub(super) received: bool,
}

const NONE: Progress = Progress {
    call: 0,
    deadline: None,
    only_public: false,
    fresh: false,
    reused: false,
    peer: None,
    not_public: false,
    sent: false,
    incomplete: false,
    received: false,
};

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(NONE) };
}

/// Starts a call's notes.
pub(super) fn begin(deadline: Instant, only_public: bool, fresh: bool) {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    PROGRESS.set(Progress { call, deadline: Some(deadline), only_public, fresh, ..NONE });
}

pub(super) fn progress() -> Progress {
    PROGRESS.get()
}

pub(super) fn note(change: impl FnOnce(&mut Progress)) {
    let mut progress = PROGRESS.get();
    change(&mut progress);
    PROGRESS.set(progress);
}

/// What follows has at most this long, whatever the deadline says.
pub(super) fn hurry(patience: Duration) {
    note(|progress| progress.deadline = Some(until(progress, patience)));
}

/// The sooner of the deadline and this long from now. A thread without a call has no time at all.
pub(super) fn until(progress: &Progress, patience: Duration) -> Instant {
    let now = Instant::now();
    progress.deadline.map_or(now, |deadline| deadline.min(now + patience))
}
