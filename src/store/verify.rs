//! Reads a whole store and changes nothing: `doctor --store`. Every page's checksum (redb's) and every record's (ours) is
//! compared. What redb would write on the way stays in memory. Logs nothing.

use super::changes::Changes;
use super::disk::{Backend, Disk, FileSystem};
use super::encoding;
use super::error::{Fault, StoreError};
use super::file::{RECORDS, split, whole};
use super::folder::{Files, SECRET, Span, secret_of};
use super::index::IndexKey;
use super::journal::{End, Frame, in_order, read_all};
use super::memory::Entry;
use super::undelivered::Undelivered;
use redb::{Builder, ReadableDatabase as _, ReadableTable as _, StorageBackend};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const CACHE_OCTETS: usize = 8 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Records that are as they were written.
    pub records: u64,
    /// Records that are not, or are missing.
    pub unreadable: u64,
    /// Files that are not as they were written, whatever that costs.
    pub damaged: Vec<PathBuf>,
    /// Files that a start could not read, and put out of the way.
    pub set_aside: Vec<PathBuf>,
}

/// Whether there is a store at a path, or one of an older version.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    let files = Files { disk: Arc::new(FileSystem), path: path.to_owned() };
    path.exists() || files.list().is_ok_and(|found| !found.spans.is_empty() || !found.journals.is_empty())
}

/// Verifies the store at a path. The daemon must not run on it meanwhile.
///
/// # Errors
/// It is in use or cannot be read.
pub fn verify(path: &Path) -> Result<Verified, StoreError> {
    let unreadable = |source| StoreError::Io { path: path.to_owned(), source };
    let path = &*super::place::resolved(path).map_err(unreadable)?;
    let files = Files { disk: Arc::new(FileSystem), path: path.to_owned() };
    let _lock = lock(&files).map_err(unreadable)?.ok_or_else(|| StoreError::Locked(path.to_owned()))?;
    let listing = files.list().map_err(unreadable)?;
    let mut found = Verified::default();
    if path.exists() {
        // Of an older version: the next start takes it over.
        found.count(path, None, Vec::new())?;
    }
    let is_within = |span| listing.spans.iter().any(|other| *other != span && other.holds(&span));
    let (mut through, mut frames) = (0, Vec::new());
    for path in listing.journals.iter().map(|slot| files.journal(*slot)) {
        let journal = read_all(&files.disk.read(&path).map_err(unreadable)?);
        frames.extend(journal.frames);
        if matches!(journal.end, End::Damaged | End::CutShort) {
            // One at least: how many there were cannot be told.
            found.unreadable += 1;
            found.damaged.push(path);
        }
    }
    for span in listing.spans.iter().copied().filter(|span| !is_within(*span)) {
        if through > 0 && span.first > through + 1 {
            found.unreadable += span.first - through - 1;
        }
        through = span.last;
        let in_journals = frames.iter().flat_map(|frame: &Frame| &frame.records).filter(|entry| span.has(entry.commit));
        found.count(&files.of(span), Some(span), in_journals.cloned().collect())?;
    }
    let (frames, lost) = in_order(frames, through);
    found.unreadable += lost;
    found.records += frames.iter().map(|frame| frame.records.len() as u64).sum::<u64>();
    found.look_beside(&files);
    found.set_aside = listing.aside;
    Ok(found)
}

impl Verified {
    /// Of a damaged file what a start would keep, with what the journals have of it.
    fn count(&mut self, path: &Path, span: Option<Span>, known: Vec<Entry>) -> Result<(), StoreError> {
        let open = || FileSystem.open_to_read(path).map_err(|source| StoreError::Io { path: path.to_owned(), source });
        let counted = match (records(open()?, span.is_some()), span) {
            (Err(Fault::Damaged(_)), Some(span)) => {
                self.damaged.push(path.to_owned());
                let most = span.last - span.first + 1;
                whole(&*open()?, span, known).map(|left| (left.len() as u64, most.saturating_sub(left.len() as u64)))
            }
            (counted, _) => counted,
        };
        let (whole, damaged) = counted.map_err(|fault| StoreError::Failed { path: path.to_owned(), what: fault.to_string() })?;
        self.records += whole;
        self.unreadable += damaged;
        Ok(())
    }

    /// Small files, each of which says of itself whether it is as it was written.
    fn look_beside(&mut self, files: &Files) {
        let mut look = |path: PathBuf, is_whole: &dyn Fn(&[u8]) -> bool| match files.disk.read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            octets if octets.as_ref().is_ok_and(|octets| is_whole(octets)) => {}
            Ok(_) | Err(_) => self.damaged.push(path),
        };
        for suffix in [".id-secret", ".index-key"] {
            look(files.beside(suffix), &|octets| secret_of(octets).is_some_and(|(_, is_whole)| is_whole));
        }
        let key = files.disk.read(&files.beside(".index-key")).ok();
        let key = key.and_then(|octets| secret_of(&octets)).map_or(IndexKey([0; SECRET]), |(key, _)| IndexKey(key));
        look(files.undelivered(), &|octets| Undelivered::decode(octets, &key).is_ok());
        look(files.changes(), &|octets| Changes::decode(octets).is_ok());
    }
}

/// Keeps the daemon from starting meanwhile; `None` if it runs. Without its lock file it never ran.
fn lock(files: &Files) -> io::Result<Option<Option<File>>> {
    // A fifo in its place is not waited for.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(files.beside(".lock"));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether each page of a file, and each record, is as it was written.
pub(super) fn look_through(disk: &dyn Disk, path: &Path) -> Result<(), Fault> {
    match records(disk.open_to_read(path)?, true)? {
        (_, 0) => Ok(()),
        (_, damaged) => Err(Fault::Damaged(format!("{damaged} records are not as they were written"))),
    }
}

/// How many records of a file are as they were written, and how many are not.
fn records(file: Box<dyn StorageBackend>, has_numbers: bool) -> Result<(u64, u64), Fault> {
    let file = Backend::new(file);
    file.told(|| {
        let mut database = Builder::new().set_cache_size(CACHE_OCTETS).create_with_backend(View::new(file.clone())?)?;
        if !database.check_integrity()? {
            return Err(Fault::Damaged("pages do not have their checksums".to_owned()));
        }
        let txn = database.begin_read()?;
        let table = match txn.open_table(RECORDS) {
            Err(redb::TableError::TableDoesNotExist(_)) if !has_numbers => return Ok((0, 0)),
            table => table?,
        };
        let (mut whole, mut damaged) = (0, 0);
        for item in table.iter()? {
            let (id, value) = item?;
            let octets = if has_numbers { split(value.value()).map_or(&[][..], |(_, octets)| octets) } else { value.value() };
            *if encoding::is_whole(id.value(), octets) { &mut whole } else { &mut damaged } += 1;
        }
        Ok((whole, damaged))
    })
}

/// A file as it is, and over it what has been written since, in memory.
#[derive(Debug)]
struct View {
    file: Backend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// Up to here the file's octets show through; a shorter length cuts them off for good.
    from_file: u64,
    /// Where each begins, the latest last: some hundred at the most, of a store that was not closed.
    pieces: Vec<(u64, Vec<u8>)>,
}

impl View {
    fn new(file: Backend) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Self { file, written: Mutex::new(Written { length, from_file: length, pieces: Vec::new() }) })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn distance(from: u64, to: u64) -> usize {
    usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (there, beyond) = out.split_at_mut(distance(offset, written.from_file).min(out.len()));
        self.file.read(offset, there)?;
        beyond.fill(0);
        for (at, data) in &written.pieces {
            let (to, from) = (out.iter_mut().skip(distance(offset, *at)), data.iter().skip(distance(*at, offset)));
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        // What is cut off comes back as zeros.
        written.from_file = written.from_file.min(length);
        written.pieces.iter_mut().for_each(|(at, data)| data.truncate(distance(*at, length)));
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let end = offset.saturating_add(data.len() as u64);
        written.pieces.retain(|(at, data)| *at < offset || end < at.saturating_add(data.len() as u64));
        written.pieces.push((offset, data.to_vec()));
        written.length = written.length.max(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Place, record};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn octets(n: u64) -> usize {
        usize::try_from(n).expect("a small file")
    }

    /// Some of the records in a file, some in the journal.
    fn filled(records: usize) -> Place {
        let place = Place::new();
        let store = place.open();
        for number in 0..records {
            if number == records / 2 {
                store.tidy().expect("a file");
            }
            store.commit(record(&store, number)).blocking_recv().expect("an answer").expect("durable");
        }
        store.close();
        place
    }

    fn files(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(place.directory()).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
    }

    #[test]
    fn a_sound_store_and_nothing_changes() {
        let place = filled(300);
        let before = files(&place);
        assert_eq!(verify(&place.config.path).expect("sound"), Verified { records: 300, ..Verified::default() });
        assert!(before == files(&place), "a file was changed");
        assert!(is_there(&place.config.path));
    }

    #[test]
    fn a_store_in_use_is_left_alone() {
        let place = filled(1);
        let store = place.open();
        assert!(matches!(verify(&place.config.path), Err(StoreError::Locked(_))));
        store.close();
    }

    #[test]
    fn any_changed_octet_of_a_record_is_found() {
        let place = filled(50);
        let (mut looked, mut found) = (0, 0);
        for (path, sound) in files(&place) {
            for at in memchr::memmem::find_iter(&sound, b"@example").step_by(9) {
                let mut damaged = sound.clone();
                damaged[at] ^= 1;
                std::fs::write(&path, &damaged).expect("it can be written");
                looked += 1;
                found += usize::from(verify(&place.config.path).map_or(true, |found| found.unreadable > 0 || found.records < 50));
            }
            std::fs::write(&path, &sound).expect("it can be written");
        }
        assert!(looked > 10 && looked == found, "{found} of {looked} damages were found");
    }

    #[test]
    fn no_store_at_all() {
        let place = Place::new();
        assert!(!is_there(&place.config.path));
        assert!(matches!(verify(&place.config.path), Err(StoreError::Io { .. })));
        std::fs::create_dir_all(place.directory()).expect("it can be made");
        std::fs::write(&place.config.path, "this is no store, but it is long enough to be one".repeat(200)).expect("it can be written");
        assert!(matches!(verify(&place.config.path), Err(StoreError::Failed { .. })));
    }

    proptest! {
        /// The view reads like a file that has been written, and the file is as it was.
        #[test]
        fn a_view_is_a_file(
            original in proptest::collection::vec(any::<u8>(), 0..20_000),
            steps in proptest::collection::vec((any::<bool>(), 0u64..24_000, proptest::collection::vec(any::<u8>(), 0..9000)), 0..12),
        ) {
            let folder = tempfile::tempdir().expect("a directory");
            let path = folder.path().join("file");
            std::fs::write(&path, &original).expect("it can be written");
            let view = View::new(Backend::new(FileSystem.open_to_read(&path).expect("a file"))).expect("its length");
            let mut model = original.clone();
            for (cut, at, data) in steps {
                if cut {
                    view.set_len(at).expect("memory");
                    model.resize(octets(at), 0);
                } else {
                    view.write(at, &data).expect("memory");
                    let end = octets(at) + data.len();
                    model.resize(model.len().max(end), 0);
                    model[octets(at)..end].copy_from_slice(&data);
                }
            }
            let mut read = vec![0; model.len()];
            prop_assert_eq!(view.len().expect("a length"), model.len() as u64);
            view.read(0, &mut read).expect("within");
            prop_assert!(read == model);
            prop_assert!(view.read(1, &mut read).is_err() || read.is_empty());
            prop_assert!(std::fs::read(&path).expect("the file") == original);
        }
    }
}
