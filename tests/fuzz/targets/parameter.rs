//! Fields of parameters (RFC 2045, 2183, 2231): every value is one line without NUL, and a file's name holds nothing that a strict server refuses
//! and is its own name; a name that is written in any of the standard's ways comes back.

use mailsluice::message::encoded_word::is_line_control;
use mailsluice::message::parameter::{Parameters, file_name};

pub fn run(octets: &[u8]) {
    let value = Parameters::parse(octets);
    for name in ["filename", "name", "charset", "boundary"] {
        let text = value.get(name).unwrap_or_default();
        assert!(!text.contains('\0') && !text.contains(is_line_control), "{text:?}");
        assert!(text.len() <= 3 * octets.len(), "{} octets of {}", text.len(), octets.len());
        safe(&text);
    }
    let text = String::from_utf8_lossy(octets);
    safe(&text);
    let wanted: String = text.chars().filter(|c| !c.is_control() && !is_line_control(*c) && *c != '\u{feff}').take(60).collect();
    let wanted = wanted.trim();
    if wanted.is_empty() || wanted.contains("=?") {
        return;
    }
    let percent: String = wanted.bytes().map(|octet| format!("%{octet:02X}")).collect();
    let half = percent.len() / 6 * 3;
    let (first, second) = percent.split_at(half);
    for field in [
        format!(" attachment; filename*=utf-8''{percent}"),
        format!(" attachment;\r\n filename*0*=utf-8''{first};\r\n\tfilename*1*={second}"),
    ] {
        assert_eq!(Parameters::parse(field.as_bytes()).get("filename").as_deref(), Some(wanted), "{field}");
    }
}

fn safe(text: &str) {
    let Some(name) = file_name(text) else { return };
    assert!(!name.is_empty() && name.len() <= 255 && name != "." && name != "..", "{name:?}");
    assert!(!name.contains(|c: char| c.is_control() || is_line_control(c) || matches!(c, '/' | '\\')), "{name:?}");
}
