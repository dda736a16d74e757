//! An HTTP/1.1 client on a ring. It knows octets, deadlines and TLS settings, nothing of mail, routes or the store. One call takes a
//! request's head, the pieces of its body and a deadline, and gives the answer, or in which phase there was none.

mod address;
mod call;
mod client;
mod connect;
mod dns;
mod failure;
mod framing;
mod head;
mod idle;
mod names;
mod origin;
mod proxy;
mod redirect;
mod request;
mod response;
pub mod retry_after;
#[cfg(test)]
mod tests;
mod trust;
mod wire;

pub use address::is_inner;
pub use client::Client;
pub use failure::{NoAnswer, Phase};
pub use names::{Names, Resolver};
pub use proxy::{Proxy, is_proxied, tunnel};
pub use redirect::{follow, same_origin};
pub use request::{Request, Wanted};
pub use response::{Answer, BODY_KEPT, Response};
pub use trust::{Roots, Tls};
