//! The `rfc822` format: the message itself, byte for byte, its envelope in header fields of the request. Logs nothing;
//! fails with [`OverBudget`].
//!
//! The results of the checks that a route asks for are JSON as in the other formats, in ASCII: `Mailsluice-Spf`,
//! `Mailsluice-Dkim`, `Mailsluice-Dmarc`.

use super::Rendered;
use super::out::{Hold, Out};
use crate::envelope::Envelope;
use crate::mailbox::{in_header, len_in_header};
use crate::message::OverBudget;
use crate::verify::Verification;
use std::fmt::Write;

pub(super) const CONTENT_TYPE: &str = "message/rfc822";

/// Most octets of the recipients' field: servers take 8 to 16 KiB for a request's header, and a hundred fields.
const RECIPIENTS_MAX: usize = 6 * 1024;

/// The recipients' field has room for one more.
#[must_use]
pub fn takes_another(recipients: &[String], another: &str) -> bool {
    let len: usize = recipients.iter().map(|recipient| len_in_header(recipient) + 1).sum();
    len + len_in_header(another) <= RECIPIENTS_MAX
}

pub(super) fn render(envelope: &Envelope, verification: &Verification, message: &[u8], hold: Hold<'_>) -> Result<Rendered, OverBudget> {
    let mut out = Out::new(hold);
    out.message(0..message.len());
    let recipients: Vec<String> = envelope.recipients.iter().map(|recipient| in_header(recipient)).collect();
    let mut headers = vec![mail_from(envelope), ("Mailsluice-Rcpt-To", recipients.join(","))];
    headers.extend(rest_of_headers(envelope, verification));
    Ok(Rendered::new(CONTENT_TYPE.to_owned(), headers, out.finish()?))
}

pub(super) fn mail_from(envelope: &Envelope) -> (&'static str, String) {
    ("Mailsluice-Mail-From", in_header(&envelope.reverse_path))
}

/// All but the addresses.
pub(super) fn rest_of_headers(envelope: &Envelope, verification: &Verification) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Mailsluice-Remote-Ip", envelope.peer.ip.to_string())];
    headers.push(("Mailsluice-Helo", in_header(&envelope.helo)));
    if let Some(tls) = &envelope.tls {
        headers.push(("Mailsluice-Tls", tls.clone()));
    }
    if let Some(spf) = &verification.spf {
        headers.push(("Mailsluice-Spf", ascii(&serde_json::json!({ "result": spf.result, "domain": spf.domain }))));
    }
    if let Some(dkim) = &verification.dkim {
        headers.push(("Mailsluice-Dkim", ascii(dkim)));
    }
    if let Some(dmarc) = &verification.dmarc {
        headers.push(("Mailsluice-Dmarc", ascii(dmarc)));
    }
    if let Some(spam) = &verification.spam {
        headers.push(("Mailsluice-Spam", spam_field(spam)));
    }
    headers
}

/// `score=…; required=…; action=…`; the action is Rspamd's word, printable here whatever it is.
fn spam_field(spam: &serde_json::Value) -> String {
    let action = spam.get("action").and_then(serde_json::Value::as_str).unwrap_or_default();
    let action: String = action.chars().map(|c| if matches!(c, ' '..='~') && c != ';' { c } else { '?' }).collect();
    let number = |name| spam.get(name).map(ToString::to_string).unwrap_or_default();
    format!("score={}; required={}; action={action}", number("score"), number("required"))
}

/// JSON whose every character is printable ASCII: controls are escaped in it already, the rest is here.
fn ascii(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if matches!(c, ' '..='~') {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write_to(&mut out, format_args!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn write_to(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    if out.write_fmt(text).is_err() {
        out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{ascii, spam_field};

    #[test]
    fn json_in_ascii() {
        let spam = serde_json::json!({ "score": -1.5, "required": 15, "action": "add\r\nX: y; é" });
        assert_eq!(spam_field(&spam), "score=-1.5; required=15; action=add??X: y? ?");
        assert_eq!(ascii(&serde_json::json!({ "a": "é😀\r\n\u{7f}" })), r#"{"a":"\u00e9\ud83d\ude00\r\n\u007f"}"#);
    }
}
