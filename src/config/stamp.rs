//! A file's text, and what changes with it. Logs nothing; a file that is not there has no stamp.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file that was changed so shortly before it was read may be changed again without its times showing it.
const SETTLED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The text of a file. A pipe or a device may never end; what is linked to `/dev/null` has none.
pub(super) fn text(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() && std::fs::canonicalize(path)? != Path::new("/dev/null") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
    }
    std::fs::read_to_string(path)
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// As long as nothing else is seen, what has been read is what the file says.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or_default());
        now.checked_sub(changed).is_some_and(|age| age > SETTLED)
    }
}
