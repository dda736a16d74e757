//! Octets of a connection that were read and not yet used. An idle connection keeps no buffer, and half a command one of its own size.

use super::buffer;
use crate::message::Lease;

#[derive(Default)]
pub(super) struct Input {
    octets: Vec<u8>,
    used: usize,
    /// For what came behind the data of a large message, with its last read: that much is nobody's share of a connection.
    lease: Option<Box<Lease>>,
}

impl Input {
    pub(super) fn new(octets: Vec<u8>) -> Self {
        Self { octets, used: 0, lease: None }
    }

    pub(super) fn unused(&self) -> &[u8] {
        self.octets.get(self.used..).unwrap_or_default()
    }

    pub(super) fn mark_used(&mut self, octets: usize) {
        self.used += octets;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A buffer of [`buffer::OCTETS`] with what is unused, to be read into behind it. Less than that is unused when more is asked for.
    pub(super) fn take_to_fill(&mut self) -> Vec<u8> {
        let Self { octets, used, .. } = std::mem::take(self);
        let rest = octets.get(used..).unwrap_or_default();
        let mut buffer = buffer::take();
        buffer.extend_from_slice(rest);
        buffer::give(octets);
        buffer
    }

    pub(super) fn put(&mut self, octets: Vec<u8>) {
        *self = Self::new(octets);
    }

    /// What came behind a message's data is commands again.
    pub(super) fn put_counted(&mut self, octets: Vec<u8>, lease: Option<Lease>) {
        *self = Self { octets, used: 0, lease: lease.map(Box::new) };
    }

    /// The peer has to say something first.
    pub(super) fn rest(&mut self) {
        let unused = self.unused();
        if self.octets.capacity() > unused.len() {
            let unused = unused.to_vec();
            buffer::give(std::mem::replace(&mut self.octets, unused));
            self.used = 0;
        }
        // What is left of it may have to wait for a peer that does not read: it stays counted.
        let left = self.octets.len() as u64;
        self.lease = self.lease.take().filter(|_| left > 0);
        if let Some(lease) = &mut self.lease {
            // Less is always granted.
            lease.resize(left.min(lease.held())).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Input;
    use crate::message::Budget;

    #[test]
    fn what_waits_behind_a_large_message_is_counted_until_it_is_used() {
        let budget = Budget::new(1 << 20, 1.0, 1.0);
        let mut lease = budget.lease(&budget.share());
        lease.resize(60 * 1024).unwrap();
        let mut input = Input::default();
        input.put_counted(b"HELP\r\n".repeat(10 * 1024), Some(lease));
        input.mark_used(20 * 1024);
        input.rest();
        assert_eq!((input.unused().len(), budget.held()), (40 * 1024, 40 * 1024));
        input.mark_used(40 * 1024);
        input.rest();
        assert_eq!((input.unused().len(), budget.held()), (0, 0));
    }
}
