//! The SMTP protocol (RFC 5321) without I/O.

pub mod reply;
pub mod session;

pub use reply::Reply;
pub use session::{Need, Progress, Session, Settings};
