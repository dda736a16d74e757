//! CR and LF as pairs and nothing else (RFC 5321 section 2.3.8): finding bare ones without walking the lines, and making room for
//! normalising them. Logs nothing; [`make_room`] says `None` when the buffer is smaller than its owner promised.

pub(super) const CR: u8 = b'\r';
pub(super) const LF: u8 = b'\n';

/// Is there an LF that follows no CR, or a CR that no LF follows? `after_cr`: the octet before these was a CR. A CR at the very end is
/// not judged. No branch depends on the octets, so that the compiler compares a register full of them at once.
pub(super) fn bare(octets: &[u8], after_cr: bool) -> bool {
    let Some((first, successors)) = octets.split_first() else { return false };
    let odd = octets.iter().zip(successors).fold(0, |odd, (octet, successor)| odd | (u8::from(*octet == CR) ^ u8::from(*successor == LF)));
    odd != 0 || (*first == LF) != after_cr
}

/// Moves `buf[read..filled]` to the end of the buffer, so that each of its octets may become two when it is written from `write` on.
/// Returns where the octets start now.
pub(super) fn make_room(buf: &mut [u8], write: usize, read: usize, filled: usize) -> Option<usize> {
    let unread = filled.checked_sub(read)?;
    let needed = unread.checked_mul(2)?.checked_add(write)?;
    if buf.len() < needed {
        return None;
    }
    let start = buf.len() - unread;
    buf.copy_within(read..filled, start);
    Some(start)
}

/// Writes `octets` at `write`; returns where they end. Room is the caller's promise (see [`make_room`]).
pub(super) fn put(buf: &mut [u8], write: usize, octets: &[u8]) -> usize {
    if let Some(place) = buf.get_mut(write..write + octets.len()) {
        place.copy_from_slice(octets);
    }
    write + octets.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_newlines_are_found_anywhere() {
        let block = "x".repeat(100);
        for (octets, after_cr, expected) in [
            ("", false, false),
            ("", true, false),
            ("a\r\nb\r\n", false, false),
            ("\r\n\r\n", false, false),
            ("a\r", false, false),
            ("\n", true, false),
            ("\n", false, true),
            ("a", true, true),
            ("a\rb", false, true),
            ("a\r\r\n", false, true),
            ("a\n\r", false, true),
            ("\r\n\n", false, true),
        ] {
            assert_eq!(bare(octets.as_bytes(), after_cr), expected, "{octets:?}");
            if !octets.is_empty() && !octets.ends_with('\r') {
                let long = format!("{octets}{block}\r\n{block}");
                assert_eq!(bare(long.as_bytes(), after_cr), expected, "{long:?}");
            }
        }
    }

    #[test]
    fn room_is_made_only_where_it_was_promised() {
        let mut buf = *b"ab12....";
        assert_eq!(make_room(&mut buf, 2, 2, 4), Some(6));
        assert_eq!(&buf[6..], b"12");
        assert_eq!(make_room(&mut buf[..5], 2, 2, 4), None);
    }
}
