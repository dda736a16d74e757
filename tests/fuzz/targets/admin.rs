//! What a browser or a tool asks of the admin listener: the filters of `/records` in any query string, and the inspector's view of any body
//! under any content type. A refusal is one short sentence.
//!
//! Up to the first line end: the query, and the content type of the rest.

use jiff::Timestamp;
use mailsluice::admin::{parts, query};

pub fn run(octets: &[u8]) {
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (line, rest) = octets.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(line).into_owned().collect();
    for now in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        if let Err(problem) = query::parse(pairs.clone(), now) {
            let sentence = problem.to_string();
            assert!(!sentence.is_empty() && sentence.len() <= 512 && !sentence.contains(char::is_control), "{sentence:?}");
        }
    }
    let shown = parts::parts(std::str::from_utf8(line).ok(), body);
    let shown = shown.as_array().expect("a list");
    assert!((1..=200).contains(&shown.len()), "{} parts", shown.len());
    let sizes: u64 = shown.iter().map(|part| part["size"].as_u64().expect("a size")).sum();
    assert!(sizes <= body.len() as u64, "{sizes} octets of {}", body.len());
}
