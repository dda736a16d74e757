//! An HTTP/1.1 client on a ring. It knows octets, deadlines and TLS settings, nothing of mail, routes or the store. One call takes a
//! request's head, the pieces of its body and a deadline, and gives the answer, or in which phase there was none.

mod address;
mod call;
mod client;
mod connect;
mod failure;
mod framing;
mod head;
mod idle;
mod origin;
mod redirect;
mod request;
mod resolver;
mod response;
mod wire;

pub use client::Client;
pub use failure::{NoAnswer, Phase};
pub use redirect::{follow, same_origin};
pub use request::Request;
pub use resolver::CachedResolver;
pub use response::{Answer, Response};
