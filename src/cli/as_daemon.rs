//! Looking as the daemon's own user does, where the unit lets it look: root can read what the daemon cannot, so a file that is fine for
//! root says nothing.
//!
//! Only the effective ids change, and come back: what needs root in between (a port below 1024) is done by [`AsDaemon::as_root`]. What the
//! unit hides is hidden from this process for the rest of its life.

use super::unit::{SERVICE, Unit};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, geteuid, setegid, seteuid, setgroups};
use std::path::Path;

/// The packaged unit's user, and where its configuration lies.
const USER: &str = "mailsluice";
const FOLDER: &str = "/etc/mailsluice";

/// As long as it lives, the process is the daemon's user where that makes a difference.
pub(super) struct AsDaemon {
    user: Option<User>,
    hidden: Vec<(&'static str, &'static str)>,
}

impl AsDaemon {
    /// For the unit's own configuration, by root, where its user is there; else nothing changes.
    pub(super) fn enter(config: Option<&Path>) -> Self {
        let nobody = Self { user: None, hidden: Vec::new() };
        let Some(config) = config.filter(|_| geteuid().is_root()) else { return nobody };
        let unit = Unit::show(SERVICE);
        let is_units = |unit: &Unit| unit.words("ExecStart").any(|word| Path::new(word) == config);
        if !config.starts_with(FOLDER) && !unit.as_ref().is_some_and(is_units) {
            return nobody;
        }
        // What is named relatively is named from there.
        if let Some(folder) = unit.as_ref().and_then(|unit| unit.text("WorkingDirectory")) {
            std::env::set_current_dir(folder.trim_start_matches('!')).unwrap_or(());
        }
        let name = unit.as_ref().and_then(|unit| unit.text("User")).unwrap_or(USER);
        let user = User::from_name(name).ok().flatten();
        let hidden = unit.as_ref().filter(|_| user.is_some()).map(Unit::hidden).unwrap_or_default();
        let entered = Self { user, hidden: if hide(&hidden).is_ok() { hidden } else { Vec::new() } };
        if entered.become_user().is_err() {
            entered.become_root();
            return nobody;
        }
        entered
    }

    /// Whose eyes these are, if they are not the caller's.
    pub(super) fn is_another(&self) -> bool {
        self.user.is_some()
    }

    /// A line about what was seen, with whose eyes.
    pub(super) fn saw(&self, line: &str) -> String {
        let Some(user) = &self.user else { return line.to_owned() };
        let why = self.hidden.iter().find(|(folder, _)| line.contains(&format!("{folder}/")));
        let why = why.map(|(folder, setting)| format!("; the unit hides {folder} from it, {setting}")).unwrap_or_default();
        format!("{line} (as the daemon's user {} finds it{why})", user.name)
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

/// Nothing is in these folders any more, for this process alone.
fn hide(folders: &[(&str, &str)]) -> nix::Result<()> {
    if folders.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for (folder, _) in folders.iter().filter(|(folder, _)| Path::new(folder).is_dir()) {
        mount(Some("tmpfs"), *folder, Some("tmpfs"), MsFlags::MS_RDONLY, Some("mode=0755"))?;
    }
    Ok(())
}

impl Drop for AsDaemon {
    fn drop(&mut self) {
        self.become_root();
    }
}
