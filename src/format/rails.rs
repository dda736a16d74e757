//! The `rails` format, for Action Mailbox's relay ingress: as `rfc822`, with the accepted recipients as
//! `X-Original-To` fields before the message, since a Bcc or an alias is nowhere in it. Logs nothing; fails with
//! [`OverBudget`].

use super::Rendered;
use super::out::Hold;
use super::rfc822::render_behind;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::verify::Verification;

pub(super) fn render(envelope: &Envelope, verification: &Verification, message: &[u8], hold: Hold<'_>) -> Result<Rendered, OverBudget> {
    let mut before = String::new();
    for recipient in &envelope.recipients {
        before.push_str("X-Original-To: ");
        // A mailbox holds no controls; if one did, it would not become a header field.
        before.extend(recipient.chars().filter(|c| !c.is_control()));
        before.push_str("\r\n");
    }
    render_behind(before.as_bytes(), envelope, verification, message, hold)
}
