//! The PROXY header: the answer lies within the octets, does not depend on how many came at once, and is bounded; version 2 is what its
//! fixed part says.

use mailsluice::envelope::Peer;
use mailsluice::net::proxy::{Header, parse};
use std::net::{Ipv4Addr, Ipv6Addr};

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// No header that is longer may be waited for.
const LONGEST: usize = 16 + 4096;

pub fn run(input: &[u8]) {
    let whole = parse(input);
    match &whole {
        Header::Complete { peer, used } => {
            assert!(*used <= input.len() && *used <= LONGEST, "{used} octets of {}", input.len());
            assert!(peer.as_ref().is_none_or(|peer| peer.ip.to_canonical() == peer.ip), "a mapped address");
            assert_eq!(parse(&input[..*used]), whole, "what follows has changed it");
        }
        Header::Incomplete => assert!(input.len() < LONGEST, "{} octets, and more are wanted", input.len()),
        Header::Invalid => {}
    }
    // However few octets come at first: they are incomplete, or the answer is already the final one.
    let early = (0..input.len().min(120)).chain([input.len() / 2, input.len().saturating_sub(1)]);
    for prefix in early.filter_map(|length| input.get(..length)) {
        let answer = parse(prefix);
        assert!(answer == Header::Incomplete || answer == whole, "{answer:?} of {} octets, {whole:?} of {}", prefix.len(), input.len());
    }
    if let Some(expected) = version_2(input) {
        assert_eq!(whole, expected);
    }
    if let (Header::Complete { peer: Some(peer), used }, true) = (&whole, input.starts_with(b"PROXY ")) {
        let line = std::str::from_utf8(&input[..*used]).expect("ASCII");
        assert!(line.ends_with("\r\n") && line.len() <= 107, "{line:?}");
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        assert_eq!(words.len(), 6, "{line:?}");
        assert_eq!(words[2].parse::<std::net::IpAddr>().map(|ip| ip.to_canonical()), Ok(peer.ip), "{line:?}");
        assert_eq!(words[4].parse(), Ok(peer.port), "{line:?}");
    }
}

/// A whole header of version 2 with addresses of the internet in a TCP stream; anything else is not judged here.
fn version_2(input: &[u8]) -> Option<Header> {
    let fixed = input.strip_prefix(V2_START)?;
    let [command, family, high, low, payload @ ..] = fixed else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > 4096 || payload.len() < length {
        return None;
    }
    let used = 16 + length;
    let (ip, port) = match (command, family) {
        (0x21, 0x11) if length == 12 => {
            let ip: [u8; 4] = payload.get(..4)?.try_into().ok()?;
            (Ipv4Addr::from(ip).into(), payload.get(8..10)?)
        }
        (0x21, 0x21) if length == 36 => {
            let ip: [u8; 16] = payload.get(..16)?.try_into().ok()?;
            (Ipv6Addr::from(ip).to_canonical(), payload.get(32..34)?)
        }
        (0x20, 0x00) => return Some(Header::Complete { peer: None, used }),
        _ => return None,
    };
    Some(Header::Complete { peer: Some(Peer { ip, port: u16::from_be_bytes(port.try_into().ok()?) }), used })
}
