//! What can go wrong in the store: for an operator or a caller (`StoreError`), and inside it (`Fault`).

use crate::record::RecordId;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store {}: in use by another process; stop it, or set store.path to another file", .0.display())]
    Locked(PathBuf),
    #[error("store {}: written by a newer mailsluice (version {found}, this one knows {known}); install that version again, or set store.path to another file", .path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("store {}: {source}; make it a place where the daemon may write, or set store.path to another one", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Which file, why, and how to mend it.
    #[error("store: {}: {source}: nothing was changed. {}, and start again", .path.display(), mend(.source))]
    CannotRead { path: PathBuf, source: io::Error },
    #[error("store {}: {what}", .path.display())]
    Failed { path: PathBuf, what: String },
    /// Nothing can be recorded at present; it mends itself when the cause is gone.
    #[error("the store cannot be used at present: {0}")]
    Degraded(String),
    #[error("record {0} is damaged and cannot be read")]
    Unreadable(RecordId),
    #[error("the store could not be read: {0}")]
    Damaged(String),
    #[error("{needed} octets of free space are needed for new files of the store, there are {free}; nothing was changed")]
    NoSpace { needed: u64, free: u64 },
    #[error("{0:?} is no address")]
    NotAnAddress(String),
    #[error("the store is closed")]
    Closed,
}

impl From<&Fault> for StoreError {
    /// What a running store answers.
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Damaged(what) => Self::Damaged(what.clone()),
            Fault::Closing => Self::Closed,
            Fault::NoSpace { needed, free } => Self::NoSpace { needed: *needed, free: *free },
            Fault::Full(what) | Fault::Io(what) => Self::Degraded(what.clone()),
            Fault::Disk(_) | Fault::CannotRead { .. } | Fault::Lost | Fault::Newer(_) | Fault::Locked => Self::Degraded(fault.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::from(&fault)
    }
}

fn mend(source: &io::Error) -> &'static str {
    use io::ErrorKind as K;
    match (source.kind(), source.raw_os_error()) {
        (_, Some(libc::EMFILE)) => "Let the daemon have more open files (LimitNOFILE=)",
        (_, Some(libc::ENFILE)) => "Let the machine have more open files (sysctl fs.file-max)",
        (K::OutOfMemory, _) => "Give it more memory",
        (K::PermissionDenied, _) => "Let the daemon's user read and write it (chown, chmod)",
        (K::IsADirectory | K::NotADirectory | K::InvalidInput, _) => "Move it away, or put the file itself in its place",
        _ => "Look at the disk (smartctl -a, dmesg)",
    }
}

/// The record could not be made durable; it stands in the log.
#[derive(Debug, thiserror::Error)]
#[error("the record could not be made durable")]
pub struct CommitFailed;

/// Why a transaction or an opening failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no space left: {0}")]
    Full(String),
    #[error("damaged: {0}")]
    Damaged(String),
    #[error("{0}")]
    Io(String),
    #[error("{0}")]
    Disk(io::Error),
    /// What a file holds is not known, which is no damage.
    #[error("{} cannot be read: {source}", .path.display())]
    CannotRead { path: PathBuf, source: io::Error },
    /// The file under the store's name is not the one that is open.
    #[error("the store's file was removed or replaced from outside")]
    Lost,
    #[error("written by a newer version ({0})")]
    Newer(u32),
    #[error("in use by another process")]
    Locked,
    #[error("{needed} octets of free space are needed, there are {free}")]
    NoSpace { needed: u64, free: u64 },
    #[error("closing")]
    Closing,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::Full(error.to_string())
        } else if matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            // redb's answers to a file that is none of its own, or cut short.
            Self::Damaged(error.to_string())
        } else {
            Self::Disk(error)
        }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        use redb::Error as E;
        let damaged = matches!(
            error,
            E::Corrupted(_)
                | E::RepairAborted
                | E::ValueTooLarge(_)
                | E::TableTypeMismatch { .. }
                | E::TypeDefinitionChanged { .. }
                | E::TableIsMultimap(_)
                | E::TableIsNotMultimap(_)
                | E::TableDoesNotExist(_)
                | E::TableExists(_)
        );
        if let E::Io(error) = error {
            Self::from(error)
        } else if damaged {
            Self::Damaged(error.to_string())
        } else {
            Self::Io(error.to_string())
        }
    }
}

impl From<redb::CursorError> for Fault {
    fn from(error: redb::CursorError) -> Self {
        match error {
            redb::CursorError::UnorderedKey => Self::Damaged("keys that do not rise".to_owned()),
            error @ (redb::CursorError::Storage(_) | _) => redb::Error::from(error).into(),
        }
    }
}

/// redb has an error for each of its works.
macro_rules! of_redb {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

of_redb!(DatabaseError TransactionError TableError StorageError CommitError CompactionError);

/// redb panics on some damaged files; that is damage as well.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    crate::log::meeting_panics(work).unwrap_or_else(|_| Err(Fault::Damaged("the database panicked".to_owned())))
}
