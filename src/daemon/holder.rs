//! Who listens on a port that we cannot have, as the kernel tells it. Nothing here fails or logs: what may not be seen is not known.

use std::net::SocketAddr;
use std::path::Path;

/// The program and its process, as `nginx (process 4711)`.
pub(super) fn of(address: SocketAddr) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"].iter().flat_map(|table| listening(table, address.port())).collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse::<u32>().ok()?;
        let mut files = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = files.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| is_one_of(&target, &inodes)));
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        holds.then(|| format!("{} (process {pid})", name.trim()))
    })
}

fn is_one_of(target: &Path, inodes: &[String]) -> bool {
    let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
    inode.is_some_and(|inode| inodes.iter().any(|other| other == inode))
}

/// proc(5): the second column is the local address, the fourth the state (0A: listening), the tenth the inode.
fn listening(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let inode = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = columns.as_slice() else { return None };
        (local.ends_with(&suffix) && *state == "0A").then(|| (*inode).to_owned())
    };
    text.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_ourselves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        let found = super::of(address).expect("somebody listens");
        assert!(found.ends_with(&format!("(process {})", std::process::id())), "{found}");
        drop(listener);
    }
}
