//! What the store asks of the file system, so that a simulation can stand in for it. Logs nothing; errors go to the caller as they are.

use super::error::{Fault, guarded};
use super::machine::Machine;
use memmap2::MmapMut;
use redb::StorageBackend;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Only the daemon's user reads records and secrets.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
const READ_MOST: u64 = 1 << 30;
/// A disk has done with so much in a moment: a durable write of the journal waits for no more than it.
const BURST: usize = 512 << 10;

/// What is known of a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    pub length: u64,
    /// Octets that have a place on the disk; less than `length` for a file with holes.
    pub backed: u64,
    /// Device and inode: another file under the same name differs.
    pub identity: (u64, u64),
    pub modified: std::time::SystemTime,
}

/// A file of which each write is durable when it returns: an error belongs to its write and to no other.
pub trait DurableFile: Send + std::fmt::Debug {
    fn length(&self) -> io::Result<u64>;
    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<()>;
    /// Whole pages, at the start of a page; behind the end they make the file longer.
    fn write(&mut self, at: u64, pages: &[u8]) -> io::Result<()>;
}

/// A held lock; letting go of it unlocks.
pub type Lock = Box<dyn Send + Sync>;

/// The operations of a file system that the store uses.
pub trait Disk: Machine + 'static {
    /// A file for redb, made if it is missing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// A file that is there, to be read only.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// A file whose writes are durable, made if it is missing.
    fn open_durable(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Whether an existing file can be opened for writing: false on a file system that went read-only.
    fn can_write(&self, path: &Path) -> io::Result<()>;
    fn stat(&self, path: &Path) -> io::Result<FileStat>;
    /// A file, whole: none of those that are read so is large.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// A file, whole and durable or not at all.
    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()>;
    /// A file of zeros that has all its place on the disk.
    fn reserve(&self, path: &Path, length: u64) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Another name for the same file.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames and removals in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Octets that an ordinary user may still write in a directory's file system.
    fn free_space(&self, directory: &Path) -> io::Result<u64>;
    /// `None` if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl Machine for FileSystem {}

impl Disk for FileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Plain::of(to_write().truncate(false).read(true).open(path))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Plain::of(OpenOptions::new().read(true).custom_flags(ITSELF).open(path))
    }

    fn open_durable(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let open = |flags| to_write().truncate(false).read(true).custom_flags(flags | ITSELF).open(path);
        // Past the page cache where the file system takes that (tmpfs did not before Linux 6.6).
        let file = open(libc::O_DSYNC | libc::O_DIRECT).or_else(|error| {
            let not_here = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported);
            if not_here { open(libc::O_DSYNC) } else { Err(error) }
        });
        Ok(Box::new(Direct { file: ordinary(file)?, aligned: MmapMut::map_anon(PAGE)? }))
    }

    fn can_write(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().read(true).write(true).open(path).map(drop)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let metadata = std::fs::metadata(path)?;
        // st_blocks counts units of 512 octets on Linux, whatever the file system's block size.
        Ok(FileStat {
            length: metadata.len(),
            backed: metadata.blocks().saturating_mul(512),
            identity: (metadata.dev(), metadata.ino()),
            modified: metadata.modified()?,
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = ordinary(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path))?;
        let (length, mut octets) = (file.metadata()?.len(), Vec::new());
        file.take(READ_MOST).read_to_end(&mut octets)?;
        if (octets.len() as u64) < length.min(READ_MOST) { Err(short()) } else { Ok(octets) }
    }

    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut file = ordinary(to_write().truncate(true).open(&part))?;
        file.write_all(octets)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        self.sync_directory(directory_of(path))
    }

    fn reserve(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut file = ordinary(to_write().truncate(true).open(path))?;
        // Written, not fallocated: that also holds place where a file system compresses or cannot reserve.
        let written = io::copy(&mut io::repeat(0).take(length), &mut file).and_then(|_| file.sync_all());
        if written.is_err() {
            // Half a reserve on a full disk would only be in the way.
            std::fs::remove_file(path)?;
        }
        written
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn free_space(&self, directory: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(directory)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = ordinary(to_write().truncate(false).read(true).open(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The directory a file stands in; `.` for a bare name.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What stands under a name itself, not what a link leads to: an erasure would not get there. And no fifo, which nobody may ever write to.
const ITSELF: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Makes a file where none is.
fn to_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(FILE_MODE).custom_flags(ITSELF);
    options
}

fn ordinary(opened: io::Result<File>) -> io::Result<File> {
    let is_link = opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ELOOP));
    if is_link || !opened.as_ref().map_or(Ok(true), |file| file.metadata().map(|metadata| metadata.is_file()))? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file"));
    }
    opened
}

fn short() -> io::Error {
    io::Error::other("the disk gave less than the file has")
}

/// An end of the file is one only where its length says so.
fn unless_cut_off(file: &File, at: u64, length: usize, error: io::Error) -> io::Error {
    let is_there = || file.metadata().is_ok_and(|metadata| metadata.len() >= at.saturating_add(length as u64));
    if error.kind() == io::ErrorKind::UnexpectedEof && is_there() { short() } else { error }
}

/// A file as redb wants it. What is written goes to the disk on the way: all of it at once, at the end, would hold up every other write.
#[derive(Debug)]
struct Plain {
    file: File,
    unsynced: AtomicUsize,
}

impl Plain {
    fn of(file: io::Result<File>) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Self { file: ordinary(file)?, unsynced: AtomicUsize::new(0) }))
    }
}

impl StorageBackend for Plain {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| unless_cut_off(&self.file, offset, out.len(), error))
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        let unsynced = self.unsynced.fetch_add(data.len(), Ordering::Relaxed).saturating_add(data.len());
        if unsynced < BURST { Ok(()) } else { self.sync_data() }
    }
}

const PAGE: usize = 4096;

/// A file opened with `O_DSYNC`, and `O_DIRECT` if it may be.
#[derive(Debug)]
struct Direct {
    file: File,
    /// `O_DIRECT` wants memory that begins with a page.
    aligned: MmapMut,
}

impl Direct {
    fn room(&mut self, length: usize) -> io::Result<()> {
        if self.aligned.len() < length {
            self.aligned = MmapMut::map_anon(length.next_multiple_of(PAGE))?;
        }
        Ok(())
    }
}

impl DurableFile for Direct {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let length = out.len().next_multiple_of(PAGE);
        self.room(length)?;
        let mut done = 0;
        while done < out.len() {
            let into = self.aligned.get_mut(done..length).unwrap_or_default();
            match self.file.read_at(into, at.saturating_add(done as u64)) {
                Ok(0) => return Err(unless_cut_off(&self.file, at, out.len(), io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.copy_from_slice(self.aligned.get(..out.len()).unwrap_or_default());
        Ok(())
    }

    fn write(&mut self, at: u64, pages: &[u8]) -> io::Result<()> {
        self.room(pages.len())?;
        let aligned = self.aligned.get_mut(..pages.len()).unwrap_or_default();
        aligned.copy_from_slice(pages);
        self.file.write_all_at(aligned, at)
    }
}

/// A file as redb takes it; it stays open when redb is done with it. Keeps the first error of the disk: what redb makes of it may look like
/// damage.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<dyn StorageBackend>,
    error: Arc<Mutex<Option<io::Error>>>,
}

impl Backend {
    pub(super) fn new(file: impl Into<Arc<dyn StorageBackend>>) -> Self {
        Self { file: file.into(), error: Arc::default() }
    }

    /// What redb does with the file. An error of the disk is told as that, whatever redb makes of it.
    pub(super) fn told<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        guarded(work).map_err(|fault| self.error.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(fault, Fault::from))
    }

    /// The same error, once to be kept and once for redb.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let same = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            same
        })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.note(self.file.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.file.read(offset, out))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.note(self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.file.write(offset, data))
    }
    // The locks of redb are left out: `Disk::lock` keeps other processes away, also while the file is closed or replaced.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_file_gives_back_what_was_written_whatever_the_memory_begins_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let octets: Vec<u8> = (0..5 * PAGE + 1).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut file = FileSystem.open_durable(&path).unwrap();
        file.write(0, &octets[..4 * PAGE]).unwrap();
        file.write(PAGE as u64, &octets[1..=PAGE]).unwrap();
        drop(file);
        let mut file = FileSystem.open_durable(&path).unwrap();
        assert_eq!(file.length().unwrap(), 4 * PAGE as u64);
        let mut read = vec![0; 2 * PAGE - 7];
        file.read(0, &mut read).unwrap();
        assert!(read[..PAGE] == octets[..PAGE] && read[PAGE..] == octets[1..PAGE - 6]);
        assert_eq!(file.read(3 * PAGE as u64, &mut read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let to_read = FileSystem.open_to_read(&path).unwrap();
        to_read.read(3, &mut read).unwrap();
        assert!(to_read.write(0, &[1]).is_err() && to_read.set_len(0).is_err());
        assert!(FileSystem.open_to_read(&folder.path().join("none")).is_err());
    }
}
