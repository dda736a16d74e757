//! The kernel's settings against the packaged file, which is compiled in so that the two cannot differ.

use super::Finding;
use std::path::Path;

const PACKAGED: &str = include_str!("../../../packaging/60-mailsluice.conf");

/// Compares with the settings under `root` (`/proc/sys`).
pub(super) fn compare(root: &Path) -> Vec<Finding> {
    settings(PACKAGED).map(|(name, wanted)| compare_one(root, name, wanted)).collect()
}

/// The lines `name = value` of a sysctl.d(5) file.
fn settings(file: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = file.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim().trim_start_matches('-'), value.trim()))
}

fn compare_one(root: &Path, name: &str, wanted: &str) -> Finding {
    let path = root.join(name.replace('.', "/"));
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => {
            return Finding::warning(format!("{name} cannot be read: {error}"), "nothing to do in a container; else use a newer kernel");
        }
    };
    if is_enough(&found, wanted) {
        return Finding::fine(format!("{name} = {found}"));
    }
    Finding::warning(
        format!("{name} is {found}, better {wanted}"),
        format!("sysctl -w {name}={wanted} (the package sets it at boot, from /usr/lib/sysctl.d)"),
    )
}

/// Queues may be longer than asked for; a switch (0, 1) is what it is.
fn is_enough(found: &str, wanted: &str) -> bool {
    match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) if wanted > 1 => found >= wanted,
        _ => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn the_packaged_file_is_read() {
        let names: Vec<_> = settings(PACKAGED).map(|(name, _)| name).collect();
        assert!(names.contains(&"net.core.somaxconn") && names.len() > 2, "{names:?}");
        assert!(names.iter().all(|name| !name.contains(' ')), "{names:?}");
    }

    #[test]
    fn each_setting_is_compared() {
        let root = tempfile::tempdir().expect("a directory");
        let folder = root.path().join("net/core");
        std::fs::create_dir_all(&folder).expect("it can be made");
        std::fs::write(folder.join("somaxconn"), "128\n").expect("it can be written");
        std::fs::write(folder.join("more"), "8192\n").expect("it can be written");
        std::fs::write(folder.join("switch"), "2\n").expect("it can be written");
        let table = [
            ("net.core.somaxconn", "4096", Severity::Warning, "net.core.somaxconn is 128, better 4096"),
            ("net.core.more", "4096", Severity::Fine, "net.core.more = 8192"),
            ("net.core.switch", "1", Severity::Warning, "net.core.switch is 2, better 1"),
            ("net.core.none", "1", Severity::Warning, "net.core.none cannot be read: No such file or directory (os error 2)"),
        ];
        for (name, wanted, severity, what) in table {
            let finding = compare_one(root.path(), name, wanted);
            assert_eq!((finding.severity, finding.what.as_str()), (severity, what));
        }
        let mend = compare_one(root.path(), "net.core.somaxconn", "4096").mend;
        assert!(mend.contains("sysctl -w net.core.somaxconn=4096"), "{mend}");
    }
}
