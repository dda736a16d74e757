//! The `rails` format, for Action Mailbox's relay ingress: as `rfc822`, with the accepted recipients as `X-Original-To` fields before the
//! message instead of a field of the request, since a Bcc or an alias is nowhere in it. Logs nothing; fails with [`OverBudget`].

use super::Rendered;
use super::out::{Hold, Out};
use super::rfc822::{CONTENT_TYPE, mail_from, rest_of_headers};
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::message::header::head;
use crate::verify::Verification;

pub(super) fn render(envelope: &Envelope, verification: &Verification, message: &[u8], hold: Hold<'_>) -> Result<Rendered, OverBudget> {
    let mut out = Out::new(hold);
    for recipient in &envelope.recipients {
        out.push(b"X-Original-To: ")?;
        // A mailbox holds no controls; if one did, it would not become a header field.
        out.push(recipient.chars().filter(|c| !c.is_control()).collect::<String>().as_bytes())?;
        out.push(b"\r\n")?;
    }
    let skipped = before_fields(message);
    let rest = message.get(skipped..).unwrap_or_default();
    // It is no header: all of it is text.
    if !rest.is_empty() && head(rest, 0, |_| false).body == 0 {
        out.push(b"\r\n")?;
    }
    out.message(skipped..message.len());
    let mut headers = vec![mail_from(envelope)];
    headers.extend(rest_of_headers(envelope, verification));
    Ok(Rendered::new(CONTENT_TYPE.to_owned(), headers, out.finish()?))
}

/// What may stand before the first field, and only there: a byte-order mark, an mbox line, the continuation of nothing (which would go on with
/// the last of our fields).
fn before_fields(message: &[u8]) -> usize {
    let mut rest = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    while rest.starts_with(b"From ") || rest.starts_with(b" ") || rest.starts_with(b"\t") {
        rest = memchr::memchr(b'\n', rest).and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    }
    // Without fields behind it, it is text like any other.
    if head(rest, 0, |_| false).end > 0 { message.len() - rest.len() } else { 0 }
}
