//! A message's text parts as text: decoded one by one, LF line ends. Logs nothing; fails with [`OverBudget`].

use super::out::Out;
use crate::message::mime::{Role, Structure};
use crate::message::transfer::Encoding;
use crate::message::{OverBudget, charset};
use std::borrow::Cow;

/// How much of the text is searched for a reply, octets. Nobody writes more by hand.
pub(super) const REPLY_MAX: usize = 1024 * 1024;

/// Calls `take` with the texts of one role in their order, and with a line end between two where the first has none.
/// Only one decoded text is held at a time. Line ends are as they came.
pub(super) fn each_text<'h>(
    message: &[u8],
    structure: &Structure,
    role: Role,
    out: &mut Out<'h>,
    mut take: impl FnMut(&mut Out<'h>, &str) -> Result<(), OverBudget>,
) -> Result<(), OverBudget> {
    let mut line_open = false;
    for part in structure.parts.iter().filter(|part| part.role == role) {
        let octets = message.get(part.body.clone()).unwrap_or_default();
        let mut borrowed = match part.encoding {
            Encoding::Identity => 0,
            encoding @ (Encoding::Base64 | Encoding::QuotedPrintable | Encoding::Uuencode) => encoding.decoded_max(octets.len()),
        };
        out.borrow(borrowed)?;
        let decoded = part.encoding.decode(octets);
        let text = charset::text(part.charset.as_deref(), part.role == Role::Html, &decoded);
        if let Cow::Owned(text) = &text {
            out.borrow(text.capacity())?;
            borrowed += text.capacity();
        }
        if !text.is_empty() {
            if line_open {
                take(out, "\n")?;
            }
            take(out, &text)?;
            line_open = !text.ends_with(['\n', '\r']);
        }
        out.release(borrowed);
    }
    Ok(())
}

/// With LF line ends.
pub(super) fn lf(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")) } else { Cow::Borrowed(text) }
}

/// The text from which the reply is taken: the plain text's beginning.
pub(super) fn collect_for_reply(into: &mut String, text: &str) {
    let left = REPLY_MAX.saturating_sub(into.len());
    let end = text.floor_char_boundary(left);
    into.push_str(&lf(text.get(..end).unwrap_or_default()));
}
