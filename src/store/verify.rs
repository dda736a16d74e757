//! Reads a whole store and changes nothing: `doctor --store`. Every page's checksum (redb's) and every record's (ours) is
//! compared. What redb would write on the way stays in memory. Logs nothing.

use super::disk::FileSystem;
use super::encoding;
use super::error::{Fault, StoreError, guarded};
use super::file::{RECORDS, split};
use super::folder::Files;
use super::journal::{Frame, read_all};
use redb::{Builder, ReadableDatabase as _, ReadableTable as _, StorageBackend};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

const CACHE_OCTETS: usize = 64 << 20;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records that are as they were written.
    pub records: u64,
    pub unreadable: u64,
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
    let mut found = Verified { records: 0, unreadable: 0 };
    if path.exists() {
        // Of an older version: the next start takes it over.
        count(&mut found, path, false)?;
    }
    let is_within = |span| listing.spans.iter().any(|other| *other != span && other.holds(&span));
    let mut through = 0;
    for span in listing.spans.iter().copied().filter(|span| !is_within(*span)) {
        if through > 0 && span.first > through + 1 {
            found.unreadable += span.first - through - 1;
        }
        through = span.last;
        count(&mut found, &files.of(span), true)?;
    }
    let mut frames: Vec<Frame> = Vec::new();
    for slot in &listing.journals {
        frames.extend(read_all(&std::fs::read(files.journal(*slot)).map_err(unreadable)?));
    }
    frames.sort_by_key(|frame| frame.first);
    for frame in frames {
        let end = frame.records.last().map_or(frame.after, |entry| entry.commit);
        if end <= through {
            continue;
        }
        // Whole frames behind one that is not prove that it was damaged.
        if through > 0 {
            found.unreadable += frame.after.saturating_sub(through);
        }
        found.records += frame.records.len() as u64;
        through = end;
    }
    Ok(found)
}

/// A file that cannot be read at all counts as one that is damaged.
fn count(found: &mut Verified, path: &Path, has_numbers: bool) -> Result<(), StoreError> {
    let file = File::open(path).and_then(View::new).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    guarded(|| records(found, file, has_numbers)).map_err(|fault| StoreError::Failed { path: path.to_owned(), what: fault.to_string() })
}

/// Keeps the daemon from starting meanwhile; `None` if it runs. Without its lock file it never ran.
fn lock(files: &Files) -> io::Result<Option<Option<File>>> {
    let file = match File::open(files.beside(".lock")) {
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

fn records(found: &mut Verified, view: View, has_numbers: bool) -> Result<(), Fault> {
    let opened = Builder::new().set_cache_size(CACHE_OCTETS).create_with_backend(view);
    let mut database = opened.map_err(|error| Fault::from(redb::Error::from(error)))?;
    if !database.check_integrity().map_err(|error| Fault::from(redb::Error::from(error)))? {
        return Err(Fault::Damaged("pages do not have their checksums".to_owned()));
    }
    let txn = database.begin_read().map_err(redb::Error::from)?;
    let table = match txn.open_table(RECORDS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(redb::Error::from(error).into()),
    };
    for item in table.iter().map_err(redb::Error::from)? {
        let (id, value) = item.map_err(redb::Error::from)?;
        let octets = if has_numbers { split(value.value()).map_or(&[][..], |(_, octets)| octets) } else { value.value() };
        if encoding::is_whole(id.value(), octets) {
            found.records += 1;
        } else {
            found.unreadable += 1;
        }
    }
    Ok(())
}

const PAGE: usize = 4096;

/// A file as it is, and over it what has been written since, in memory.
#[derive(Debug)]
struct View {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// Up to here the file's octets show through; a shorter length cuts them off for good.
    from_file: u64,
    pages: BTreeMap<u64, [u8; PAGE]>,
}

impl View {
    fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, written: Mutex::new(Written { length, from_file: length, pages: BTreeMap::new() }) })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One page: as written, else as in the file, zeros beyond it.
    fn page(&self, written: &Written, number: u64) -> io::Result<[u8; PAGE]> {
        if let Some(page) = written.pages.get(&number) {
            return Ok(*page);
        }
        let mut page = [0; PAGE];
        let start = number.saturating_mul(PAGE as u64);
        let there = usize::try_from(written.from_file.saturating_sub(start)).unwrap_or(PAGE).min(PAGE);
        self.file.read_exact_at(page.get_mut(..there).unwrap_or_default(), start)?;
        Ok(page)
    }

    /// The pages of a range, each with the part of it that belongs to the range.
    fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let left = length.checked_sub(done).filter(|&left| left > 0)?;
            let at = offset.checked_add(u64::try_from(done).ok()?)?;
            let within = usize::try_from(at % PAGE as u64).ok()?;
            let here = left.min(PAGE - within);
            let piece = (at / PAGE as u64, within..within + here, done..done + here);
            done += here;
            Some(piece)
        })
    }
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
        for (number, within, outside) in Self::pieces(offset, out.len()) {
            let page = self.page(&written, number)?;
            if let (Some(to), Some(from)) = (out.get_mut(outside), page.get(within)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            // What is cut off comes back as zeros.
            let last = length / PAGE as u64;
            let mut page = self.page(&written, last)?;
            let kept = usize::try_from(length % PAGE as u64).unwrap_or(PAGE);
            page.get_mut(kept..).unwrap_or_default().fill(0);
            written.pages.retain(|number, _| *number < last);
            written.pages.insert(last, page);
            written.from_file = written.from_file.min(last * PAGE as u64);
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, within, outside) in Self::pieces(offset, data.len()) {
            let mut page = self.page(&written, number)?;
            if let (Some(to), Some(from)) = (page.get_mut(within), data.get(outside)) {
                to.copy_from_slice(from);
            }
            written.pages.insert(number, page);
        }
        written.length = written.length.max(offset.saturating_add(data.len() as u64));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Place, record};
    use super::*;
    use proptest::prelude::*;

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

    fn files(place: &Place) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(place.directory()).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
    }

    #[test]
    fn a_sound_store_and_nothing_changes() {
        let place = filled(300);
        let before = files(&place);
        assert_eq!(verify(&place.config.path).expect("sound"), Verified { records: 300, unreadable: 0 });
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
            let view = View::new(File::open(&path).expect("a file")).expect("its length");
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
