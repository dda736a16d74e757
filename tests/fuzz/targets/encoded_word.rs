//! Encoded words (RFC 2047): any octets decode to one line without NUL; what an encoder writes, in Q and in B, its characters split over
//! words anywhere, decodes to what it was; text without a word is only unfolded.
//!
//! The first octet chooses where the encoder splits.

use super::{choices, cuts, pieces};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailsluice::message::encoded_word::{decode, is_line_control, unfold};

pub fn run(octets: &[u8]) {
    let (seed, raw) = choices(octets);
    let decoded = decode(raw);
    let unfolded = unfold(raw);
    for text in [&decoded, &unfolded] {
        assert!(!text.contains('\0') && !text.contains(is_line_control), "{text:?}");
    }
    if !raw.contains(&b'?') {
        assert_eq!(decoded, unfolded);
    }
    // A word decodes to no more than its octets, each at most a character of three octets.
    assert!(decoded.len() <= 3 * raw.len(), "{} octets of {}", decoded.len(), raw.len());

    let Ok(text) = std::str::from_utf8(raw) else { return };
    let words = pieces(raw, &cuts(seed, raw.len()));
    let expected = shown(text);
    let q: Vec<String> = words.iter().map(|word| format!("=?utf-8?q?{}?=", q_encoded(word))).collect();
    assert_eq!(decode(q.join(" ").as_bytes()), expected, "Q");
    let b: Vec<String> = words.iter().map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word))).collect();
    assert_eq!(decode(b.join("\r\n ").as_bytes()), expected, "B");
}

/// What may be seen of a text that came out of words: blanks at its ends are kept, a byte order mark is none of it.
fn shown(text: &str) -> String {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .chars()
        .map(|c| match c {
            '\0' => '\u{fffd}',
            c if is_line_control(c) => ' ',
            c => c,
        })
        .collect()
}

fn q_encoded(word: &[u8]) -> String {
    word.iter()
        .map(|octet| match octet {
            b' ' => "_".to_owned(),
            octet if octet.is_ascii_alphanumeric() => char::from(*octet).to_string(),
            octet => format!("={octet:02X}"),
        })
        .collect()
}
