//! Where a store is: its path with every symbolic link followed, and who may read what is there. Warns of files that others could read.

use super::disk::directory_of;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Links in a row that lead somewhere, as the kernel counts them.
const LINKS_MOST: usize = 40;
/// Only the daemon's user reads records and secrets.
const OTHERS: u32 = 0o077;

/// The path without a link in it. The file need not be there yet, nor the last of its folders.
pub(super) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MOST {
        match std::fs::read_link(&path) {
            // A relative one starts where it stands.
            Ok(target) => path = directory_of(&path).join(target),
            Err(_) => {
                let Some(name) = path.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
                return match std::fs::canonicalize(directory_of(&path)) {
                    Ok(folder) => Ok(folder.join(name)),
                    // Made when the store is opened.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(&path),
                    Err(error) => Err(error),
                };
            }
        }
    }
    Err(io::Error::other("symbolic links lead in a circle"))
}

/// Takes from others the right to read what stands under a store's name: an older umask or a copied backup may have given it.
pub(super) fn close_to_others(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), std::fs::read_dir(directory_of(path))) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes());
        let Ok(metadata) = entry.metadata() else { continue };
        let mode = metadata.permissions().mode();
        if !is_ours || !metadata.is_file() || mode & OTHERS == 0 {
            continue;
        }
        let file = entry.path();
        let mode = format!("{:04o}", mode & 0o7777);
        match std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)) {
            Ok(()) => tracing::warn!(file = %file.display(), mode, "others could read this file of the store: it is closed to them now"),
            Err(error) => tracing::warn!(file = %file.display(), mode, %error, "others can read this file of the store: chmod 600"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_the_file_and_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(place.path()).unwrap();
        let at = |name: &str| real.join(name);
        std::fs::create_dir(at("data")).unwrap();
        symlink("data", at("folder")).unwrap();
        symlink(at("folder/records.redb"), at("one")).unwrap();
        symlink("one", at("two")).unwrap();
        for path in ["data/records.redb", "folder/records.redb", "one", "two"] {
            assert_eq!(resolved(&at(path)).unwrap(), at("data/records.redb"), "{path}");
        }
        std::fs::write(at("data/records.redb"), "").unwrap();
        assert_eq!(resolved(&at("two")).unwrap(), at("data/records.redb"));
        assert_eq!(resolved(&at("new/records.redb")).unwrap(), at("new/records.redb"));
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        assert!(resolved(&at("a")).is_err());
    }

    #[test]
    fn what_others_could_read_is_closed_to_them() {
        let place = tempfile::tempdir().unwrap();
        let names = ["records.redb", "records.redb.id-secret", "other"];
        for name in names {
            std::fs::write(place.path().join(name), "").unwrap();
            std::fs::set_permissions(place.path().join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
        close_to_others(&place.path().join("records.redb"));
        let modes = names.map(|name| std::fs::metadata(place.path().join(name)).unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o600, 0o600, 0o644]);
    }
}
