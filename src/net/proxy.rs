//! The PROXY protocol's header, versions 1 and 2: who the proxy's client is. Pure; reads no more than a bounded prefix.

use crate::envelope::Peer;
use ppp::{PartialResult, v1, v2};
use std::net::IpAddr;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its CRLF included.
const V1_MAX: usize = 107;
/// Version 2's fixed part and what we take of addresses and TLVs.
const V2_MAX: usize = 16 + 4096;

/// What the octets at the start of a trusted connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// `peer` is `None` where the proxy speaks for itself (LOCAL, UNKNOWN): the TCP peer counts then.
    Complete {
        peer: Option<Peer>,
        used: usize,
    },
    Incomplete,
    Invalid,
}

/// Parses the header at the start of `input`. The answer does not depend on how much of what follows has come with it.
#[must_use]
pub fn parse(input: &[u8]) -> Header {
    let starts = |magic: &[u8]| input.iter().zip(magic).all(|(octet, wanted)| octet == wanted);
    if starts(V1_START) {
        version_1(input)
    } else if starts(V2_START) {
        version_2(input)
    } else {
        Header::Invalid
    }
}

/// A line is looked at when it is whole, and without what follows: the parser calls some beginnings of good lines invalid. It also takes
/// a blank and LF for CRLF.
fn version_1(input: &[u8]) -> Header {
    let bounded = input.get(..V1_MAX).unwrap_or(input);
    let Some(end) = memchr::memchr(b'\n', bounded) else {
        return if input.len() < V1_MAX { Header::Incomplete } else { Header::Invalid };
    };
    let line = bounded.get(..=end).unwrap_or(bounded);
    match v1::Header::try_from(line) {
        Ok(header) if line.ends_with(b"\r\n") => Header::Complete { peer: v1_peer(&header.addresses), used: line.len() },
        Ok(_) | Err(_) => Header::Invalid,
    }
}

fn version_2(input: &[u8]) -> Header {
    match v2::Header::try_from(input) {
        Ok(header) if header.len() <= V2_MAX => {
            let peer = if header.command == v2::Command::Proxy { v2_peer(&header.addresses) } else { None };
            Header::Complete { peer, used: header.len() }
        }
        Err(error) if error.is_incomplete() && input.len() < V2_MAX => Header::Incomplete,
        Ok(_) | Err(_) => Header::Invalid,
    }
}

fn v1_peer(addresses: &v1::Addresses) -> Option<Peer> {
    match addresses {
        v1::Addresses::Tcp4(tcp) => Some(peer(tcp.source_address.into(), tcp.source_port)),
        v1::Addresses::Tcp6(tcp) => Some(peer(tcp.source_address.into(), tcp.source_port)),
        v1::Addresses::Unknown => None,
    }
}

fn v2_peer(addresses: &v2::Addresses) -> Option<Peer> {
    match addresses {
        v2::Addresses::IPv4(ip) => Some(peer(ip.source_address.into(), ip.source_port)),
        v2::Addresses::IPv6(ip) => Some(peer(ip.source_address.into(), ip.source_port)),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

fn peer(ip: IpAddr, port: u16) -> Peer {
    Peer { ip: ip.to_canonical(), port }
}

#[cfg(test)]
mod tests {
    use super::{Header, Peer, V2_START, parse};
    use proptest::prelude::*;

    fn client(ip: &str, port: u16) -> Option<Peer> {
        Some(Peer { ip: ip.parse().unwrap(), port })
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = V2_START.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        header.extend(payload);
        header
    }

    fn v4_payload() -> Vec<u8> {
        vec![192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25]
    }

    #[test]
    fn version_1() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\nEHLO x\r\n";
        assert_eq!(parse(line), Header::Complete { peer: client("192.0.2.7", 12345), used: 44 });
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n";
        assert_eq!(parse(line), Header::Complete { peer: client("2001:db8::7", 12345), used: line.len() });
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Header::Complete { peer: None, used: 15 });
        assert_eq!(parse(b"PROXY TCP4 192.0.2.7"), Header::Incomplete);
        for line in [
            "PROXY TCP4 nonsense 198.51.100.1 1 25\r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWN a \n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \n",
        ] {
            assert_eq!(parse(line.as_bytes()), Header::Invalid, "{line:?}");
        }
        assert_eq!(parse(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()), Header::Invalid);
    }

    #[test]
    fn version_2() {
        let header = v2(0x21, 0x11, &v4_payload());
        assert_eq!(parse(&header), Header::Complete { peer: client("192.0.2.7", 12345), used: header.len() });
        let mut with_tlv = v4_payload();
        with_tlv.extend([0x04, 0, 3, 1, 2, 3]);
        let header = v2(0x21, 0x11, &with_tlv);
        assert_eq!(parse(&header), Header::Complete { peer: client("192.0.2.7", 12345), used: header.len() });
        let local = v2(0x20, 0x11, &v4_payload());
        assert_eq!(parse(&local), Header::Complete { peer: None, used: local.len() });
        assert_eq!(parse(&v2(0x31, 0x11, &v4_payload())), Header::Invalid);
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 60_000])), Header::Invalid);
    }

    #[test]
    fn a_client_that_speaks_smtp_is_no_proxy() {
        for octets in [b"EHLO client.example\r\n".as_slice(), b"X", b"\r\nEHLO", b"PROXI"] {
            assert_eq!(parse(octets), Header::Invalid, "{octets:?}");
        }
        assert_eq!(parse(b""), Header::Incomplete);
    }

    #[test]
    fn every_prefix_of_a_line_is_incomplete_and_what_follows_does_not_matter() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n",
            "PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n",
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            "PROXY UNKNOWN\r\n",
            "PROXY UNKNOWN ffff::1 ffff::2 65535 25\r\n",
        ] {
            for cut in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..cut]), Header::Incomplete, "{cut} octets of {line:?}");
            }
            let followed = [line.as_bytes(), b"\xff\x00\r\n"].concat();
            assert!(matches!(parse(&followed), Header::Complete { used, .. } if used == line.len()), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_give_an_answer_within_them(octets in proptest::collection::vec(any::<u8>(), 0..300), start in 0..3_usize) {
            let input = [[b"".as_slice(), b"PROXY ", V2_START][start], &octets].concat();
            if let Header::Complete { used, .. } = parse(&input) {
                prop_assert!(used <= input.len());
            }
        }

        #[test]
        fn every_prefix_is_incomplete(cut in 0..28_usize) {
            let header = v2(0x21, 0x11, &v4_payload());
            prop_assert_eq!(parse(&header[..cut]), Header::Incomplete);
        }
    }
}
