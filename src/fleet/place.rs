//! The fleet's few files beside the store: this box's identity, and how far each sink has been brought. Small, replaced whole.
//!
//! A cursor that is lost or too old costs nothing but time: what is brought twice is there once. Logs a cursor that cannot be kept.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const MODE: u32 = 0o600;

/// Files named after the store's path.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn beside(store: &Path) -> Self {
        Self(store.to_owned())
    }

    /// Of this box: 128 random bits, made once.
    pub(super) fn identity(&self) -> io::Result<u128> {
        let read = || std::fs::read_to_string(self.of("box")).ok().and_then(|text| u128::from_str_radix(text.trim(), 16).ok());
        if let Some(identity) = read() {
            return Ok(identity);
        }
        let identity = random()?;
        self.write("box", &format!("{identity:032x}\n"))?;
        Ok(identity)
    }

    /// How far a sink has been brought, how many records it will never have, and how many it has mended.
    pub(super) fn progress(&self, sink: &str) -> Option<(u64, u64, u64)> {
        let text = std::fs::read_to_string(self.of(sink)).ok()?;
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    pub(super) fn keep_progress(&self, sink: &str, (cursor, lost, mended): (u64, u64, u64)) {
        if let Err(error) = self.write(sink, &format!("{cursor} {lost} {mended}\n")) {
            tracing::warn!(sink, %error, "how far the records were brought could not be kept: after a restart some are brought again");
        }
    }

    fn of(&self, what: &str) -> PathBuf {
        let mut name = self.0.as_os_str().to_owned();
        name.push(format!(".fleet-{what}"));
        name.into()
    }

    fn write(&self, what: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.of(what), self.of(&format!("{what}.new")));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(new, path)
    }
}

pub(super) fn random() -> io::Result<u128> {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| io::Error::other("the machine gives no random octets"))?;
    Ok(u128::from_be_bytes(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_cursors_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::beside(&dir.path().join("records.redb"));
        let identity = place.identity().unwrap();
        assert_eq!(place.identity().unwrap(), identity);
        assert_eq!(place.progress("postgres"), None);
        place.keep_progress("postgres", (7, 1, 2));
        assert_eq!((place.progress("postgres"), place.progress("otlp")), (Some((7, 1, 2)), None));
    }
}
