//! Whether the daemon takes mail, as `/readyz` tells it. Set by `daemon`; nothing here fails or logs.

use std::sync::{Mutex, PoisonError};

/// The state of the whole daemon.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Readiness {
    /// The store is being opened, the listeners are not bound yet.
    #[default]
    Starting,
    Ready,
    /// SIGTERM came: messages in flight finish, no new mail.
    Draining,
    /// It runs but cannot take mail; the reason is one short line for the operator.
    Degraded(String),
}

impl Readiness {
    /// `None` when mail is taken, else the reason why not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Starting => Some("starting"),
            Self::Ready => None,
            Self::Draining => Some("draining"),
            Self::Degraded(reason) => Some(reason),
        }
    }
}

/// The current [`Readiness`], shared by all threads.
#[derive(Default)]
pub struct Ready(Mutex<Readiness>);

impl Ready {
    /// Draining is final: nothing but the end of the process comes after it.
    pub fn set(&self, state: Readiness) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != Readiness::Draining {
            *current = state;
        }
    }
    pub fn state(&self) -> Readiness {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{Readiness, Ready};

    #[test]
    fn draining_is_final() {
        let ready = Ready::default();
        assert_eq!(ready.state().reason(), Some("starting"));
        ready.set(Readiness::Degraded("store: disk full".into()));
        assert_eq!(ready.state().reason(), Some("store: disk full"));
        ready.set(Readiness::Ready);
        assert_eq!(ready.state().reason(), None);
        ready.set(Readiness::Draining);
        ready.set(Readiness::Ready);
        assert_eq!(ready.state().reason(), Some("draining"));
    }
}
