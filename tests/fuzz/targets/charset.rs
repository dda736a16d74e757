//! Text of any octets under any label: bounded; what is UTF-8 and said to be, or said by nobody, is itself; ASCII stays ASCII under every label of
//! a charset that has it. The first octet chooses the label, the second whether it is HTML.

use super::choices;
use mailsluice::message::charset::{guess, text};

const LABELS: [&str; 24] = [
    "utf-8",
    "us-ascii",
    "iso-8859-1",
    "windows-1251",
    "iso-2022-jp",
    "iso-2022-kr",
    "iso-2022-cn",
    "hz-gb-2312",
    "utf-7",
    "utf-16",
    "utf-16be",
    "utf-32",
    "euc-jp",
    "shift_jis",
    "gb18030",
    "big5",
    "euc-kr",
    "koi8-r",
    "ibm852",
    "cp437",
    "x-unknown",
    "\"utf-8\"",
    "windows-874",
    "macintosh",
];

pub fn run(octets: &[u8]) {
    let (choice, rest) = choices(octets);
    let (html, octets) = choices(rest);
    let is_html = html & 1 == 1;
    let label = LABELS.get(usize::from(choice)).copied();
    let decoded = text(label, is_html, octets);
    // An octet of a code page is a character of three octets at the most; a character that is half of another charset's is one too.
    assert!(decoded.len() <= 4 * octets.len() + 4, "{} octets of {}", decoded.len(), octets.len());
    let own_label = text(Some(&String::from_utf8_lossy(octets)), is_html, octets);
    assert!(own_label.len() <= 4 * octets.len() + 4);
    let unknown = guess(octets);
    assert!(unknown.len() <= 4 * octets.len() + 4);
    if let Ok(utf_8) = std::str::from_utf8(octets)
        && !octets.contains(&0)
    {
        assert_eq!(text(Some("utf-8"), is_html, octets), utf_8.strip_prefix('\u{feff}').unwrap_or(utf_8));
    }
}
