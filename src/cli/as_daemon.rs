//! Looking as the daemon's own user does: root can read what the daemon cannot, so a file that is fine for root says nothing.
//!
//! Only the effective ids change, and come back: what needs root in between (a port below 1024) is done by [`AsDaemon::as_root`].

use nix::unistd::{Gid, Uid, User, geteuid, setegid, seteuid, setgroups};
use std::path::Path;

/// The unit's user, and where its configuration lies.
const USER: &str = "mailsluice";
const FOLDER: &str = "/etc/mailsluice";

/// As long as it lives, the process is the daemon's user where that makes a difference.
pub(super) struct AsDaemon {
    user: Option<User>,
}

impl AsDaemon {
    /// For the package's own configuration, by root, where its user is there; else nothing changes.
    pub(super) fn enter(config: Option<&Path>) -> Self {
        let packaged = config.is_some_and(|path| path.starts_with(FOLDER)) && geteuid().is_root();
        let user = if packaged { User::from_name(USER).ok().flatten() } else { None };
        let entered = Self { user };
        if entered.become_user().is_err() {
            entered.become_root();
            return Self { user: None };
        }
        entered
    }

    /// Whose eyes these are, if they are not the caller's.
    pub(super) fn name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.name.as_str())
    }

    /// Does something that the unit may and its user alone may not.
    pub(super) fn as_root<T>(&self, work: impl FnOnce() -> T) -> T {
        self.become_root();
        let done = work();
        // It was possible before.
        self.become_user().unwrap_or(());
        done
    }

    fn become_user(&self) -> nix::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        setgroups(&[user.gid])?;
        setegid(user.gid)?;
        seteuid(user.uid)
    }

    fn become_root(&self) {
        if self.user.is_some() {
            // The real user is root still, who may always do this.
            seteuid(Uid::from_raw(0)).unwrap_or(());
            setegid(Gid::from_raw(0)).unwrap_or(());
        }
    }
}

impl Drop for AsDaemon {
    fn drop(&mut self) {
        self.become_root();
    }
}
