//! A whole session: commands, DATA, BDAT, STARTTLS. However the octets are split, everything that can be seen is the same; no reply is
//! malformed; no message ends with 250 that the session refused or that has a newline it should not have.
//!
//! The first octet is the settings, the second the cuts; `\x16\x03`, with which a TLS record starts, stands for a handshake.

use super::driver::{Driver, Seen};
use super::{choices, cuts, pieces};
use mailsluice::smtp::{Refusal, Settings, reply};

const HANDSHAKE: &[u8] = b"\x16\x03";

pub fn run(octets: &[u8]) {
    let (choice, octets) = choices(octets);
    let (seed, octets) = choices(octets);
    let stretches = stretches(octets);
    let settings = settings(choice);
    let whole = talk(&settings, choice, &stretches, |_| Vec::new());
    hold(&settings, &whole);
    assert_eq!(talk(&settings, choice, &stretches, |octets| cuts(seed, octets.len())), whole, "cut");
    if octets.len() <= 256 {
        assert_eq!(talk(&settings, choice, &stretches, |octets| (1..octets.len()).collect()), whole, "octet by octet");
    }
}

fn settings(choice: u8) -> Settings {
    let bit = |at: u8| choice >> at & 1 == 1;
    Settings {
        hostname: "mx.test".to_owned(),
        postmaster: "postmaster".to_owned(),
        max_message_size: if bit(0) { 40 } else { 25 << 20 },
        max_recipients: if bit(1) { 2 } else { 100 },
        max_messages: if bit(2) { 2 } else { 100 },
        max_errors: if bit(2) { 3 } else { 1000 },
        max_junk: if bit(2) { 5 } else { 1000 },
        normalize_newlines: bit(3),
        offer_starttls: bit(4),
        require_tls: bit(4) && bit(5),
    }
}

fn stretches(octets: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = octets;
    while let Some(at) = rest.windows(HANDSHAKE.len()).position(|window| window == HANDSHAKE) {
        found.push(&rest[..at]);
        rest = &rest[at + HANDSHAKE.len()..];
    }
    found.push(rest);
    found
}

fn talk(settings: &Settings, choice: u8, stretches: &[&[u8]], cut: impl Fn(&[u8]) -> Vec<usize>) -> Seen {
    let mut driver = Driver::new(settings.clone());
    if choice >> 6 & 1 == 1 {
        driver.begin = Err(reply::OUT_OF_MEMORY);
    }
    for stretch in stretches {
        if driver.seen.wants_tls {
            driver.handshake();
        }
        for piece in pieces(stretch, &cut(stretch)) {
            driver.send(piece);
        }
    }
    driver.seen
}

fn hold(settings: &Settings, seen: &Seen) {
    for ended in &seen.ended {
        let recipients = ended.envelope.recipients.len();
        assert!((1..=settings.max_recipients).contains(&recipients), "{recipients} recipients");
        assert!(ended.envelope.tls.is_some() || !settings.require_tls, "mail was taken in the clear");
        assert!(ended.refusal != Some(Refusal::BareNewline) || !settings.normalize_newlines);
        assert!(ended.size <= settings.max_message_size || ended.refusal == Some(Refusal::Size));
        if ended.refusal.is_none() {
            assert_eq!(ended.size, ended.octets.len() as u64);
            assert!(!has_bare_newline(&ended.octets), "a bare newline was taken");
        }
    }
    let text = std::str::from_utf8(&seen.out).expect("replies are UTF-8");
    assert!(text.ends_with("\r\n"), "a reply has no end");
    let mut accepted = 0;
    for line in text.split_terminator("\r\n") {
        assert!(line.len() <= 510 && !line.contains(['\r', '\n', '\0']), "{line:?}");
        let (code, rest) = line.split_at(3);
        assert!(code.starts_with(['2', '3', '4', '5']) && code.bytes().all(|octet| octet.is_ascii_digit()), "{line:?}");
        assert!(rest.is_empty() || rest.starts_with([' ', '-']), "{line:?}");
        accepted += usize::from(line.contains("00000000000000000000000000"));
    }
    assert_eq!(
        accepted,
        seen.ended.iter().filter(|ended| ended.refusal.is_none()).count(),
        "promise 1: a 250 for each message and no other"
    );
}

pub fn has_bare_newline(octets: &[u8]) -> bool {
    octets.iter().enumerate().any(|(at, octet)| match octet {
        b'\r' => octets.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || octets[at - 1] != b'\r',
        _ => false,
    })
}
