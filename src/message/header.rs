//! One pass over the header block (RFC 5322 section 2.2): slices for the logged fields, nothing else kept.

/// What one pass found. All slices are of the message.
#[derive(Clone, Copy, Default)]
pub struct HeaderBlock<'a> {
    /// Raw field body, still folded.
    pub message_id: Option<&'a [u8]>,
    /// Raw field body, still folded and encoded.
    pub subject: Option<&'a [u8]>,
    /// Number of `Received` fields.
    pub received: u32,
    /// Octets of the block, its blank line included if there is one.
    pub len: usize,
}

/// Scans the header block at the start of `message`.
#[must_use]
pub fn scan(_message: &[u8]) -> HeaderBlock<'_> { todo!() }

/// Message-ID unfolded and trimmed, valid UTF-8, at most 998 octets.
#[must_use]
pub fn message_id_text(_raw: &[u8]) -> String { todo!() }

/// Subject unfolded, RFC 2047-decoded to UTF-8, cut at 998 octets on a character's border.
#[must_use]
pub fn subject_text(_raw: &[u8]) -> String { todo!() }
