//! The octets of a message: owned, counted, scanned. Knows nothing of where they came from.

pub mod body;
pub mod budget;
pub mod charset;
pub mod encoded_word;
mod guard;
pub mod header;

pub use body::Body;
pub use budget::{Budget, Lease, OverBudget, Share};
