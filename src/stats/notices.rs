//! What is wrong and stays so until somebody mends it, one sentence each: shown by `/notices` and the page. Holds no URL and no secret.

use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By what each is about.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<&'static str, Notice>>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// When it was first seen; the sentence may have changed since.
    pub since: Timestamp,
    pub what: String,
    /// Where there is little room.
    pub brief: String,
}

impl Notices {
    /// `None`: mended. True where that is news.
    pub fn set(&self, about: &'static str, sentence: Option<String>) -> bool {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = notices.get(about);
        if before.map(|notice| &notice.what) == sentence.as_ref() {
            return false;
        }
        let since = before.map_or_else(Timestamp::now, |notice| notice.since);
        match sentence {
            Some(what) => notices.insert(about, Notice { since, brief: brief(&what), what }),
            None => notices.remove(about),
        };
        true
    }

    /// All that stand, in the order of what they are about.
    pub fn all(&self) -> Vec<Notice> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The sentence without the folder that it may begin with, up to what explains it.
fn brief(what: &str) -> String {
    let end = [": ", " (", ", "].iter().filter_map(|mark| what.find(mark)).min().unwrap_or(what.len());
    let brief = what.get(..end).unwrap_or(what);
    match brief.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((_, name)) => name.to_owned(),
        None => brief.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_few_words() {
        let table = [
            ("/etc/ssl/mx.pem expired 4 days ago: senders that look at it defer their mail", "mx.pem expired 4 days ago"),
            (
                "an endpoint takes more than half of its timeout (route a: 1.2 s of 2 s): raise it",
                "an endpoint takes more than half of its timeout",
            ),
            ("the next start fails", "the next start fails"),
        ];
        for (what, expected) in table {
            assert_eq!(brief(what), expected);
        }
    }
}
