//! The `multipart` format: CloudMailin's "Multipart Normalized". An attachment that is not encoded is a slice of the
//! message; one that is, is decoded into the request. Logs nothing; fails with [`OverBudget`].

use super::Rendered;
use super::form::{Form, push_text};
use super::headers::{HELD_PER_FIELD, Headers};
use super::json::disposition;
use super::out::Hold;
use super::text::{collect_for_reply, each_text};
use crate::config::Attachments;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::message::mime::{Part, Role, Structure};
use crate::message::reply_text::reply_text;
use crate::message::transfer::Encoding;
use crate::verify::Verification;
use memchr::memchr_iter;

/// Contents up to this size are copied: thousands of them would else be thousands of pieces.
const COPIED_MAX: usize = 16 * 1024;

pub(super) fn render(
    structure: &Structure,
    attachments: Attachments,
    envelope: &Envelope,
    verification: &Verification,
    message: &[u8],
    hold: Hold<'_>,
) -> Result<Rendered, OverBudget> {
    let mut form = Form::new(hold);
    let header = message.get(structure.header.clone()).unwrap_or_default();
    let beside = structure.held() + memchr_iter(b'\n', header).count() * HELD_PER_FIELD;
    form.out.borrow(beside)?;
    let headers = Headers::new(header);
    // First, since receivers have bounds on how many fields they read.
    form.envelope(envelope, verification)?;
    push_headers(&mut form, &headers)?;

    let mut for_reply = String::new();
    form.open("plain")?;
    each_text(message, structure, Role::Plain, &mut form.out, |out, text| {
        collect_for_reply(&mut for_reply, text);
        push_text(out, text)
    })?;
    form.close()?;
    form.open("html")?;
    each_text(message, structure, Role::Html, &mut form.out, push_text)?;
    form.close()?;
    let is_reply = headers.has("in-reply-to") || headers.has("references");
    form.out.borrow(for_reply.capacity() * 2)?;
    form.field("reply_plain", &reply_text(&for_reply, is_reply))?;
    form.out.release(for_reply.capacity() * 2);
    drop(for_reply);

    let parts = structure.parts.iter().filter(|part| part.role == Role::Attachment);
    for (at, part) in parts.enumerate() {
        match attachments {
            Attachments::Embed => push_file(&mut form, part, message)?,
            Attachments::Metadata => push_metadata(&mut form, at, part, message)?,
        }
    }
    drop(headers);
    form.out.release(beside);
    form.finish()
}

fn push_headers(form: &mut Form<'_>, headers: &Headers<'_>) -> Result<(), OverBudget> {
    for (name, values) in headers.iter() {
        let name = form_name(name.octets());
        let repeated = values.repeated();
        for (at, value) in values.enumerate() {
            if repeated {
                form.field(&format!("headers[{name}][{at}]"), &value)?;
            } else {
                form.field(&format!("headers[{name}]"), &value)?;
            }
        }
    }
    Ok(())
}

/// Brackets are structure in a form field's name, and what begins an escape there must be one: so two names stay two.
fn form_name(octets: impl Iterator<Item = u8>) -> String {
    let mut name = String::new();
    for octet in octets {
        match octet {
            b'[' => name.push_str("%5B"),
            b']' => name.push_str("%5D"),
            b'%' => name.push_str("%25"),
            octet => name.push(char::from(octet)),
        }
    }
    name
}

fn push_file(form: &mut Form<'_>, part: &Part, message: &[u8]) -> Result<(), OverBudget> {
    form.open_file("attachments[]", &part.file_name, &part.content_type)?;
    let octets = message.get(part.body.clone()).unwrap_or_default();
    match part.encoding {
        Encoding::Identity if octets.len() > COPIED_MAX => form.out.message(part.body.clone()),
        Encoding::Identity => form.out.push(octets)?,
        encoding @ (Encoding::Base64 | Encoding::QuotedPrintable | Encoding::Uuencode) => {
            let most = encoding.decoded_max(octets.len());
            form.out.fill(most, |out| encoding.decode_into(octets, out))?;
        }
    }
    form.close()
}

/// Every field but the content, by the names of the other formats.
fn push_metadata(form: &mut Form<'_>, at: usize, part: &Part, message: &[u8]) -> Result<(), OverBudget> {
    let octets = message.get(part.body.clone()).unwrap_or_default();
    let decoded = super::decoded_aside(part, octets.len());
    form.out.borrow(decoded)?;
    let size = part.encoding.decoded_len(octets);
    form.out.release(decoded);
    form.field(&format!("attachments[{at}][file_name]"), &part.file_name)?;
    form.field(&format!("attachments[{at}][content_type]"), &part.content_type)?;
    form.field(&format!("attachments[{at}][size]"), &size.to_string())?;
    form.field(&format!("attachments[{at}][disposition]"), disposition(part.disposition))?;
    if let Some(content_id) = &part.content_id {
        form.field(&format!("attachments[{at}][content_id]"), content_id)?;
    }
    Ok(())
}
