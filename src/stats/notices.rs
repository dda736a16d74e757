//! What is wrong and stays so until somebody mends it, one sentence each: shown by `/notices` and the page. Holds no URL and no secret.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By what each is about.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<&'static str, String>>);

impl Notices {
    /// `None`: mended. True where that is news.
    pub fn set(&self, about: &'static str, sentence: Option<String>) -> bool {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.get(about) == sentence.as_ref() {
            return false;
        }
        match sentence {
            Some(sentence) => notices.insert(about, sentence),
            None => notices.remove(about),
        };
        true
    }

    /// All that stand, in the order of what they are about.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
