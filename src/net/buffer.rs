//! Read buffers of a ring's thread that wait for their next connection: one is needed for a moment by each command and each message.

use std::cell::RefCell;

/// What a read takes at most: 16 KiB is one TLS record, and what a small message needs.
pub(super) const OCTETS: usize = 16 * 1024;
/// So many wait at most.
const SPARES: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`OCTETS`].
pub(super) fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(OCTETS))
}

/// Gives a buffer back; of another size, or one too many, it is dropped.
pub(super) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == OCTETS {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARES {
                spare.push(buffer);
            }
        });
    }
}
