//! What an endpoint said, as far as it is of interest, and its text. Pure.

use super::head::Head;
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::borrow::Cow;
use std::time::Duration;

/// Octets of a body that are kept where nobody wants more.
pub const BODY_KEPT: usize = 2 * 1024;
/// Octets of a field that are kept.
const FIELD_KEPT: usize = 255;

/// A complete status line and header; the body as far as it came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    /// It asks who we are (`WWW-Authenticate`).
    pub challenges: bool,
    /// Its start, decoded by its charset.
    pub body: String,
    /// The body has been through a coding (gzip and the like) that is not undone.
    pub is_coded: bool,
    /// A redirect that was not followed (count, scheme, address): the status is the redirect's own.
    pub redirect_refused: Option<String>,
    /// A redirect led to another origin, where the credentials did not go along.
    pub lost_credentials: bool,
}

/// A response, what only redirects look at, and how long it took.
pub struct Answer {
    pub response: Response,
    pub location: Option<String>,
    pub cache_control: Option<String>,
    /// All of the body came, and was kept.
    pub is_whole: bool,
    /// The connection went to an address of the open internet.
    pub from_public: bool,
    /// From the request's last octet to the status line.
    pub waited: Duration,
}

impl Response {
    /// `kept` is the start of the body, cut at `room`.
    pub(super) fn new(head: Head, kept: Vec<u8>, room: usize) -> Self {
        let body = if head.is_coded { lossy(kept, room) } else { decoded(kept, room, head.content_type.as_deref()) };
        Self {
            status: head.status,
            content_type: head.content_type.map(cut),
            retry_after: head.retry_after.map(cut),
            challenges: head.challenges,
            body,
            is_coded: head.is_coded,
            redirect_refused: None,
            lost_credentials: false,
        }
    }

    /// The body, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Option<&str> {
        let is_json = self.content_type.as_deref().is_some_and(|value| essence(value).eq_ignore_ascii_case("application/json"));
        Some(self.body.as_str()).filter(|_| is_json && !self.is_coded)
    }

    /// The body, if it is a text for people.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let is_plain = self.content_type.as_deref().is_some_and(|value| essence(value).eq_ignore_ascii_case("text/plain"));
        Some(self.body.as_str()).filter(|text| is_plain && !self.is_coded && !text.trim().is_empty())
    }
}

fn cut(mut value: String) -> String {
    value.truncate(value.floor_char_boundary(FIELD_KEPT));
    value
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// By the charset it says; a text that says none, and is not UTF-8, by what HTTP's default used to be.
fn decoded(kept: Vec<u8>, room: usize, content_type: Option<&str>) -> String {
    let named = content_type.and_then(charset).and_then(|label| Encoding::for_label(label.as_bytes()));
    let is_text = || content_type.is_some_and(|value| essence(value).get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/")));
    match named {
        Some(encoding) if encoding != UTF_8 => whole(encoding.decode(&kept).0, kept.len() < room).into_owned(),
        None if is_text() && std::str::from_utf8(&kept).is_err_and(|error| error.error_len().is_some()) => {
            WINDOWS_1252.decode_without_bom_handling(&kept).0.into_owned()
        }
        Some(_) | None => lossy(kept, room),
    }
}

fn lossy(kept: Vec<u8>, room: usize) -> String {
    let all = kept.len() < room;
    String::from_utf8(kept).unwrap_or_else(|error| whole(String::from_utf8_lossy(error.as_bytes()), all).into_owned())
}

/// A character cut at the end becomes a replacement character, which is no help: it is left out.
fn whole(text: Cow<'_, str>, all: bool) -> Cow<'_, str> {
    if all { text } else { Cow::Owned(text.trim_end_matches('\u{fffd}').to_owned()) }
}

fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches(['"', '\'']).trim())
    })
}

#[cfg(test)]
mod tests {
    use super::{BODY_KEPT, decoded};

    #[test]
    fn texts_by_their_charset() {
        let table: &[(&str, &[u8], &str)] = &[
            ("text/plain; charset=utf-8", "Größe".as_bytes(), "Größe"),
            ("text/plain", "Größe".as_bytes(), "Größe"),
            ("text/plain", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain;format=flowed; Charset=\"ISO-8859-1\"", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=shift_jis", b"\x83\x81\x81[\x83\x8b", "メール"),
            ("text/plain; charset=utf-16le", b"n\0o\0", "no"),
            ("text/plain; charset=x-unknown", b"Gr\xf6\xdfe", "Größe"),
            ("application/octet-stream", b"a\xff", "a\u{fffd}"),
        ];
        for (content_type, octets, text) in table {
            assert_eq!(decoded(octets.to_vec(), BODY_KEPT, Some(content_type)), *text, "{content_type}");
        }
        // Cut within a character.
        let long = [&[b'x'; BODY_KEPT - 1][..], &"é".as_bytes()[..1]].concat();
        assert_eq!(decoded(long, BODY_KEPT, Some("text/plain")), "x".repeat(BODY_KEPT - 1));
    }
}
