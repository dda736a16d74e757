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
            Some(what) => notices.insert(about, Notice { since, what }),
            None => notices.remove(about),
        };
        true
    }

    /// All that stand, in the order of what they are about.
    pub fn all(&self) -> Vec<Notice> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
