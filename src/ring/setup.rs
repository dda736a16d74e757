//! Making a ring: which flags this kernel takes, and an error that says what to change where none do.

use nix::libc;
use std::io;

/// Submission entries; an operation beyond them flushes the queue first.
const ENTRIES: u32 = 1024;
/// Completion entries; completions beyond them wait in the kernel.
const COMPLETION_ENTRIES: u32 = 4096;

/// Why there is no ring. Comes wrapped in an [`io::Error`].
#[derive(Debug)]
pub enum SetupError {
    Forbidden(io::Error),
    TooOld(io::Error),
    NoMemory(io::Error),
    NoDescriptor(io::Error),
    Other(io::Error),
}

impl SetupError {
    /// The two halves of its line: what is wrong, and how to mend it.
    #[must_use]
    pub fn what_and_mend(&self) -> (String, &'static str) {
        let (what, source, mend) = match self {
            Self::Forbidden(source) => (
                "io_uring is forbidden here",
                source,
                "set the sysctl kernel.io_uring_disabled=0; in a container, start it with the seccomp profile that allows io_uring (container.md); where the \
                 kernel has none, use Linux 5.19 or newer",
            ),
            Self::TooOld(source) => ("this kernel's io_uring lacks what is needed", source, "use Linux 5.19 or newer"),
            Self::NoMemory(source) => {
                ("no memory for an io_uring", source, "raise the locked memory limit (LimitMEMLOCK=, ulimit -l) or set fewer smtp.threads")
            }
            Self::NoDescriptor(source) => ("no descriptor left for an io_uring", source, "raise LimitNOFILE= (ulimit -n)"),
            Self::Other(source) => ("cannot make an io_uring", source, "use Linux 5.19 or newer"),
        };
        (format!("{what} ({source})"), mend)
    }

    /// What an error of this folder's is, if it is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, mend) = self.what_and_mend();
        write!(f, "{what}: {mend}")
    }
}

impl std::error::Error for SetupError {}

impl From<io::Error> for SetupError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Self::Forbidden(error),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::TooOld(error),
            Some(libc::ENOMEM) => Self::NoMemory(error),
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptor(error),
            _ => Self::Other(error),
        }
    }
}

impl From<SetupError> for io::Error {
    fn from(error: SetupError) -> Self {
        let kind = match &error {
            SetupError::Forbidden(_) => io::ErrorKind::PermissionDenied,
            SetupError::TooOld(_) => io::ErrorKind::Unsupported,
            SetupError::NoMemory(_) => io::ErrorKind::OutOfMemory,
            SetupError::NoDescriptor(source) | SetupError::Other(source) => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// The first of our configurations that this kernel takes. Tried on a bare ring, which is dropped again: the runtime's own
/// constructor leaks its epoll descriptors when the ring fails.
pub(super) fn builder() -> Result<tokio_uring::Builder, SetupError> {
    let base = tokio_uring::uring_builder().setup_cqsize(COMPLETION_ENTRIES).clone();
    // Not DEFER_TASKRUN: the runtime waits in epoll, never in the ring, and would not see its completions. Not SQPOLL: a kernel
    // thread per ring is dear on a small machine.
    let candidates = [base.clone().setup_single_issuer().setup_coop_taskrun().clone(), base.clone().setup_coop_taskrun().clone(), base];
    let mut last = None;
    for candidate in candidates {
        match candidate.build(ENTRIES) {
            Ok(_ring) => {
                let mut builder = tokio_uring::builder();
                builder.entries(ENTRIES).uring_builder(&candidate);
                return Ok(builder);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)).into())
}
