//! A message and its envelope as the body of an HTTP request, in the route's format.
//!
//! `raw`, `rfc822` and `rails` are slices of the message between small pieces of our own; `multipart` too, but for
//! what has to be decoded; `json` is one buffer. Everything that is made here is paid to the budget before it is made.
//! Logs nothing but a parser's panic (without its text); fails only with [`OverBudget`]: no message is refused for
//! what is in it.

use crate::config::Route;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::verify::Verification;
use std::io::Read;
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
    _route: &Route,
    _envelope: &Envelope,
    _verification: &Verification,
    _message: &[u8],
    _hold: &mut dyn FnMut(u64) -> Result<(), OverBudget>,
) -> Result<Rendered, OverBudget> {
    todo!()
}

impl Rendered {
    /// The body's octets in order, without a copy (for the signature).
    pub fn slices<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.iter().map(move |piece| match piece {
            Piece::Octets(octets) => octets.as_slice(),
            Piece::Message(range) => message.get(range.clone()).unwrap_or_default(),
        })
    }

    /// Streams the body; exactly `len` octets.
    pub fn reader<'a>(&'a self, message: &'a [u8]) -> impl Read + 'a {
        Slices { current: &[], rest: self.slices(message) }
    }
}

struct Slices<'a, I> {
    current: &'a [u8],
    rest: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Slices<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.rest.next() {
                Some(slice) => self.current = slice,
                None => return Ok(0),
            }
        }
        self.current.read(buffer)
    }
}
