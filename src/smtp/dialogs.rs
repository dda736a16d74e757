//! The transcripts of `tests/dialogs` against the protocol alone: as written, cut in two at every octet, and octet by octet.

#[path = "../../tests/dialogs/transcript.rs"]
mod transcript;

use super::memory::{Connection, Seen, settings};
use transcript::{Step, Transcript};

#[test]
fn every_transcript() {
    for transcript in transcript::all() {
        let whole = as_written(&transcript);
        let segments = segments(&transcript);
        let length: usize = segments.iter().map(Vec::len).sum();
        for at in (0..length).step_by(1 + length / 4096 * 60) {
            assert!(cut(&transcript, &segments, |octet| octet == at) == whole, "{}: cut at {at}", transcript.name);
        }
        assert!(cut(&transcript, &segments, |_| true) == whole, "{}: octet by octet", transcript.name);
    }
}

fn connection(transcript: &Transcript) -> Connection {
    let mut settings = settings();
    settings.offer_starttls = transcript.tls;
    let mut recipients = vec!["*".to_owned()];
    for (key, value) in &transcript.settings {
        let number = || value.as_integer().and_then(|n| u32::try_from(n).ok()).expect("a number");
        match key.as_str() {
            "smtp.bare_newline" => settings.normalize_newlines = value.as_str() == Some("normalize"),
            "smtp.max_message_size" => settings.max_message_size = octets(value.as_str().expect("a size")),
            "smtp.max_recipients" => settings.max_recipients = number() as usize,
            "smtp.max_messages_per_connection" => settings.max_messages = number(),
            "smtp.max_errors" => settings.max_errors = number(),
            "smtp.max_junk_commands" => settings.max_junk = number(),
            "smtp.tls.require" => settings.require_tls = value.as_bool() == Some(true),
            "route.recipients" => {
                let globs = value.as_array().expect("a list");
                recipients = globs.iter().map(|glob| glob.as_str().expect("a glob").to_owned()).collect();
            }
            _ => panic!("{}: {key} is not the protocol's", transcript.name),
        }
    }
    let mut connection = Connection::new(settings);
    connection.recipients = recipients;
    connection
}

fn octets(size: &str) -> u64 {
    size.strip_suffix('B').and_then(|n| n.parse().ok()).expect("a size in B")
}

/// What the client sends, in one piece up to each handshake.
fn segments(transcript: &Transcript) -> Vec<Vec<u8>> {
    let mut segments = vec![Vec::new()];
    for (_, step) in &transcript.steps {
        match step {
            Step::Send(octets) => segments.last_mut().expect("one at least").extend_from_slice(octets),
            Step::Handshake => segments.push(Vec::new()),
            Step::Reply(_) | Step::Closed | Step::Message(_) | Step::From(_) | Step::To(_) => {}
        }
    }
    segments
}

/// Everything at once, but cut before each octet of which that is said.
fn cut(transcript: &Transcript, segments: &[Vec<u8>], before: impl Fn(usize) -> bool) -> Seen {
    let mut connection = connection(transcript);
    let mut octet = 0;
    for (n, segment) in segments.iter().enumerate() {
        if n > 0 {
            connection.handshake();
        }
        let mut from = 0;
        for at in 0..segment.len() {
            if at > from && before(octet) {
                connection.send(&segment[from..at]);
                from = at;
            }
            octet += 1;
        }
        connection.send(&segment[from..]);
    }
    connection.wait();
    connection.seen
}

fn as_written(transcript: &Transcript) -> Seen {
    let mut connection = connection(transcript);
    let (mut to_send, mut lines, mut messages, mut recipients) = (Vec::new(), 0, 0_usize, 0);
    for (at, step) in &transcript.steps {
        if let Step::Send(octets) = step {
            to_send.extend_from_slice(octets);
            continue;
        }
        if !to_send.is_empty() {
            connection.send(&std::mem::take(&mut to_send));
            connection.wait();
        }
        let delivered: Vec<_> = connection.seen.ended.iter().filter(|ended| ended.refusal.is_none()).collect();
        let recipients_of_last = messages.checked_sub(1).map_or(0, |last| delivered[last].envelope.recipients.len());
        match step {
            Step::Send(_) => {}
            Step::Reply(expected) => {
                let replies = connection.lines();
                let last = replies[lines..].iter().position(|line| line.as_bytes().get(3) == Some(&b' '));
                lines += last.unwrap_or_else(|| panic!("{at}: no reply")) + 1;
                assert!(replies[lines - 1].starts_with(expected), "{at}: {:?}", replies[lines - 1]);
            }
            Step::Handshake => connection.handshake(),
            Step::Closed => assert!(connection.seen.closed && lines == connection.lines().len(), "{at}: {:?}", connection.lines()),
            Step::Message(octets) => {
                assert!(recipients == 0 || recipients == recipients_of_last, "{at}: more recipients before");
                let message = delivered.get(messages).unwrap_or_else(|| panic!("{at}: no message"));
                let text = |octets: &[u8]| octets.escape_ascii().to_string();
                assert_eq!(text(&message.octets), text(octets), "{at}");
                assert_eq!(message.size, octets.len() as u64, "{at}");
                messages += 1;
                recipients = 0;
            }
            Step::From(mailbox) => assert_eq!(delivered[messages - 1].envelope.reverse_path, *mailbox, "{at}"),
            Step::To(mailbox) => {
                assert_eq!(delivered[messages - 1].envelope.recipients.get(recipients), Some(mailbox), "{at}");
                recipients += 1;
                assert!(recipients <= recipients_of_last);
            }
        }
    }
    let name = &transcript.name;
    assert!(to_send.is_empty(), "{name}: the last lines have no reply");
    assert_eq!(connection.lines().len(), lines, "{name}: replies left over: {:?}", connection.lines());
    let delivered = connection.seen.ended.iter().filter(|ended| ended.refusal.is_none()).count();
    assert_eq!(delivered, messages, "{name}: messages");
    connection.seen
}
