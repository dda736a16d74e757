//! The journal: where a record is durable first. `frame.rs` is its format, `segment.rs` one of its files, `commit.rs` a record on its way,
//! `writer.rs` the thread.

mod commit;
mod frame;
mod queue;
mod segment;
mod writer;

pub use commit::Commit;
pub(super) use commit::Pending;
pub(super) use frame::{End, Frame, in_order, read_all, records as frame_records};
pub(super) use queue::{Message, Queue};
pub(super) use segment::Journal;
pub(super) use writer::{Sealed, Writer};
