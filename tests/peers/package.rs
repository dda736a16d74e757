//! The Debian package: built, looked over by lintian, and taken through its life in a clean Debian 12 tree.
//!
//! All of this is part of the ordinary run. The package is the development build's there, since a release build takes longer than
//! all tests; `packaging/build-deb.sh` and `packaging/test-deb.sh` do the same by hand with the release.

use crate::support::Client;
use crate::support::client::deliver;
use crate::support::process::{Process, enter_a_network_of_its_own, run};
use crate::support::{Answer, Endpoint, PATIENCE, eventually, messages, turn};
use nix::sys::signal::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

const SLOW: Duration = Duration::from_secs(600);
/// A Debian that has to be downloaded, in several tries.
const VERY_SLOW: Duration = Duration::from_secs(1800);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Two packages of the development build, one that is labelled as the version before and this one, built once: what they are made from lies in `target/package`, which
/// each build makes anew. `build-deb.sh` ends with lintian, which must find nothing.
#[track_caller]
pub(super) fn packages() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let _turn = turn::shared();
        ["0.1.0", env!("CARGO_PKG_VERSION")].map(build)
    })
}

fn build(version: &str) -> PathBuf {
    let path = format!("{}:{}", root().join("target/peers/cargo/bin").display(), std::env::var("PATH").unwrap());
    let output = root().join(format!("target/peers/mailsluice_{version}_amd64.deb"));
    let mut command = Command::new(root().join("packaging/build-deb.sh"));
    command.env("PATH", path).env("PROFILE", "dev").args(["--fast", "--deb-version", version, "--output"]).arg(&output);
    run(&mut command, SLOW).ok();
    output
}

/// Where the clean Debian 12 is. `tests/test.sh` has begun to make it; whoever comes second waits for the first.
#[track_caller]
fn clean_debian() -> PathBuf {
    let made = root().join("target/peers/debian12");
    run(Command::new(root().join("packaging/clean-debian.sh")).arg(&made), VERY_SLOW).ok();
    made
}

/// A Debian 12 with nothing in it, made once and copied for each use.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let made = clean_debian();
        let tree =
            tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir_in(root().join("target/peers")).unwrap();
        run(Command::new("cp").arg("-a").arg(made.join(".")).arg(tree.path()), SLOW).ok();
        Self(tree)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Runs a command inside, with a `/proc` of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\""]).arg(self.0.path());
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    #[track_caller]
    fn dpkg(&self, arguments: &[&str]) {
        run(self.command(&["dpkg"]).args(arguments), SLOW).ok();
    }

    #[track_caller]
    fn install(&self, package: &Path) {
        std::fs::copy(package, self.at("tmp/package.deb")).unwrap();
        // As `dpkg -i` by hand, without a terminal: an edited configuration is kept.
        self.dpkg(&["--force-confold", "-i", "/tmp/package.deb"]);
    }

    /// Starts the daemon as its own user, with nothing but the right to take port 25.
    fn serve(&self) -> Process {
        let mut command = self.command(&[
            "setpriv",
            "--reuid=mailsluice",
            "--regid=mailsluice",
            "--init-groups",
            "--inh-caps=+net_bind_service",
            "--ambient-caps=+net_bind_service",
            "--bounding-set=-all,+net_bind_service",
            "--no-new-privs",
            "/usr/bin/mailsluice",
            "serve",
            "--config",
            "/etc/mailsluice/mailsluice.toml",
        ]);
        Process::start(&mut command)
    }
}

#[test]
fn its_whole_life() {
    let [older, newer] = packages();
    let tree = Tree::new();
    let _turn = turn::shared();
    std::thread::spawn(move || {
        // Port 25 of a network that is ours alone.
        enter_a_network_of_its_own();
        life(&tree, older, newer);
    })
    .join()
    .unwrap();
}

fn life(tree: &Tree, older: &Path, newer: &Path) {
    tree.install(older);
    for file in [
        "usr/bin/mailsluice",
        "etc/mailsluice/mailsluice.toml",
        "usr/lib/sysctl.d/60-mailsluice.conf",
        "usr/share/man/man8/mailsluice.8.gz",
        "usr/share/bash-completion/completions/mailsluice",
        "usr/share/doc/mailsluice/copyright",
    ] {
        assert!(tree.at(file).is_file(), "{file}");
    }
    for unit in ["mailsluice.service", "mailsluice.socket"] {
        assert!(["lib", "usr/lib"].iter().any(|lib| tree.at(&format!("{lib}/systemd/system/{unit}")).is_file()), "{unit}");
    }
    // The configuration may hold secrets; nothing runs that is not configured.
    let configuration = tree.at("etc/mailsluice/mailsluice.toml");
    let metadata = std::fs::metadata(&configuration).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o640, 0));
    let enabled = run(Command::new("find").arg(tree.at("etc/systemd/system")).args(["-name", "mailsluice*"]), PATIENCE).ok();
    assert_eq!(enabled, "");
    let refused = run(&mut tree.command(&["mailsluice", "check", "--config", "/etc/mailsluice/mailsluice.toml"]), PATIENCE);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("[[route]]"), "{refused:?}");

    // Edited, checked, inspected, started on port 25 as its own user.
    let endpoint = Endpoint::with(|_| Answer::status(200)).start();
    let mut text = std::fs::read_to_string(&configuration).unwrap();
    text.push_str(&format!("\n[[route]]\nname = \"all\"\nrecipients = [\"*\"]\nurl = \"{}\"\n", endpoint.url("/in")));
    std::fs::write(&configuration, &text).unwrap();
    run(&mut tree.command(&["mailsluice", "check", "--config", "/etc/mailsluice/mailsluice.toml"]), PATIENCE).ok();
    let findings = run(&mut tree.command(&["mailsluice", "doctor", "--config", "/etc/mailsluice/mailsluice.toml"]), PATIENCE);
    assert!(findings.out.contains("io_uring") && !findings.err.contains("panic"), "{findings:?}");
    prepare_state(tree);
    receive_one(tree, 1);

    // An upgrade keeps the configuration and the store.
    tree.install(newer);
    assert_eq!(std::fs::read_to_string(&configuration).unwrap(), text);
    receive_one(tree, 2);

    tree.dpkg(&["-r", "mailsluice"]);
    assert!(!tree.at("usr/bin/mailsluice").exists());
    assert!(configuration.exists() && tree.at("var/lib/mailsluice/records.redb.id-secret").exists(), "removing keeps the records");
    tree.dpkg(&["-P", "mailsluice"]);
    assert!(!tree.at("etc/mailsluice").exists() && !tree.at("var/lib/mailsluice").exists(), "purging removes them");
}

/// What systemd does before the start: `StateDirectory=`.
fn prepare_state(tree: &Tree) {
    let state = tree.at("var/lib/mailsluice");
    std::fs::create_dir_all(&state).unwrap();
    run(&mut tree.command(&["chown", "mailsluice:mailsluice", "/var/lib/mailsluice"]), PATIENCE).ok();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// One message over port 25; afterwards the store has so many records.
#[track_caller]
fn receive_one(tree: &Tree, records: usize) {
    let mut daemon = tree.serve();
    let smtp = "127.0.0.1:25".parse().unwrap();
    eventually("port 25", || Client::try_connect(smtp).ok()?.try_reply().ok());
    deliver(smtp, "a@sender.test", &["b@example.test"], &messages::simple(&format!("n{records}"), "text")).starts("250 2.0.0 Ok: ");
    let listed = ["mailsluice", "records", "--json", "--limit", "0", "--config", "/etc/mailsluice/mailsluice.toml"];
    assert_eq!(run(&mut tree.command(&listed), PATIENCE).ok().lines().count(), records);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.lines.text());
}

/// The same and more in a machine with a running systemd: the unit's sandbox, restarts, an upgrade of what runs. `MAILSLUICE_TEST_FULL=1`: with the
/// renewals of certbot and lego, which `acme.rs` has without systemd.
#[test]
fn its_life_under_systemd() {
    let [_, package] = packages();
    clean_debian();
    let _turn = turn::shared();
    let certificates = if std::env::var_os("MAILSLUICE_TEST_FULL").is_some() { "yes" } else { "no" };
    let out = run(Command::new(root().join("packaging/test-deb.sh")).arg(package).env("CERTIFICATES", certificates), VERY_SLOW).ok();
    assert!(out.ends_with("all as promised\n"), "{out}");
}

#[test]
fn the_units_are_sound_and_shut() {
    let unit = root().join("systemd/mailsluice.service");
    // At or below 1.4 of 10.
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold=14"]).arg(&unit);
    let finished = run(&mut security, PATIENCE);
    assert_eq!(finished.code, Some(0), "{}{}", finished.out, finished.err);
    let tree = Tree::new();
    tree.install(&packages()[1]);
    for unit in ["mailsluice.service", "mailsluice.socket", "mailsluice-hand-over.service"] {
        let checked = run(tree.command(&["systemd-analyze", "verify", "--man=no"]).arg(unit), PATIENCE);
        let ours: Vec<&str> = checked.err.lines().filter(|line| line.contains("mailsluice")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
}

#[test]
fn manual_and_completions_load() {
    packages();
    let made = root().join("target/package");
    let man = run(
        Command::new("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(made.join("mailsluice.8.gz")).env("MANPAGER", "cat"),
        PATIENCE,
    );
    assert!(man.code == Some(0) && man.err.is_empty(), "{man:?}");
    for part in ["mailsluice", "--config", "forget", "doctor"] {
        assert!(man.out.contains(part), "{part}");
    }
    let bash = format!("source '{}' && complete -p mailsluice", made.join("mailsluice.bash").display());
    assert!(run(Command::new("bash").args(["--norc", "-c", &bash]), PATIENCE).ok().contains("mailsluice"));
    let zsh =
        format!("autoload -U compinit && compinit -D -u && fpath=('{}' $fpath) && autoload +X _mailsluice && echo loaded", made.display());
    assert!(run(Command::new("zsh").args(["-f", "-c", &zsh]), PATIENCE).ok().contains("loaded"));
    let fish = format!("source '{}'; complete -C 'mailsluice rec'", made.join("mailsluice.fish").display());
    assert!(run(Command::new("fish").args(["--no-config", "-c", &fish]), PATIENCE).ok().contains("records"));
}
