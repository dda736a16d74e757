//! Reads a transcript (the form is told in `README.md` beside it). A line that means nothing is a panic with its place.

use std::path::{Path, PathBuf};

/// One file.
pub(crate) struct Transcript {
    pub(crate) name: String,
    pub(crate) settings: Vec<(String, toml::Value)>,
    pub(crate) tls: bool,
    /// Each with its place, for failures.
    pub(crate) steps: Vec<(String, Step)>,
}

pub(crate) enum Step {
    Send(Vec<u8>),
    /// The last line of the next reply starts so.
    Reply(String),
    Handshake,
    Closed,
    Message(Vec<u8>),
    From(String),
    To(String),
}

/// All of them, in the order of their names.
pub(crate) fn all() -> Vec<Transcript> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "smtp"));
    files.sort();
    assert!(files.len() >= 10, "{} transcripts", files.len());
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Transcript {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let mut transcript = Transcript { name, settings: Vec::new(), tls: false, steps: Vec::new() };
    for (n, line) in std::fs::read_to_string(file).unwrap().lines().enumerate() {
        let at = format!("{}:{}", transcript.name, n + 1);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let step = match (word, rest) {
            ("" | "#", _) => continue,
            ("set", setting) => {
                let (key, value) = setting.split_once('=').unwrap_or_else(|| panic!("{at}: no value"));
                let value = format!("value ={value}").parse::<toml::Table>().unwrap_or_else(|error| panic!("{at}: {error}"));
                transcript.settings.push((key.trim().to_owned(), value["value"].clone()));
                continue;
            }
            ("tls", "") => {
                transcript.tls = true;
                continue;
            }
            ("C:", line) => Step::Send([unescaped(line), b"\r\n".to_vec()].concat()),
            ("C|", octets) => Step::Send(unescaped(octets)),
            ("S:", reply) => Step::Reply(reply.to_owned()),
            ("handshake", "") => Step::Handshake,
            ("closed", "") => Step::Closed,
            ("message", octets) => Step::Message(unescaped(octets)),
            ("from", mailbox) => Step::From(mailbox.to_owned()),
            ("to", mailbox) => Step::To(mailbox.to_owned()),
            _ => panic!("{at}: what is {line:?}?"),
        };
        transcript.steps.push((at, step));
    }
    transcript
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        octets.extend_from_slice(plain.as_bytes());
        let (what, after) = escape.split_at_checked(1).expect("something behind a backslash");
        rest = after;
        match what {
            "r" => octets.push(b'\r'),
            "n" => octets.push(b'\n'),
            "t" => octets.push(b'\t'),
            "0" => octets.push(0),
            "\\" => octets.push(b'\\'),
            "x" => {
                let (digits, after) = after.split_at_checked(2).expect("two digits");
                octets.push(u8::from_str_radix(digits, 16).unwrap());
                rest = after;
            }
            "{" => {
                let (repeat, after) = after.split_once('}').expect("a closing brace");
                let (times, text) = repeat.split_once('*').expect("a star");
                octets.extend(unescaped(text).repeat(times.parse().unwrap()));
                rest = after;
            }
            other => panic!("what is \\{other}?"),
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    octets
}
