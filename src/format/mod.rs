//! A message and its envelope as the body of an HTTP request, in the route's format.
//!
//! `raw`, `rfc822` and `rails` are slices of the message between small pieces of our own; `multipart` too, but for
//! what has to be decoded; `json` is one buffer. Everything that is made here is paid to the budget before it is made.
//! Logs nothing but a parser's panic (without its text); fails only with [`OverBudget`]: no message is refused for
//! what is in it.

mod form;
mod headers;
mod json;
mod multipart;
mod out;
mod rails;
mod raw;
pub mod rfc822;
mod text;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

use crate::config::{Format, Route};
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::message::mime::{self, Part};
use crate::message::transfer::Encoding;
use crate::verify::Verification;
use std::ops::Range;

/// Octets of a request body.
pub enum Piece {
    /// Made here.
    Octets(Vec<u8>),
    /// These octets of the message, as they came.
    Message(Range<usize>),
}

/// A request body as pieces in their order, its exact length known.
pub struct Rendered {
    pub content_type: String,
    /// Further header fields; no value can hold a line end.
    pub headers: Vec<(&'static str, String)>,
    pub pieces: Vec<Piece>,
    pub len: u64,
}

/// Renders for a route. `hold` is told how many octets rendering holds in all, before it takes them
/// (`|octets| lease.resize(octets)`), and at the end once more with what the result holds.
pub fn render(
    route: &Route,
    envelope: &Envelope,
    verification: &Verification,
    message: &[u8],
    hold: &mut dyn FnMut(u64) -> Result<(), OverBudget>,
) -> Result<Rendered, OverBudget> {
    match route.format {
        Format::Json => json::render(&mime::structure(message), route.attachments, envelope, verification, message, hold),
        Format::Multipart => multipart::render(&mime::structure(message), route.attachments, envelope, verification, message, hold),
        Format::Raw => raw::render(envelope, verification, message, hold),
        Format::Rfc822 => rfc822::render(envelope, verification, message, hold),
        Format::Rails => rails::render(envelope, verification, message, hold),
    }
}

/// What has to be decoded beside the request to know a part's content or size: base64 needs no decoding for that.
fn decoded_aside(part: &Part, len: usize) -> usize {
    match part.encoding {
        Encoding::QuotedPrintable | Encoding::Uuencode => len,
        Encoding::Identity | Encoding::Base64 => 0,
    }
}

impl Piece {
    fn capacity(&self) -> usize {
        match self {
            Self::Octets(octets) => octets.capacity(),
            Self::Message(_) => 0,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Octets(octets) => octets.len(),
            Self::Message(range) => range.len(),
        }
    }
}

impl Rendered {
    fn new(content_type: String, headers: Vec<(&'static str, String)>, pieces: Vec<Piece>) -> Self {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { content_type, headers, pieces, len }
    }

    /// The body's octets in order, without a copy (for the signature).
    pub fn slices<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.pieces.iter().map(move |piece| match piece {
            Piece::Octets(octets) => octets.as_slice(),
            Piece::Message(range) => message.get(range.clone()).unwrap_or_default(),
        })
    }
}
