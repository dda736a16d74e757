//! The names of a store's files, and the disk they are on.
//!
//! | file | what |
//! |---|---|
//! | `records.redb` (as configured) | only a name; a store of before 0.2 stands under it until it has been taken over |
//! | `….<first>-<last>` | the records with these commit numbers; never written again |
//! | `….<first>-<last>.new`, `….part` | one that is being made; removed at the next start if it was cut off |
//! | `….journal-<n>` | the last records, before a file has them |
//! | `….undelivered` | what is derived of the records: messages that no endpoint has taken or refused |
//! | `….changes` | changes.rs; only while records are brought elsewhere |
//! | `….lock` | held while the daemon runs |
//! | `….id-secret`, `….index-key` | 32 random octets each, made once; twice, each with its checksum |
//! | `….ballast` | zeros, given up on a full disk so that the last records find their place |
//! | `….unreadable-<time>` | a file that could not be read; removed by `forget` or after `retention` |
//!
//! Logs a file that was set aside.

use super::disk::{Disk, Lock, directory_of};
use super::encoding;
use super::error::Fault;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const SECRET: usize = 32;
const SECRET_KEY: u128 = 5;

/// Commit numbers of a file's records: the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    pub(super) fn has(&self, number: u64) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

#[derive(Clone)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
}

/// What lies in a store's directory.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) spans: Vec<Span>,
    pub(super) journals: Vec<u32>,
    pub(super) unfinished: Vec<PathBuf>,
    pub(super) aside: Vec<PathBuf>,
}

impl Files {
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    pub(super) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    pub(super) fn of(&self, span: Span) -> PathBuf {
        self.beside(&format!(".{}-{}", span.first, span.last))
    }

    pub(super) fn unfinished(&self, span: Span) -> PathBuf {
        self.beside(&format!(".{}-{}.new", span.first, span.last))
    }

    pub(super) fn journal(&self, slot: u32) -> PathBuf {
        self.beside(&format!(".journal-{slot}"))
    }

    pub(super) fn unfinished_journal(&self, slot: u32) -> PathBuf {
        self.beside(&format!(".journal-{slot}.part"))
    }

    pub(super) fn undelivered(&self) -> PathBuf {
        self.beside(".undelivered")
    }

    pub(super) fn changes(&self) -> PathBuf {
        self.beside(".changes")
    }

    pub(super) fn ballast(&self) -> PathBuf {
        self.beside(".ballast")
    }

    pub(super) fn lock(&self) -> Result<Lock, Fault> {
        self.disk.create_directory(self.directory())?;
        let path = self.beside(".lock");
        match self.disk.lock(&path) {
            Err(source) if matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory) => {
                Err(Fault::CannotRead { path, source })
            }
            lock => lock?.ok_or(Fault::Locked),
        }
    }

    pub(super) fn remove_if_there(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether this very file stands under a name. One that cannot be looked at just now does.
    pub(super) fn has(&self, path: &Path, identity: (u64, u64)) -> bool {
        match self.disk.stat(path) {
            Ok(stat) => stat.identity == identity,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync_directory(self.directory())
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut found = Listing::default();
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for path in self.disk.list(self.directory())? {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(rest) = file.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let span = |text: &str| {
                let (first, last) = text.split_once('-')?;
                let span = Span { first: first.parse().ok()?, last: last.parse().ok()? };
                (span.first <= span.last).then_some(span)
            };
            if rest.ends_with(".new") || rest.ends_with(".part") || rest == "new" {
                found.unfinished.push(self.beside(&format!(".{rest}")));
            } else if let Some(slot) = rest.strip_prefix("journal-") {
                found.journals.extend(slot.parse::<u32>());
            } else if rest.starts_with("unreadable-") {
                found.aside.push(self.beside(&format!(".{rest}")));
            } else {
                found.spans.extend(span(rest));
            }
        }
        found.spans.sort_unstable();
        found.journals.sort_unstable();
        Ok(found)
    }

    /// Gives a file that cannot be read another name, once; loudly. It stands under its own as well until another one takes its place: what is
    /// cut off before begins again.
    pub(super) fn keep_aside(&self, path: &Path, what: &str) -> Result<(), Fault> {
        let Ok(stat) = self.disk.stat(path) else { return Ok(()) };
        if self.list()?.aside.iter().any(|aside| self.has(aside, stat.identity)) {
            return Ok(());
        }
        let now = jiff::Timestamp::from_microsecond(self.disk.clock_us()).unwrap_or_default();
        let aside = self.beside(&format!(".unreadable-{}", now.strftime("%Y%m%dT%H%M%S.%6fZ")));
        // Some file systems have no links.
        self.disk.link(path, &aside).or_else(|_| self.disk.rename(path, &aside))?;
        self.sync()?;
        tracing::error!(
            file = %path.display(), set_aside = %aside.display(), reason = what,
            "a file of the record store cannot be read: it was set aside. Copy it away if you want to look into it, since the next `forget` \
             removes it, and the end of `retention` as well"
        );
        Ok(())
    }

    /// The same, and its own name is free.
    pub(super) fn set_aside(&self, path: &Path, what: &str) -> Result<(), Fault> {
        self.keep_aside(path, what)?;
        self.remove_if_there(path)?;
        Ok(self.sync()?)
    }

    /// A secret of 32 octets, made at its first use; and whether it was there.
    pub(super) fn secret(&self, suffix: &str) -> Result<([u8; SECRET], bool), Fault> {
        let path = self.beside(suffix);
        let octets = match self.disk.read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = self.disk.random()?;
                self.disk.write(&path, &twice(&secret))?;
                return Ok((secret, false));
            }
            octets => octets?,
        };
        let (secret, is_whole) = secret_of(&octets).ok_or_else(|| {
            Fault::Io(format!("{} is damaged; put it back from a backup, or remove it and another one is made", path.display()))
        })?;
        if !is_whole {
            tracing::error!(
                file = %path.display(), "one of two copies of a secret is damaged: it is written anew. Look at the disk (smartctl -a, dmesg)"
            );
        }
        if octets != twice(&secret) {
            self.disk.write(&path, &twice(&secret))?;
        }
        Ok((secret, true))
    }

    /// Puts a secret back that was removed under a running daemon.
    pub(super) fn keep_secret(&self, suffix: &str, secret: &[u8; SECRET]) -> io::Result<()> {
        let path = self.beside(suffix);
        match self.disk.stat(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.write(&path, &twice(secret)),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A secret as its file has it.
fn twice(secret: &[u8; SECRET]) -> Vec<u8> {
    encoding::summed(SECRET_KEY, secret.to_vec()).repeat(2)
}

/// The secret that a file holds, and whether both copies of it are whole.
pub(super) fn secret_of(octets: &[u8]) -> Option<([u8; SECRET], bool)> {
    // As version 0.1 has it: bare.
    if let Ok(bare) = octets.try_into() {
        return Some((bare, true));
    }
    let mut copies = octets.chunks(SECRET + encoding::CHECKSUM).flat_map(|copy| encoding::checked(SECRET_KEY, copy));
    let secret = copies.find_map(|copy| copy.try_into().ok())?;
    Some((secret, octets == twice(&secret)))
}
