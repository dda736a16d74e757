//! One message in memory: contiguous, grown without a copy once it is large, counted in the budget by its lease.

use super::{Lease, OverBudget};

/// A message's octets. Has no `Debug` that shows them, is not `Clone`, is freed (and its lease given back) on drop.
pub struct Body { _todo: () }

impl Body {
    pub fn new(_lease: Lease) -> Self { todo!() }
    /// Octets filled.
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    pub fn octets(&self) -> &[u8] { todo!() }
    /// The filled octets, for un-stuffing in place.
    pub fn octets_mut(&mut self) -> &mut [u8] { todo!() }
    /// Makes room for `more` octets behind the filled ones; growth is paid to the budget as it comes.
    pub fn reserve(&mut self, _more: usize) -> Result<(), OverBudget> { todo!() }
    /// Writable octets behind the filled ones.
    pub fn spare(&self) -> usize { todo!() }
    /// Start of the spare octets; valid until the next call that takes `&mut self`, also when the `Body` value is moved.
    pub fn spare_ptr(&mut self) -> *mut u8 { todo!() }
    /// # Safety
    /// The first `n` spare octets have been written.
    pub unsafe fn advance(&mut self, _n: usize) { todo!() }
    pub fn truncate(&mut self, _len: usize) { todo!() }
    /// Copies octets in (pipelined data that came with the commands; TLS plaintext).
    pub fn extend(&mut self, _octets: &[u8]) -> Result<(), OverBudget> { todo!() }
    pub fn lease(&self) -> &Lease { todo!() }
}
