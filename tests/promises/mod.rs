//! The four promises, with faults injected.

mod bounded;
mod confidential;
mod damaged;
mod delivered;
mod identity;
mod names;
mod overload;
mod recorded;
mod senders;

pub(crate) use confidential::files_with;
