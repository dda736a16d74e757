//! The new part of a reply: made of the text's own lines, none of them quoted, trimmed; nothing where nothing says that it is a reply. The first
//! octet: whether the message says so of itself.

use super::choices;
use mailsluice::message::reply_text::reply_text;

pub fn run(octets: &[u8]) {
    let (choice, rest) = choices(octets);
    let text = String::from_utf8_lossy(rest).replace("\r\n", "\n").replace('\r', "\n");
    let reply = reply_text(&text, choice & 1 == 1);
    assert_eq!(reply.trim(), reply);
    assert!(reply.len() <= text.len());
    let mut lines = text.split('\n');
    for line in reply.split('\n') {
        assert!(!line.trim_start().starts_with('>'), "{line:?} is quoted");
        // In their order.
        assert!(lines.any(|own| own.contains(line)), "{line:?} is not of the text");
    }
}
