//! The journal: where a record is durable first. `frame.rs` is its format, `segment.rs` one of its files, `writer.rs` the thread.

mod frame;
mod segment;
mod writer;

pub(super) use frame::{End, Found, Frame, in_order, read_all};
pub(super) use segment::Journal;
pub use writer::Commit;
pub(super) use writer::{Message, Pending, Sealed, Writer};
