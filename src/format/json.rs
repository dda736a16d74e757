//! The `json` format: CloudMailin's "JSON Normalized", written straight into one buffer.
//!
//! No tree is built and no attachment is decoded: base64 is copied line by line. Logs nothing; fails with
//! [`OverBudget`].

use super::Rendered;
use super::headers::{HELD_PER_FIELD, Headers};
use super::out::{Hold, Out};
use super::text::{REPLY_MAX, collect_for_reply, each_text};
use crate::config::Attachments;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::message::mime::{Disposition, Part, Role, Structure};
use crate::message::reply_text::reply_text;
use crate::verify::Verification;
use memchr::memchr_iter;
use serde_json::Value;

/// JSON around one attachment's or header's values, about.
const AROUND: usize = 160;

pub(super) fn render(
    structure: &Structure,
    attachments: Attachments,
    envelope: &Envelope,
    verification: &Verification,
    message: &[u8],
    hold: Hold<'_>,
) -> Result<Rendered, OverBudget> {
    let mut out = Out::new(hold);
    let header = message.get(structure.header.clone()).unwrap_or_default();
    let beside = structure.held() + memchr_iter(b'\n', header).count() * HELD_PER_FIELD;
    out.borrow(beside)?;
    out.room(size_hint(structure, attachments, message))?;

    let headers = Headers::new(header);
    out.push(b"{\"headers\":")?;
    push_headers(&mut out, &headers)?;
    out.push(b",\"envelope\":")?;
    push_envelope(&mut out, envelope, verification)?;

    let mut for_reply = String::new();
    out.push(b",\"plain\":\"")?;
    each_text(message, structure, Role::Plain, &mut out, |out, text| {
        collect_for_reply(&mut for_reply, text);
        push_text(out, text)
    })?;
    out.push(b"\",\"html\":\"")?;
    each_text(message, structure, Role::Html, &mut out, push_text)?;
    out.push(b"\",\"reply_plain\":")?;
    let is_reply = headers.has("in-reply-to") || headers.has("references");
    out.borrow(for_reply.capacity() * 2)?;
    push_string(&mut out, &reply_text(&for_reply, is_reply))?;
    out.release(for_reply.capacity() * 2);
    drop(for_reply);

    out.push(b",\"attachments\":[")?;
    let mut first = true;
    for part in structure.parts.iter().filter(|part| part.role == Role::Attachment) {
        out.push(if first { b"{" } else { b",{" })?;
        first = false;
        push_attachment(&mut out, part, attachments, message)?;
    }
    out.push(b"]}")?;
    drop(headers);
    out.release(beside);
    let pieces = out.finish()?;
    Ok(Rendered::new("application/json".to_owned(), Vec::new(), pieces))
}

/// About how long the result is: a little more, so that the buffer need not move.
fn size_hint(structure: &Structure, attachments: Attachments, message: &[u8]) -> usize {
    let header = structure.header.len();
    let mut hint = 1024 + header + header / 4;
    let mut plain = 0;
    for part in &structure.parts {
        let len = message.get(part.body.clone()).unwrap_or_default().len();
        hint += match (part.role, attachments) {
            (Role::Plain | Role::Html, _) => len + len / 16,
            (Role::Attachment, Attachments::Embed) => AROUND + part.encoding.base64_max(len),
            (Role::Attachment, Attachments::Metadata) => AROUND,
        };
        plain += if part.role == Role::Plain { len } else { 0 };
    }
    hint + plain.min(REPLY_MAX) / 4
}

fn push_headers(out: &mut Out<'_>, headers: &Headers<'_>) -> Result<(), OverBudget> {
    out.push(b"{")?;
    let mut first = true;
    for (name, values) in headers.iter() {
        out.push(if first { b"\"" } else { b",\"" })?;
        first = false;
        for octet in name.octets() {
            // Of printable ASCII, two characters need an escape.
            if matches!(octet, b'"' | b'\\') {
                out.push(b"\\")?;
            }
            out.push(&[octet])?;
        }
        out.push(b"\":")?;
        let repeated = values.repeated();
        let mut before: &[u8] = if repeated { b"[" } else { b"" };
        for value in values {
            out.push(before)?;
            push_string(out, &value)?;
            before = b",";
        }
        if repeated {
            out.push(b"]")?;
        }
    }
    out.push(b"}")
}

fn push_envelope(out: &mut Out<'_>, envelope: &Envelope, verification: &Verification) -> Result<(), OverBudget> {
    out.push(b"{\"to\":")?;
    push_string(out, envelope.recipients.first().map_or("", String::as_str))?;
    out.push(b",\"recipients\":[")?;
    for (at, recipient) in envelope.recipients.iter().enumerate() {
        if at > 0 {
            out.push(b",")?;
        }
        push_string(out, recipient)?;
    }
    out.push(b"],\"from\":")?;
    push_string(out, &envelope.reverse_path)?;
    out.push(b",\"helo_domain\":")?;
    push_string(out, &envelope.helo)?;
    out.push(b",\"remote_ip\":")?;
    push_string(out, &envelope.peer.ip.to_string())?;
    out.push(b",\"tls\":")?;
    out.push(if envelope.tls.is_some() { b"true" } else { b"false" })?;
    if let Some(spf) = &verification.spf {
        out.push(b",\"spf\":{\"result\":")?;
        push_string(out, spf.result)?;
        out.push(b",\"domain\":")?;
        push_string(out, &spf.domain)?;
        out.push(b"}")?;
    }
    for (name, value) in [("dkim", &verification.dkim), ("dmarc", &verification.dmarc), ("spam", &verification.spam)] {
        if let Some(value) = value {
            out.push(b",")?;
            push_string(out, name)?;
            out.push(b":")?;
            push_value(out, value)?;
        }
    }
    out.push(b"}")
}

/// A value of ours (a check's result), its text made safe like any other.
fn push_value(out: &mut Out<'_>, value: &Value) -> Result<(), OverBudget> {
    match value {
        Value::Null => out.push(b"null"),
        Value::Bool(value) => out.push(if *value { b"true" } else { b"false" }),
        Value::Number(number) => out.push(number.to_string().as_bytes()),
        Value::String(text) => push_string(out, text),
        Value::Array(values) => {
            let mut before: &[u8] = b"";
            out.push(b"[")?;
            for value in values {
                out.push(before)?;
                push_value(out, value)?;
                before = b",";
            }
            out.push(b"]")
        }
        Value::Object(fields) => {
            let mut before: &[u8] = b"";
            out.push(b"{")?;
            for (name, value) in fields {
                out.push(before)?;
                push_string(out, name)?;
                out.push(b":")?;
                push_value(out, value)?;
                before = b",";
            }
            out.push(b"}")
        }
    }
}

fn push_attachment(out: &mut Out<'_>, part: &Part, attachments: Attachments, message: &[u8]) -> Result<(), OverBudget> {
    let octets = message.get(part.body.clone()).unwrap_or_default();
    let decoded = super::decoded_aside(part, octets.len());
    out.borrow(decoded)?;
    let size = match attachments {
        Attachments::Embed => {
            out.push(b"\"content\":\"")?;
            let size = out.fill(part.encoding.base64_max(octets.len()), |out| part.encoding.to_base64(octets, out))?;
            out.push(b"\",")?;
            size
        }
        Attachments::Metadata => part.encoding.decoded_len(octets),
    };
    out.release(decoded);
    out.push(b"\"file_name\":")?;
    push_string(out, &part.file_name)?;
    out.push(b",\"content_type\":")?;
    push_string(out, &part.content_type)?;
    out.push(format!(",\"size\":{size},\"disposition\":").as_bytes())?;
    push_string(out, disposition(part.disposition))?;
    if let Some(content_id) = &part.content_id {
        out.push(b",\"content_id\":")?;
        push_string(out, content_id)?;
    }
    out.push(b"}")
}

pub(super) fn disposition(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Attachment => "attachment",
        Disposition::Inline => "inline",
    }
}

fn push_string(out: &mut Out<'_>, text: &str) -> Result<(), OverBudget> {
    out.push(b"\"")?;
    push_escaped(out, text, false)?;
    out.push(b"\"")
}

/// Within its quotes, with LF line ends.
fn push_text(out: &mut Out<'_>, text: &str) -> Result<(), OverBudget> {
    push_escaped(out, text, true)
}

/// It cannot stand in a JSON string as it is.
fn is_special(octet: u8) -> bool {
    (octet < b' ') | (octet == b'"') | (octet == b'\\')
}

/// How many octets from the start on can be copied.
fn plain_run(octets: &[u8]) -> usize {
    // Whole blocks without a branch per octet, so that it is done in vectors; then the rest one by one.
    let blocks = octets.chunks_exact(32).take_while(|block| block.iter().fold(true, |all, octet| all & !is_special(*octet))).count();
    let skipped = blocks * 32;
    let rest = octets.get(skipped..).unwrap_or_default();
    skipped + rest.iter().position(|octet| is_special(*octet)).unwrap_or(rest.len())
}

fn push_escaped(out: &mut Out<'_>, text: &str, lf: bool) -> Result<(), OverBudget> {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at_checked(plain_run(rest)).unwrap_or((rest, &[]));
        out.push(plain)?;
        let Some((octet, after)) = special.split_first() else { return Ok(()) };
        rest = after;
        match octet {
            b'"' => out.push(b"\\\"")?,
            b'\\' => out.push(b"\\\\")?,
            b'\n' => out.push(b"\\n")?,
            b'\r' if lf && after.first() == Some(&b'\n') => {}
            b'\r' if lf => out.push(b"\\n")?,
            b'\r' => out.push(b"\\r")?,
            b'\t' => out.push(b"\\t")?,
            b'\0' => out.push("\u{fffd}".as_bytes())?,
            control => out.push(format!("\\u{control:04x}").as_bytes())?,
        }
    }
}
