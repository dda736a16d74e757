//! The memory that bodies and rendered requests may hold, in all and for one address.

use std::sync::Arc;

/// The whole daemon's budget (`[memory] body_budget`), octets.
pub struct Budget { _todo: () }

/// What one address (IPv6: one /64) holds of it; made by the connection limiter at accept, shared by its connections.
pub struct Share { _todo: () }

/// A part of the budget that is held; given back on drop.
pub struct Lease { _todo: () }

#[derive(Debug, PartialEq, Eq)]
pub struct OverBudget;

impl Budget {
    pub fn new(_octets: u64, _per_ip_share: f64) -> Arc<Self> { todo!() }
    /// At reload; what is held stays held.
    pub fn set_limits(&self, _octets: u64, _per_ip_share: f64) { todo!() }
    pub fn held(&self) -> u64 { todo!() }
    pub fn limit(&self) -> u64 { todo!() }
    pub fn share(self: &Arc<Self>) -> Arc<Share> { todo!() }
    /// An empty lease on this budget and that share.
    pub fn lease(self: &Arc<Self>, _share: &Arc<Share>) -> Lease { todo!() }
}

impl Lease {
    /// Holds `octets` in all from now on (more or less than before).
    pub fn resize(&mut self, _octets: u64) -> Result<(), OverBudget> { todo!() }
    pub fn held(&self) -> u64 { todo!() }
    /// A second, empty lease on the same budget and share (for a rendered request).
    pub fn sibling(&self) -> Self { todo!() }
}
