//! A kept request's body as readable parts: the fields and files of a form, or the body as one part. For the eye only, so
//! what does not parse is shown as it is; texts are cut. Nothing here fails or logs.

use memchr::memmem;
use serde_json::{Value, json};

/// Text shown of one part.
const MAX_TEXT: usize = 256 * 1024;
const MAX_PARTS: usize = 200;

/// The parts of a body with this content type: a list of at least one.
#[must_use]
pub fn parts(content_type: Option<&str>, body: &[u8]) -> Value {
    let form = content_type.and_then(boundary).map(|boundary| form(&boundary, body)).filter(|parts| !parts.is_empty());
    form.map_or_else(|| json!([part(None, None, content_type, body)]), Value::Array)
}

/// The boundary of `multipart/form-data` (RFC 2046 section 5.1.1).
fn boundary(content_type: &str) -> Option<String> {
    let (media_type, parameters) = content_type.split_once(';')?;
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(parameters, "boundary").filter(|boundary| !boundary.is_empty())
}

/// A parameter's value, quoted or not.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (name, after) = rest.trim_start_matches([';', ' ', '\t']).split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => after.split_once(';').map_or((after.trim().to_owned(), ""), |(value, next)| (value.trim().to_owned(), next)),
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = next;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            character => value.push(character),
        }
    }
}

fn form(boundary: &str, body: &[u8]) -> Vec<Value> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut found = Vec::new();
    // The first delimiter has no line end before it if nothing stands before it.
    let Some(mut rest) = body.strip_prefix(delimiter.trim_start().as_bytes()) else { return found };
    while found.len() < MAX_PARTS && !rest.starts_with(b"--") {
        let end = finder.find(rest).unwrap_or(rest.len());
        let (part, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        found.push(form_part(part.strip_prefix(b"\r\n").unwrap_or(part)));
        match after.strip_prefix(delimiter.as_bytes()) {
            Some(next) => rest = next,
            None => break,
        }
    }
    found
}

fn form_part(octets: &[u8]) -> Value {
    let split = memmem::find(octets, b"\r\n\r\n").and_then(|at| octets.split_at_checked(at));
    let (head, body) = match split {
        Some((head, rest)) => (head, rest.strip_prefix(b"\r\n\r\n").unwrap_or(rest)),
        None => (&[][..], octets.strip_prefix(b"\r\n").unwrap_or(octets)),
    };
    let head = String::from_utf8_lossy(head);
    let field = |wanted: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let disposition = field("content-disposition").unwrap_or_default();
    let parameters = disposition.split_once(';').map_or("", |(_, parameters)| parameters);
    part(parameter(parameters, "name"), parameter(parameters, "filename"), field("content-type"), body)
}

fn part(name: Option<String>, file_name: Option<String>, content_type: Option<&str>, body: &[u8]) -> Value {
    let shown = body.get(..MAX_TEXT).unwrap_or(body);
    // Octets without meaning as text are not shown; a NUL or a broken character in the first KiB tells them.
    let head = body.get(..1024).unwrap_or(body);
    let binary = head.contains(&0) || String::from_utf8_lossy(head).chars().filter(|c| *c == '\u{FFFD}').count() > head.len() / 10 + 1;
    let text = (!binary).then(|| String::from_utf8_lossy(shown));
    json!({
        "name": name,
        "file_name": file_name,
        "content_type": content_type,
        "size": body.len(),
        "text": text,
        "cut": !binary && shown.len() < body.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_falls_into_its_fields_and_files() {
        let body = b"--b=1\r\nContent-Disposition: form-data; name=\"envelope[to]\"\r\n\r\na@b\r\n--b=1\r\n\
            Content-Disposition: form-data; name=\"attachments[]\"; filename=\"a \\\"b\\\".bin\"\r\nContent-Type: application/octet-stream\r\n\r\n\x00\xff\r\n\r\n--b=1--\r\n";
        let parts = parts(Some("multipart/form-data; boundary=\"b=1\""), body);
        assert_eq!(
            parts[0],
            json!({"name": "envelope[to]", "file_name": null, "content_type": null, "size": 3, "text": "a@b", "cut": false})
        );
        assert_eq!(
            parts[1],
            json!({"name": "attachments[]", "file_name": "a \"b\".bin", "content_type": "application/octet-stream", "size": 4, "text": null, "cut": false})
        );
        assert_eq!(parts.as_array().unwrap().len(), 2);
    }

    #[test]
    fn whatever_is_no_form_is_one_part() {
        for (content_type, body) in [
            (Some("multipart/form-data; boundary=x"), &b"no boundary here"[..]),
            (Some("multipart/form-data"), b"x"),
            (Some("multipart/form-data; boundary=\"x"), b"--x\r\n"),
            (Some("application/json"), b"{}"),
            (None, b""),
        ] {
            assert_eq!(parts(content_type, body).as_array().unwrap().len(), 1, "{content_type:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_have_parts(body in proptest::collection::vec(0..=255_u8, 0..400), boundary in "[a-z\"\\\\;= ]{0,8}") {
            let body = [format!("--{boundary}\r\n").as_bytes(), &body].concat();
            let content_type = format!("multipart/form-data; boundary={boundary}");
            let parts = parts(Some(&content_type), &body);
            proptest::prop_assert!(!parts.as_array().unwrap().is_empty());
        }
    }
}
