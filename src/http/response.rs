//! What an endpoint said, as far as it is of interest, and its text. Pure.

use super::head::Head;
use crate::message::charset;
use crate::message::parameter::Parameters;
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

/// By the charset it says, as far as the octets can be of it; a text that says none by what they are. Other types are UTF-8.
fn decoded(kept: Vec<u8>, room: usize, content_type: Option<&str>) -> String {
    let kind = content_type.map(essence).unwrap_or_default();
    let label = content_type.and_then(charset_of);
    if label.is_none() && !kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/")) {
        return lossy(kept, room);
    }
    let cut = kept.len() >= room;
    // A character cut at the end is left out: it is no sign of another charset.
    let whole =
        std::str::from_utf8(&kept).err().filter(|error| cut && error.error_len().is_none()).map_or(kept.len(), |error| error.valid_up_to());
    let text = charset::text(label.as_deref(), kind.eq_ignore_ascii_case("text/html"), kept.get(..whole).unwrap_or(&kept));
    if cut { text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned() } else { text.into_owned() }
}

fn lossy(kept: Vec<u8>, room: usize) -> String {
    let cut = kept.len() >= room;
    let text = String::from_utf8(kept).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(error.as_bytes());
        if cut { text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned() } else { text.into_owned() }
    });
    // A byte-order mark is none of the text.
    match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    }
}

fn charset_of(content_type: &str) -> Option<String> {
    let charset = content_type.contains(';').then(|| Parameters::parse(content_type.as_bytes()).get("charset"))??;
    Some(charset.trim_matches(|octet: char| octet.is_ascii_whitespace() || matches!(octet, '"' | '\'')).to_owned())
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
            ("text/plain; x=\"a; charset=utf-16le; \\\"\"; charset='iso-8859-1'", b"Gr\xf6\xdfe", "Größe"),
            ("TEXT/PLAIN;CHARSET = iso-8859-1 ; charset=utf-16", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=\"iso-8859-1", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=x-unknown", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=us-ascii", "Größe".as_bytes(), "Größe"),
            ("text/plain; charset=iso-8859-1", "Größe".as_bytes(), "Größe"),
            ("text/plain; charset=utf-8", b"Gr\xf6\xdfe", "Größe"),
            ("text/plain; charset=ibm437", b"Gr\x94\xe1e", "Größe"),
            ("text/plain; charset=utf-32", b"\xff\xfe\0\0n\0\0\0o\0\0\0", "no"),
            ("text/plain; charset=utf-8", b"\xef\xbb\xbfno", "no"),
            ("text/plain", b"\xff\xfen\0o\0", "no"),
            ("application/json", b"\xef\xbb\xbf{}", "{}"),
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
