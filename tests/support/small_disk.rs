//! A file system that is soon full. Mounting takes root.

use super::PATIENCE;
use super::process::run;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A tmpfs of a size; unmounted when dropped.
pub(crate) struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    pub(crate) fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir.path()), PATIENCE).ok();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file until nothing fits any more.
    pub(crate) fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.dir.path()), PATIENCE);
    }
}
