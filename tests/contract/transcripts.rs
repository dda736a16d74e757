//! Odd and hostile answers of endpoints, as data: `tests/answers/README.md` says how they are written.

use crate::support::client::deliver;
use crate::support::{Answer, Config, Daemon, Endpoint, messages};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One answer, and what is expected of it.
pub(crate) struct Transcript {
    pub(crate) name: String,
    pub(crate) octets: Vec<u8>,
    stays: bool,
    expected: BTreeMap<String, String>,
}

impl Transcript {
    #[track_caller]
    pub(crate) fn expected(&self, key: &str) -> &str {
        self.expected.get(key).unwrap_or_else(|| panic!("{}: no {key}", self.name))
    }

    /// Why others read it otherwise.
    pub(crate) fn explains(&self) -> bool {
        self.expected.contains_key("why")
    }

    pub(crate) fn answer(&self) -> Answer {
        if self.stays { Answer::Drip(self.octets.clone(), Duration::ZERO) } else { Answer::Octets(self.octets.clone()) }
    }
}

/// All of them, by name.
pub(crate) fn all() -> Vec<Transcript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Transcript {
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let (mut octets, mut expected) = (Vec::new(), BTreeMap::new());
    for line in std::fs::read_to_string(path).unwrap().lines() {
        if let Some(said) = line.strip_prefix("< ") {
            octets.extend(repeated(said));
        } else {
            let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{name}: {line:?}"));
            expected.insert(key.to_owned(), value.trim().to_owned());
        }
    }
    let stays = expected.get("then").is_some_and(|then| then == "stay");
    Transcript { name, octets, stays, expected }
}

fn repeated(said: &str) -> Vec<u8> {
    match said.strip_prefix('*').and_then(|rest| rest.split_once(' ')) {
        Some((times, said)) => unescaped(said).repeat(times.parse().unwrap()),
        None => unescaped(said),
    }
}

fn unescaped(said: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = said;
    while let Some(at) = rest.find('\\') {
        octets.extend_from_slice(&rest.as_bytes()[..at]);
        let (octet, len) = match &rest[at + 1..=at + 1] {
            "r" => (b'\r', 2),
            "n" => (b'\n', 2),
            "t" => (b'\t', 2),
            "0" => (0, 2),
            "x" => (u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap(), 4),
            other => panic!("\\{other}"),
        };
        octets.push(octet);
        rest = &rest[at + len..];
    }
    octets.extend_from_slice(rest.as_bytes());
    octets
}

#[test]
fn what_the_sender_is_told_and_what_the_record_says() {
    let transcripts = all();
    assert!(transcripts.len() >= 56, "{}", transcripts.len());
    let mut wrong = Vec::new();
    for transcript in &transcripts {
        let endpoint = Endpoint::always(transcript.answer());
        let daemon = Daemon::start(Config::to(&endpoint));
        let reply = deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &messages::simple("one", "text"));
        let record = daemon.admin.records("").remove(0);
        let response = &record["server_response"];
        let is = |key: &str, got: &str, whole: bool| {
            let expected = transcript.expected(key);
            if whole && got == expected || !whole && got.starts_with(expected) {
                None
            } else {
                Some(format!("{}: {key}: {got:?}", transcript.name))
            }
        };
        wrong.extend(is("reply", reply.text(), false));
        wrong.extend(is("outcome", record["outcome"].as_str().unwrap(), true));
        wrong.extend(is("status", &response["status"].to_string(), true));
        wrong.extend(is("body", response["body"].as_str().unwrap(), false));
        assert_eq!(endpoint.count(), 1, "{}: never POSTed again", transcript.name);
        assert!(response["content_type"].as_str().is_none_or(|kept| kept.len() <= 255), "{}", transcript.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
