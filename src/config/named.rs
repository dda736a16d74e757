//! The values that stand in files of their own, named by `*_file` keys. What a file said last is remembered: an empty or missing file keeps
//! it. Logs nothing.

use super::error::{ConfigError, Place};
use super::stamp::{self, Stamp};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// One configuration file's.
#[derive(Clone, Debug, Default)]
pub(super) struct NamedFiles(BTreeMap<PathBuf, Named>);

#[derive(Clone)]
struct Named {
    text: String,
    /// `None`: it may have changed since without its times showing it, or was not there.
    stamp: Option<Stamp>,
    /// Some value outside of the routes comes from it.
    beyond_routes: bool,
}

/// It holds secrets.
impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl NamedFiles {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text without white space at its end, read now; `old` says what it was.
    pub(super) fn read(&mut self, place: &Place, path: &Path, old: &Self, in_route: bool) -> Result<String, ConfigError> {
        if let Some(known) = self.0.get_mut(path) {
            known.beyond_routes |= !in_route;
            return Ok(known.text.clone());
        }
        let before = old.0.get(path);
        let stamp = Stamp::of(path).filter(Stamp::is_settled);
        let text = match (stamp::text(path), before) {
            (Ok(text), Some(before)) if text.trim_end().is_empty() => before.text.clone(),
            (Ok(text), _) => text.trim_end().to_owned(),
            (Err(_), Some(before)) => before.text.clone(),
            (Err(source), None) => return Err(ConfigError::NamedFile { place: place.clone(), file: path.to_owned(), source }),
        };
        self.0.insert(path.to_owned(), Named { text: text.clone(), stamp, beyond_routes: !in_route });
        Ok(text)
    }

    /// Which of the files say something else now.
    pub(super) fn look(&self, changes: &mut Changes) {
        for (path, named) in &self.0 {
            if named.stamp.is_some() && named.stamp == Stamp::of(path) {
                continue;
            }
            let text = stamp::text(path).unwrap_or_default();
            let text = text.trim_end();
            if !text.is_empty() && text != named.text {
                let mut hasher = DefaultHasher::new();
                (path, text).hash(&mut hasher);
                changes.mark ^= hasher.finish();
                changes.any = true;
                changes.beyond_routes |= named.beyond_routes;
            }
        }
    }
}

/// What values in files of their own say now and did not before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub any: bool,
    /// Not only values of routes.
    pub beyond_routes: bool,
    /// The same for the same changes.
    pub mark: u64,
}
