//! The SMTP protocol (RFC 5321) without I/O: octets in, replies and needs out.
//!
//! Scope: EHLO, HELO, MAIL, RCPT, DATA, BDAT, RSET, NOOP, VRFY, HELP, QUIT and STARTTLS, with PIPELINING (RFC 2920), SIZE (RFC 1870),
//! 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), CHUNKING (RFC 3030), ENHANCEDSTATUSCODES (RFC 2034) and STARTTLS (RFC 3207). Sockets, TLS
//! records, clocks, routes and endpoints are the driver's; it answers what the session asks for with a [`Need`].
//!
//! ```text
//!                    +---------------------- RSET, EHLO, HELO: the transaction is forgotten --------------------+
//!                    v                                                                                         |
//! greet --> Command (no hello) --EHLO/HELO--> Command (hello) --MAIL--> Command (transaction) --RCPT--> Need::Recipient
//!                    ^                              ^                        ^                                |
//!                    |                              |                        +---- recipient(Ok or Err) ------+
//!                    |                              |                        |
//!                    |                              |                        +--DATA, first BDAT--> Need::Message
//!                    |                              |                        |                             | begin(Ok)
//!                    |                              +------ end(reply) <-- Need::Data, Need::Chunk <-------+
//!                    |                                                                 |         ^
//!                    |        Command (message open: only BDAT, RSET and <-chunk_done--+         |
//!                    |                 the stateless commands)           --BDAT------------------+
//!                    |
//!                    +-- tls_started <-- Need::Tls <--STARTTLS-- any Command state          QUIT, 421 --> Need::Close
//! ```
//!
//! Nothing here logs. Nothing here fails either: what a peer sends always ends in a reply, the worst of which is a `421` and the end.

mod chunk;
mod command;
mod data;
#[cfg(test)]
mod dialogs;
mod dispatch;
mod extension;
#[cfg(test)]
mod memory;
mod newline;
pub mod path;
mod refused;
pub mod reply;
pub mod session;
#[cfg(test)]
mod tests;
mod transaction;

pub use command::COMMAND_MAX;
pub use data::{Incoming, Pass, Refusal};
pub use refused::{Refused, What};
pub use reply::{Reply, codes};
pub use session::{Need, Session, Settings, TURN_OCTETS};
