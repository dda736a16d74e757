//! The scan of a header block (RFC 5322 section 2.2) finds the same in any pieces, whether or not the message is kept, and what stepping
//! through its fields finds; the texts for the record are one line, bounded, without control characters. The first octet: the cuts.

use super::{choices, cuts, pieces};
use mailsluice::message::field;
use mailsluice::message::header::{self, Scan};

pub fn run(octets: &[u8]) {
    let (seed, message) = choices(octets);
    let (mut scan, mut cut) = (Scan::default(), Scan::default());
    scan.feed(message);
    scan.end();
    // In pieces, and the message goes in between.
    let mut came = 0;
    for piece in pieces(message, &cuts(seed, message.len())) {
        cut.feed(piece);
        came += piece.len();
        if came >= message.len() / 2 {
            cut.take_apart(&message[..came]);
        }
    }
    cut.end();
    let head = header::head(message, 0, |_| false);
    assert!(head.end <= head.body && head.body <= message.len(), "{head:?}");
    assert_eq!((scan.head(), cut.head()), (head, head));
    assert_eq!(scan.received(), cut.received());
    let gone: &[u8] = if came >= message.len() / 2 { &[] } else { message };
    assert_eq!(scan.message_id(message), cut.message_id(gone));
    assert_eq!(scan.subject(message), cut.subject(gone));
    // The fields one by one, which are stepped through in another way, are the same.
    let fields: Vec<_> = field::fields(&message[..head.end]).collect();
    let first = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.body);
    let cut_off = |body: &[u8]| body[..body.len().min(8 * 1024)].to_vec();
    assert_eq!(scan.message_id(message).map(<[u8]>::to_vec), first("message-id").map(cut_off));
    assert_eq!(scan.subject(message).map(<[u8]>::to_vec), first("subject").map(cut_off));
    assert_eq!(scan.received() as usize, fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"received")).count());
    for slice in [scan.message_id(message), scan.subject(message)].into_iter().flatten() {
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
}

fn within(message: &[u8], slice: &[u8]) {
    let whole = message.as_ptr_range();
    let part = slice.as_ptr_range();
    assert!(slice.is_empty() || (whole.start <= part.start && part.end <= whole.end), "a slice of something else");
}
