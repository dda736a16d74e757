//! A store that cannot be used: mail is put off, the file is opened anew with longer and longer waits, and mail flows again by itself.
//! Runs in the writer. Logs an error when it begins and a warning when it ends; a file that is found damaged again and again is set
//! aside (`open.rs`).

use super::commit::Writer;
use super::error::{Fault, guarded};
use super::open::Readable;
use super::{open, retention};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between two tries to use the store again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// So many damages, none of them long after the one before, and the file is given up.
const DAMAGES: u32 = 3;
const DAMAGE_REMEMBERED: Duration = Duration::from_secs(600);

/// Why nothing can be recorded at present.
pub(super) struct Trouble {
    pub(super) retry_at: Instant,
    wait: Duration,
    file: File,
}

/// What is to be done about the file.
#[derive(Clone, Copy, PartialEq)]
enum File {
    /// Nothing: only its disk has little space.
    Sound,
    /// redb wants it opened anew after any error.
    Broken,
    /// It has been opened to be read, until its disk has space for what the journal has.
    ToRead,
}

impl Writer {
    /// Whether the file is still where it was.
    pub(super) fn look_at_file(&mut self) -> Result<(), Fault> {
        let stat = self.shared.files.stat().map_err(lost)?;
        if stat.identity != self.stat.identity {
            return Err(Fault::Lost);
        }
        self.stat = stat;
        self.shared.stats.store.file_bytes.set(stat.length);
        Ok(())
    }

    /// Whether the journal is still where it was. Not asked with every commit: Linux gives a file whose times were asked for a new time at
    /// its next write, and that fsync then writes the inode as well.
    pub(super) fn look_at_journal(&self) -> Result<(), Fault> {
        let files = &self.shared.files;
        let stat = files.disk.stat(&files.journal()).map_err(lost)?;
        if stat.identity == self.journal.identity { Ok(()) } else { Err(Fault::Lost) }
    }

    pub(super) fn degrade(&mut self, fault: &Fault) {
        // Where space is low there mostly is enough for what has been acknowledged, and that is to be read meanwhile.
        let unsettled = if is_low(fault) && self.can_settle() { self.settle().err() } else { None };
        let fault = unsettled.as_ref().unwrap_or(fault);
        self.count_damage(fault);
        self.pass = None;
        self.begin_trouble(fault, if is_low(fault) { File::Sound } else { File::Broken });
    }

    /// The store was opened to be read only: the disk has no space for what the journal has.
    pub(super) fn start_full(&mut self, fault: &Fault) {
        self.begin_trouble(fault, File::ToRead);
    }

    fn begin_trouble(&mut self, fault: &Fault, file: File) {
        self.shared.set_trouble(Some(fault.to_string()));
        tracing::error!(store = %self.shared.files.path.display(), reason = %fault, "the store cannot be used: mail is answered 452 until it can");
        self.trouble = Some(Trouble { retry_at: Instant::now() + RETRY_FIRST, wait: RETRY_FIRST, file });
    }

    fn count_damage(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Damaged(_)) {
            let forgotten = self.last_damage.elapsed() > DAMAGE_REMEMBERED;
            self.damages = if forgotten { 1 } else { self.damages.saturating_add(1) };
            self.last_damage = Instant::now();
        }
    }

    pub(super) fn recover(&mut self) {
        let Some(mut trouble) = self.trouble.take() else { return };
        let recovered = self.reopen(&mut trouble).and_then(|()| self.make_room());
        match recovered {
            Ok(()) => {
                self.shared.set_trouble(None);
                tracing::warn!(store = %self.shared.files.path.display(), "the store can be used again");
            }
            Err(fault) => {
                self.count_damage(&fault);
                if trouble.file == File::Sound && !is_low(&fault) {
                    trouble.file = File::Broken;
                }
                trouble.wait = (trouble.wait * 2).min(RETRY_MOST);
                trouble.retry_at = Instant::now() + trouble.wait;
                self.shared.set_trouble(Some(fault.to_string()));
                self.trouble = Some(trouble);
            }
        }
    }

    /// Drops the database and opens it again; a lost directory is made anew, a file that stays damaged is set aside.
    fn reopen(&mut self, trouble: &mut Trouble) -> Result<(), Fault> {
        match trouble.file {
            File::Sound => return Ok(()),
            File::ToRead => self.room()?,
            File::Broken => {}
        }
        let shared = Arc::clone(&self.shared);
        let files = &shared.files;
        if let Err(error) = files.disk.can_write(&files.path)
            && !is_missing(&error)
        {
            // Not to be opened anyhow: what is open can still be read.
            return Err(error.into());
        }
        trouble.file = File::Broken;
        shared.unwatch();
        // A database that panicked may do so again when it is closed.
        guarded(|| {
            *shared.database_mut() = None;
            Ok(())
        })
        .unwrap_or(());
        self.lock_again()?;
        files.remove_leftovers()?;
        files.keep_secret(".id-secret", &shared.id_secret)?;
        files.keep_secret(".index-key", &shared.index_key.0)?;
        if self.damages >= DAMAGES && files.stat().is_ok() {
            open::set_aside(files, "it was found damaged again and again while in use")?;
            self.damages = 0;
        }
        let behind: Vec<_> = self.behind.iter().map(|pending| &pending.record).collect();
        let opened = open::open(files, shared.index_key, &shared.tuning, &behind)?;
        if let Some(full) = opened.full {
            self.take_over(opened.readable);
            trouble.file = File::ToRead;
            return Err(full);
        }
        self.behind.clear();
        shared.behind.store(false, Ordering::Release);
        self.journal = opened.journal;
        self.take_over(opened.readable);
        trouble.file = File::Sound;
        Ok(())
    }

    fn take_over(&mut self, opened: Readable) {
        let shared = Arc::clone(&self.shared);
        shared.ids.raise(opened.state.newest_id);
        self.stat = opened.stat;
        self.state = opened.state;
        shared.set_state(opened.state);
        self.count(opened.records, opened.undelivered);
        *shared.tail_mut() = opened.tail;
        *shared.database_mut() = Some(opened.database);
        shared.checkpointed.store(false, Ordering::Release);
    }

    /// The lock's file may have been removed with its directory, and then it keeps nobody away.
    fn lock_again(&mut self) -> Result<(), Fault> {
        let files = &self.shared.files;
        let path = files.beside(".lock");
        let identity = files.disk.stat(&path).ok().map(|stat| stat.identity);
        if self.lock.is_none() || identity.is_none() || identity != self.lock_identity {
            self.lock = None;
            self.lock = Some(files.lock()?);
            self.lock_identity = files.disk.stat(&path).ok().map(|stat| stat.identity);
        }
        Ok(())
    }
}

fn lost(error: std::io::Error) -> Fault {
    if is_missing(&error) { Fault::Lost } else { error.into() }
}

fn is_low(fault: &Fault) -> bool {
    matches!(fault, Fault::Full(what) if what == retention::LOW)
}

/// The file or a directory above it is gone.
fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}
