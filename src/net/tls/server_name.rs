//! The server name of a ClientHello (RFC 6066), hidden from the library where it is no name.
//!
//! rustls 0.23 ends the handshake over `mx.example:25` or a label that is too long. One certificate serves all names, so such a one
//! is of no account: its extension gets a type that the library passes over, and [`shown`] gives the hash of the handshake what the
//! client sent.

use rustls::pki_types::ServerName;
use std::ops::Range;

/// The type of the extension, and another of the range for private use that differs in one octet: two might lie in two records.
const SERVER_NAME: [u8; 2] = [0, 0];
const HIDDEN: [u8; 2] = [0xff, 0];

const HANDSHAKE: usize = 22;
const CHANGE_CIPHER_SPEC: usize = 20;
const CLIENT_HELLO: u8 = 1;

/// What a client's records begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// Not enough to say it.
    Part,
    /// Something else, or a ClientHello that the library is given as it is.
    Other,
    /// A ClientHello, whose server name is hidden now.
    Hidden,
}

/// Hides the server name of the ClientHello with which these records begin, if it is no name.
pub(super) fn hide(records: &mut [u8]) -> Hello {
    let mut reader = Reader { octets: records, at: 0 };
    let (mut hello, mut parts) = (Vec::new(), Vec::<Range<usize>>::new());
    loop {
        match reader.number(1) {
            // What TLS 1.3 puts before the second one (RFC 8446 appendix D.4).
            Some(CHANGE_CIPHER_SPEC) if hello.is_empty() => {
                if reader.take(2).and_then(|_| reader.vector(2)).is_none() {
                    return Hello::Part;
                }
                continue;
            }
            Some(HANDSHAKE) => {}
            Some(_) => return Hello::Other,
            None => return Hello::Part,
        }
        let Some(part) = reader.take(2).and_then(|_| reader.vector(2)) else { return Hello::Part };
        hello.extend_from_slice(part);
        parts.push(reader.at - part.len()..reader.at);
        if hello.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Hello::Other;
        }
        if is_whole(&hello) {
            break;
        }
    }
    let Some((mut at, name)) = extension(&hello, SERVER_NAME) else { return Hello::Other };
    if is_name(name) || extension(&hello, HIDDEN).is_some() {
        return Hello::Other;
    }
    for part in parts {
        if at < part.len() {
            let Some(octet) = records.get_mut(part.start + at) else { break };
            *octet = HIDDEN[0];
            return Hello::Hidden;
        }
        at -= part.len();
    }
    Hello::Other
}

/// A ClientHello with a hidden server name, as the client sent it.
pub(super) fn shown(message: &[u8]) -> Option<Vec<u8>> {
    if message.first() != Some(&CLIENT_HELLO) || !is_whole(message) {
        return None;
    }
    let (at, _) = extension(message, HIDDEN)?;
    let mut hello = message.to_vec();
    *hello.get_mut(at)? = SERVER_NAME[0];
    Some(hello)
}

fn is_whole(hello: &[u8]) -> bool {
    Reader { octets: hello, at: 1 }.vector(3).is_some()
}

/// Where the type of an extension stands in a ClientHello (RFC 8446 section 4.1.2), and what the extension says.
fn extension(hello: &[u8], wanted: [u8; 2]) -> Option<(usize, &[u8])> {
    // Behind type, length, version and random: session, suites, compression.
    let mut reader = Reader { octets: hello, at: 1 + 3 + 2 + 32 };
    for width in [1, 2, 1] {
        reader.vector(width)?;
    }
    reader.number(2)?;
    loop {
        let at = reader.at;
        let (kind, says) = (reader.take(2)?, reader.vector(2)?);
        if kind == wanted {
            return Some((at, says));
        }
    }
}

/// One host name, or the address that the library passes over by itself.
fn is_name(list: &[u8]) -> bool {
    let mut reader = Reader { octets: list, at: 2 };
    reader.number(1) == Some(0) && reader.vector(2).is_some_and(|name| ServerName::try_from(name).is_ok()) && reader.at == list.len()
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(octets)?;
        let taken = self.octets.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, octet| number << 8 | usize::from(*octet)))
    }

    /// What a length of so many octets says.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let octets = self.number(width)?;
        self.take(octets)
    }
}
