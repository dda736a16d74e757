//! The store: its folder can be written and has room; with `--store` every record is read.

use super::Finding;
use crate::cli::table::octets;
use crate::cli::unit::{SERVICE, Unit};
use crate::config::Config;
use crate::config::unit::{MIB, show_size};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use std::path::{Path, PathBuf};

/// Beside what the store may still grow: its journals, and a file that is being built.
const ROOM: u64 = 32 << 20;
/// Those that it makes and renames in an hour.
const FILES: u64 = 64;

pub(super) fn inspect(config: &Config, every_record: bool, service: Option<&Unit>, as_daemon: bool) -> Vec<Finding> {
    // From the unit's folder, where it is the unit's.
    let path = &std::path::absolute(&config.store.path).unwrap_or_else(|_| config.store.path.clone());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut findings: Vec<_> = service.filter(|_| as_daemon).and_then(|unit| shut(unit, folder)).into_iter().collect();
    let files = files(path, folder);
    findings.extend(written(folder, &files, as_daemon).or_else(|| room(folder, &files, config.store.max_size)));
    if !crate::store::is_there(path) {
        findings.push(Finding::fine(format!("{}: not there yet, made at the start", path.display())));
    } else if every_record {
        findings.extend(records(path));
    }
    findings
}

/// All files of the store.
fn files(path: &Path, folder: &Path) -> Vec<PathBuf> {
    let (Some(name), Ok(entries)) = (path.file_name(), std::fs::read_dir(folder)) else { return Vec::new() };
    let ours = |name_of: &std::ffi::OsStr| name_of.as_encoded_bytes().starts_with(name.as_encoded_bytes());
    entries.flatten().filter(|entry| ours(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// A folder that the unit keeps its processes from writing.
fn shut(unit: &Unit, folder: &Path) -> Option<Finding> {
    let states = unit.words("StateDirectory").map(|name| Path::new("/var/lib").join(name));
    let open = unit.words("ReadWritePaths").map(|path| PathBuf::from(path.trim_start_matches(['-', '+'])));
    let is_open = states.chain(open).any(|open| folder.starts_with(open));
    (unit.text("ProtectSystem") == Some("strict") && !is_open).then(|| {
        let shown = folder.display();
        Finding::problem(
            format!("{shown}: {SERVICE} may not write there (ProtectSystem=strict)"),
            format!("systemctl edit mailsluice: ReadWritePaths={shown}"),
        )
    })
}

/// `None`: the folder and each file of the store can be written.
fn written(folder: &Path, files: &[PathBuf], as_daemon: bool) -> Option<Finding> {
    let shown = folder.display();
    if !folder.exists() {
        return Some(Finding::fine(format!("{shown}: not there yet, made at the start (by the unit's StateDirectory)")));
    }
    // By the effective user, who may be the daemon's.
    let all = [(folder, AccessFlags::W_OK | AccessFlags::X_OK)];
    let all = all.into_iter().chain(files.iter().map(|file| (file.as_path(), AccessFlags::R_OK | AccessFlags::W_OK)));
    for (path, wanted) in all {
        let path = path.display();
        match faccessat(AT_FDCWD, path.to_string().as_str(), wanted, AtFlags::AT_EACCESS) {
            Ok(()) => {}
            Err(nix::errno::Errno::EROFS) => {
                return Some(Finding::problem(
                    format!("{path}: its file system is read-only"),
                    format!("mount -o remount,rw $(findmnt -nT {shown} -o TARGET), and look why in dmesg"),
                ));
            }
            Err(error) if as_daemon => {
                let what = format!("{path}: the daemon's user may not write there: {error}");
                return Some(Finding::problem(what, format!("chown -R mailsluice: {shown}")));
            }
            Err(error) => {
                let what = format!("{path}: this user may not write there: {error}");
                return Some(Finding::warning(what, "run doctor as root or as the daemon's user, or: chown mailsluice:"));
            }
        }
    }
    None
}

/// What it may still grow against what there is.
fn room(folder: &Path, files: &[PathBuf], max_size: u64) -> Option<Finding> {
    let shown = folder.display();
    let stat = match nix::sys::statvfs::statvfs(folder) {
        Ok(stat) => stat,
        Err(error) => return Some(Finding::warning(format!("{shown}: free space is not known: {error}"), "look at df")),
    };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let used: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
    if stat.files() > 0 && stat.files_available() < FILES {
        let what = format!("{shown}: its file system has room for {} more files (inodes)", stat.files_available());
        return Some(Finding::problem(what, "make room: df -i shows where, and without it mail is answered 452"));
    }
    let growth = max_size.saturating_sub(used);
    let what = format!("{shown}: {} free, the store has {} and may grow to {}", octets(free), octets(used), octets(max_size));
    // A quarter is for the work on it.
    let fitting = (used.saturating_add(free) / 4 * 3 / MIB * MIB).max(crate::config::limits::STORE_MAX_SIZE.least);
    Some(if free < ROOM {
        Finding::problem(what, "make room: without it mail is answered 452")
    } else if free < growth {
        Finding::warning(what, format!("make room, or: store.max_size = \"{}\"", show_size(fitting)))
    } else {
        Finding::fine(what)
    })
}

fn records(path: &Path) -> Vec<Finding> {
    let found = match crate::store::verify(path) {
        Ok(found) => found,
        Err(error) => {
            let mend = "stop the daemon first (systemctl stop mailsluice); if it is damaged, put it back from a backup";
            return vec![Finding::problem(error.to_string(), mend)];
        }
    };
    let is_sound = found.unreadable == 0 && found.damaged.is_empty();
    let records = if is_sound {
        Finding::fine(format!("{}: {} records, each as it was written", path.display(), found.records))
    } else {
        Finding::problem(
            format!(
                "{}: {} of {} records are damaged{}",
                path.display(),
                found.unreadable,
                found.records + found.unreadable,
                found.damaged.iter().map(|file| format!("; {} is not as it was written", file.display())).collect::<String>()
            ),
            "look at the disk (smartctl -a, dmesg); put the store back from a backup, or let the damaged records expire",
        )
    };
    let aside = found.set_aside.iter().map(|file| {
        let what =
            format!("{}: a file of the store that could not be read, set aside: what could not be read of it is missing", file.display());
        Finding::warning(
            what,
            "copy it away if you want to look into it: the next forget removes it, and the end of store.retention as well",
        )
    });
    std::iter::once(records).chain(aside).collect()
}
