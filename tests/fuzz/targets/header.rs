//! The scan of a header block finds what splitting it into lines finds (RFC 5322 section 2.2), as slices of the message; the texts for the
//! record are one line, bounded, without control characters; the fields one by one agree with the scan.

use mailsluice::message::{field, header};

type Found = (Option<Vec<u8>>, Option<Vec<u8>>, u32, usize);

pub fn run(message: &[u8]) {
    let block = header::scan(message);
    let found = (block.message_id.map(<[u8]>::to_vec), block.subject.map(<[u8]>::to_vec), block.received, block.len);
    assert_eq!(found, naive(message));
    for slice in [block.message_id, block.subject].into_iter().flatten() {
        within(message, slice);
        for text in [header::message_id_text(slice), header::subject_text(slice)] {
            assert!(text.len() <= 998 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
    for text in [header::message_id_text(message), header::subject_text(message)] {
        assert!(text.len() <= 998 && !text.chars().any(char::is_control), "{text:?}");
    }
    let mut before = message.as_ptr();
    for field in field::fields(message) {
        within(message, field.name);
        within(message, field.body);
        assert!(!field.name.is_empty() && field.name.iter().all(u8::is_ascii_graphic), "{:?}", field.name);
        assert!(before <= field.name.as_ptr() && field.name.as_ptr() < field.body.as_ptr(), "the fields are not in their order");
        before = field.body.as_ptr();
    }
    let head = field::head(message, 0, |_| false);
    assert!(head.end <= head.body && head.body <= message.len(), "{head:?}");
}

fn within(message: &[u8], slice: &[u8]) {
    let whole = message.as_ptr_range();
    let part = slice.as_ptr_range();
    assert!(slice.is_empty() || (whole.start <= part.start && part.end <= whole.end), "a slice of something else");
}

fn naive(message: &[u8]) -> Found {
    let (mut id, mut subject, mut received, mut len) = (None, None, 0, 0);
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        len += line.len();
        if line == b"\n" || line == b"\r\n" {
            break;
        }
        match fields.last_mut() {
            Some(last) if matches!(line[0], b' ' | b'\t') => last.extend_from_slice(line),
            _ => fields.push(line.to_vec()),
        }
    }
    for field in fields {
        let Some(colon) = field.iter().position(|octet| *octet == b':') else { continue };
        let blanks = field[..colon].iter().rev().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let name = field[..colon - blanks].to_ascii_lowercase();
        let mut body = &field[colon + 1..];
        body = body.strip_suffix(b"\n").map_or(body, |body| body.strip_suffix(b"\r").unwrap_or(body));
        match name.as_slice() {
            b"message-id" => id = id.or_else(|| Some(body.to_vec())),
            b"subject" => subject = subject.or_else(|| Some(body.to_vec())),
            b"received" => received += 1,
            _ => {}
        }
    }
    (id, subject, received, len)
}
