//! What the store asks of the file system, so that a simulation can stand in for it. Logs nothing; errors go to the caller as they are.

use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Only the daemon's user reads records and secrets.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

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

/// A held lock; letting go of it unlocks.
pub type Lock = Box<dyn Send + Sync>;

/// The operations of a file system that the store uses.
pub trait Disk: Send + Sync + 'static {
    /// A file for redb, made if it is missing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// Whether an existing file can be opened for writing: false on a file system that went read-only.
    fn can_write(&self, path: &Path) -> io::Result<()>;
    fn stat(&self, path: &Path) -> io::Result<FileStat>;
    /// A small file, whole.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// A small file, whole and durable or not at all.
    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()>;
    /// A file of zeros that has all its place on the disk.
    fn reserve(&self, path: &Path, length: u64) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
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

impl Disk for FileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend))
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
        let mut octets = Vec::new();
        File::open(path)?.take(64 * 1024).read_to_end(&mut octets)?;
        Ok(octets)
    }

    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&part)?;
        file.write_all(octets)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        self.sync_directory(directory_of(path))
    }

    fn reserve(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
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
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
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

/// A boxed backend as redb takes it.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    // The locks of redb are left out: `Disk::lock` keeps other processes away, also while the file is closed or replaced.
}
