//! The files of a release, and what can be tried of a build for arm64 where Rust's own library for it is not to be had.

use super::{package, python};
use crate::support::process::run;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SLOW: Duration = Duration::from_secs(600);
const ARM64: &str = "aarch64-unknown-linux-gnu";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `packaging`, with the programs of `tests/peers.list`.
fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("packaging").join(name));
    let path = format!("{}:{}", root().join("target/peers/cargo/bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path);
    command
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(arguments);
    command
}

#[test]
fn its_files_are_whole_and_its_bill_is_right() {
    let [_, newer] = package::packages();
    let dir = tempfile::tempdir().unwrap();
    let said = run(script("release.sh").env("PACKAGE", newer).env("RELEASE", dir.path()), SLOW).ok();
    assert_eq!(said.lines().last(), dir.path().to_str());
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(dir.path()), SLOW).ok();
    let names: BTreeSet<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("mailsluice-{version}");
    let (archive, sources) = (format!("{name}-x86_64-linux.tar.gz"), format!("{name}.tar.gz"));
    let bill = format!("{name}-x86_64-linux.cdx.json");
    let package = newer.file_name().unwrap().to_str().unwrap();
    let wanted = [package, &archive, &bill, &sources, "SHA256SUMS"];
    assert_eq!(names, wanted.iter().map(|name| (*name).to_owned()).collect());
    let listed = |archive: &str| run(Command::new("tar").arg("-tzf").arg(dir.path().join(archive)), SLOW).ok();
    for file in ["mailsluice", "docs/container.md", "systemd/mailsluice.service", "container/seccomp.json"] {
        assert!(listed(&archive).lines().any(|line| line == format!("{name}/{file}")), "{file}");
    }
    assert!(listed(&sources).lines().any(|line| line == format!("{name}/Cargo.lock")));

    // The bill names what is linked, in the versions of the lock file, and no place of this machine.
    let bill = dir.path().join(bill);
    let components = python::script("sbom.py", &[bill.to_str().unwrap()]);
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let locked: BTreeSet<String> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| format!("{}@{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap()))
        .collect();
    let components: BTreeSet<String> = components.lines().map(str::to_owned).collect();
    assert!(components.is_subset(&locked), "{:?}", components.difference(&locked));
    for linked in ["rustls", "redb", "tokio-uring", "aws-lc-sys", "mimalloc"] {
        assert!(components.iter().any(|component| component.starts_with(&format!("{linked}@"))), "{linked}");
    }
    assert!(!std::fs::read_to_string(bill).unwrap().contains(root().to_str().unwrap()));
}

#[test]
fn a_missing_target_says_what_to_install() {
    let said = run(script("build-deb.sh").env("TARGET", "powerpc64le-unknown-linux-gnu"), SLOW);
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(said.err.contains("rustup target add powerpc64le-unknown-linux-gnu"), "{said:?}");
}

/// The dependencies can be had for it, and no code of ours is for one processor.
#[test]
fn arm64_has_all_dependencies() {
    let metadata = run(&mut cargo(&["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", ARM64]), SLOW).ok();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert!(metadata["resolve"]["nodes"].as_array().unwrap().len() > 200);
    let found =
        run(Command::new("grep").args(["-rnE", "target_arch|target_feature|core::arch|std::arch|asm!|x86"]).arg(root().join("src")), SLOW);
    assert_eq!(found.code, Some(1), "{found:?}");
}

/// The C parts by Debian's cross compiler. Rust's own parts end for want of its library, the scripts that compile C have run by then.
#[test]
fn arm64_has_its_parts_in_c() {
    if std::env::var_os("MAILSLUICE_TEST_FULL").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let crates = ["-p", "aws-lc-sys", "-p", "libmimalloc-sys"];
    let mut command = cargo(&["check", "--locked", "--keep-going", "--target", ARM64]);
    command.args(crates).env("CARGO_TARGET_DIR", dir.path());
    command.env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc").env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar");
    let said = run(&mut command, SLOW);
    assert!(!said.err.contains("failed to run custom build command"), "{said:?}");
    let built = run(Command::new("find").arg(dir.path().join(ARM64)).args(["-name", "*.o", "-size", "+0"]), SLOW).ok();
    for part in ["aws-lc-sys", "libmimalloc-sys"] {
        let object = built.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("nothing of {part}: {said:?}"));
        let file = run(Command::new("readelf").args(["-h", object]), SLOW).ok();
        assert!(file.contains("AArch64"), "{file}");
    }
}
