//! The store: its folder can be written and has room; with `--store` every record is read.

use super::Finding;
use crate::cli::table::octets;
use crate::config::Config;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use std::path::Path;

/// Below this the next erasure or a burst of mail meets a full disk.
const ROOM: u64 = 256 << 20;

pub(super) fn inspect(config: &Config, every_record: bool) -> Vec<Finding> {
    let path = &config.store.path;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut findings = vec![room(folder, config.store.max_size)];
    if !crate::store::is_there(path) {
        findings.push(Finding::fine(format!("{}: not there yet, made at the start", path.display())));
    } else if every_record {
        findings.push(records(path));
    }
    findings
}

fn room(folder: &Path, max_size: u64) -> Finding {
    let shown = folder.display();
    if !folder.exists() {
        return Finding::fine(format!("{shown}: not there yet, made at the start (by the unit's StateDirectory)"));
    }
    // By the effective user, who may be the daemon's.
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    if let Err(error) = faccessat(AT_FDCWD, folder, wanted, AtFlags::AT_EACCESS) {
        return Finding::warning(
            format!("{shown}: this user may not write there: {error}"),
            "run doctor as the daemon's user, or: chown mailsluice:",
        );
    }
    match nix::sys::statvfs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let what = format!("{shown}: {} free, the store may grow to {}", octets(free), octets(max_size));
            if free < ROOM {
                Finding::problem(what, "make room, or lower store.max_size and store.retention: without room mail is answered 452")
            } else if free < max_size {
                Finding::warning(what, format!("make room, or lower store.max_size below {}", octets(free)))
            } else {
                Finding::fine(what)
            }
        }
        Err(error) => Finding::warning(format!("{shown}: free space is not known: {error}"), "look at df"),
    }
}

fn records(path: &Path) -> Finding {
    match crate::store::verify(path) {
        Ok(found) if found.unreadable == 0 && found.damaged.is_empty() => {
            Finding::fine(format!("{}: {} records, each as it was written", path.display(), found.records))
        }
        Ok(found) => Finding::problem(
            format!(
                "{}: {} of {} records are damaged{}",
                path.display(),
                found.unreadable,
                found.records + found.unreadable,
                found.damaged.iter().map(|file| format!("; {} is not as it was written", file.display())).collect::<String>()
            ),
            "look at the disk (smartctl -a, dmesg); put the store back from a backup, or let the damaged records expire",
        ),
        Err(error) => Finding::problem(
            error.to_string(),
            "stop the daemon first (systemctl stop mailsluice); if it is damaged, put it back from a backup",
        ),
    }
}
