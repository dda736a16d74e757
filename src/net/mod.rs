//! Connections over a ring.

pub mod limits;
pub mod proxy;
