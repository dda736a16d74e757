//! Why a call has no answer, and how far it came. Pure.

use super::address::NOT_PUBLIC;
use std::fmt;
use std::io::{self, ErrorKind};

/// What was being done when a call ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking for the host's addresses.
    Name,
    Connect,
    Tls,
    /// Octets of the request are on their way.
    Sending,
    /// The request is out, the answer's status line and header are not all here.
    Waiting,
}

impl Phase {
    /// Whether octets of the request may have come to the other side.
    #[must_use]
    pub fn is_reached(self) -> bool {
        matches!(self, Self::Sending | Self::Waiting)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "TLS",
            Self::Sending => "sending",
            Self::Waiting => "waiting",
        })
    }
}

/// There was no complete status line and header before the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    pub phase: Phase,
    /// One short line.
    pub why: String,
}

impl NoAnswer {
    pub(super) fn new(phase: Phase, why: impl Into<String>) -> Self {
        Self { phase, why: why.into() }
    }

    pub(super) fn of(phase: Phase, error: &io::Error) -> Self {
        Self::new(phase, if is_late(error) { "timed out".to_owned() } else { error.to_string() })
    }

    /// Only addresses that may not be asked: a redirect's rule.
    pub(super) fn not_public() -> Self {
        Self::new(Phase::Connect, NOT_PUBLIC)
    }

    pub(super) fn is_not_public(&self) -> bool {
        self.why == NOT_PUBLIC
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.why)
    }
}

/// Our deadline, not the kernel's.
pub(super) fn is_late(error: &io::Error) -> bool {
    error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none()
}
