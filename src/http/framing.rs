//! Where the body of a response ends (RFC 9112 sections 6.3 and 7.1), octet by octet as they come. Pure.

use super::head::Framing;

/// A body on its way.
pub(super) struct Body(State);

enum State {
    Length(u64),
    Close,
    Chunk(Chunk),
    Ended,
    /// What should frame it does not: where it ends is not known.
    Broken,
}

enum Chunk {
    /// In its size, of which some digits have come.
    Size {
        octets: u64,
        digits: bool,
    },
    /// Behind the digits: white space, an extension.
    Extension {
        octets: u64,
    },
    Data {
        left: u64,
    },
    /// Behind its octets.
    DataEnd,
    /// A trailer's line, empty so far or not.
    Trailer {
        empty: bool,
    },
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Ended,
            Framing::Length(octets) => State::Length(octets),
            Framing::Chunked => State::Chunk(Chunk::Size { octets: 0, digits: false }),
            Framing::Close => State::Close,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.0, State::Broken)
    }

    /// Takes what belongs to it: how many octets. The content goes to `kept` as far as there is room up to `kept_max`.
    pub(super) fn take(&mut self, input: &[u8], kept: &mut Vec<u8>, kept_max: usize) -> usize {
        let mut rest = input;
        while let Some(&octet) = rest.first() {
            let content = match &mut self.0 {
                State::Ended | State::Broken => break,
                State::Close => rest.len(),
                State::Length(left) | State::Chunk(Chunk::Data { left }) => {
                    let content = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= content as u64;
                    content
                }
                State::Chunk(chunk) => {
                    self.0 = chunk.next(octet);
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
            };
            let (taken, behind) = rest.split_at_checked(content).unwrap_or((rest, &[]));
            kept.extend_from_slice(taken.get(..kept_max.saturating_sub(kept.len())).unwrap_or(taken));
            rest = behind;
            match &self.0 {
                State::Length(0) => self.0 = State::Ended,
                State::Chunk(Chunk::Data { left: 0 }) => self.0 = State::Chunk(Chunk::DataEnd),
                State::Length(_) | State::Close | State::Chunk(_) | State::Ended | State::Broken => {}
            }
        }
        input.len() - rest.len()
    }
}

impl Chunk {
    /// Behind an octet that is not content. A line may end with its line feed alone.
    fn next(&self, octet: u8) -> State {
        let line_end = |octets: u64| match octets {
            0 => Self::Trailer { empty: true },
            left => Self::Data { left },
        };
        let next = match (self, octet) {
            (&Self::Size { octets, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(octet).to_digit(16).map_or(0, u64::from);
                match octets.checked_mul(16) {
                    Some(octets) => Self::Size { octets: octets | digit, digits: true },
                    None => return State::Broken,
                }
            }
            (&Self::Size { octets, digits: true } | &Self::Extension { octets }, b'\n') => line_end(octets),
            (&Self::Size { octets, digits: true }, b'\r' | b' ' | b'\t' | b';') | (&Self::Extension { octets }, _) => {
                Self::Extension { octets }
            }
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size { octets: 0, digits: false },
            (Self::Trailer { empty: true }, b'\n') => return State::Ended,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
            (&Self::Trailer { empty }, b'\r') => Self::Trailer { empty },
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            (Self::Size { .. } | Self::DataEnd | Self::Data { .. }, _) => return State::Broken,
        };
        State::Chunk(next)
    }
}

#[cfg(test)]
mod tests {
    use super::{Body, Framing};
    use proptest::prelude::*;

    /// Content, octets taken, ended, broken.
    fn taken(framing: Framing, input: &[u8], cut: usize) -> (Vec<u8>, usize, bool, bool) {
        let (mut body, mut kept) = (Body::new(framing), Vec::new());
        let (first, second) = input.split_at(cut.min(input.len()));
        let mut used = body.take(first, &mut kept, 1000);
        if used == first.len() {
            used += body.take(second, &mut kept, 1000);
        }
        (kept, used, body.has_ended(), body.is_broken())
    }

    #[test]
    fn chunks() {
        let table: &[(&str, &str, &str)] = &[
            ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
            ("5\nhello\n0\n\n", "hello", ""),
            (
                "5;name=\"a value of more than twenty octets; and more\"\r\nhello\r\n0;x\r\nTrailer: 1\r\nOther: 2\r\n\r\nnext",
                "hello",
                "next",
            ),
            ("5 \t\r\nhello\r\n000\r\n\r\n", "hello", ""),
            ("00000000000000000000005\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!", ""),
        ];
        for (octets, content, behind) in table {
            for cut in 0..octets.len() {
                let (kept, used, ended, _) = taken(Framing::Chunked, octets.as_bytes(), cut);
                assert_eq!((kept, ended), (content.as_bytes().to_vec(), true), "{octets:?}");
                assert_eq!(octets.get(used..), Some(*behind));
            }
        }
        for octets in ["hello", "\r\n", "-5\r\n", "5\r\nhello0\r\n", "11111111111111111\r\n", "5x\r\n"] {
            assert!(taken(Framing::Chunked, octets.as_bytes(), 0).3, "{octets:?}");
        }
    }

    #[test]
    fn lengths_and_room() {
        assert_eq!(taken(Framing::Length(3), b"abcdef", 2), (b"abc".to_vec(), 3, true, false));
        assert_eq!(taken(Framing::Length(9), b"abcdef", 2), (b"abcdef".to_vec(), 6, false, false));
        assert_eq!(taken(Framing::Close, b"abcdef", 2), (b"abcdef".to_vec(), 6, false, false));
        assert_eq!(taken(Framing::Length(0), b"abcdef", 0), (Vec::new(), 0, true, false));
        let mut kept = Vec::new();
        assert_eq!(Body::new(Framing::Close).take(b"abcdef", &mut kept, 4), 6);
        assert_eq!(kept, b"abcd");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'0'), Just(b';'), any::<u8>()], 0..60), cut in 0..60_usize) {
            prop_assert_eq!(taken(Framing::Chunked, &octets, 0), taken(Framing::Chunked, &octets, cut));
        }
    }
}
