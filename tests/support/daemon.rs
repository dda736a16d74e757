//! The real binary on free ports, with a directory of its own.

use super::admin::Admin;
use super::config::Config;
use super::process::{Finished, Process, run};
use super::turn::{self, Turn};
use super::wait::PATIENCE;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mailsluice");

/// A command of the binary, with nothing of our environment that it would read.
pub(crate) fn command() -> Command {
    command_of(BINARY.as_ref())
}

fn command_of(program: &Path) -> Command {
    // Another build, to see what it would do.
    let mut command = Command::new(std::env::var_os("MAILSLUICE_TEST_BINARY").map_or_else(|| program.to_owned(), PathBuf::from));
    for name in ["MAILSLUICE_CONFIG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"] {
        command.env_remove(name);
    }
    // A proxy in the environment must not matter to the daemon; it would matter to some peers.
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    command
}

/// Runs the binary with arguments to its end.
#[track_caller]
pub(crate) fn cli(arguments: &[&str]) -> Finished {
    run(command().args(arguments), PATIENCE)
}

/// A running daemon. Killed when dropped; its directory goes away with the last of those who hold it.
pub(crate) struct Daemon {
    process: Process,
    dir: Arc<TempDir>,
    config: Config,
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) admin: Admin,
    _turn: Turn,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start(config: Config) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), config)
    }

    /// Starts in a directory that has been used before.
    #[track_caller]
    pub(crate) fn start_in(dir: Arc<TempDir>, config: Config) -> Self {
        Self::spawn(dir, config, |_| {}).ready()
    }

    /// Starts the process, changed by `change` before, and returns as soon as it listens.
    #[track_caller]
    pub(crate) fn spawn(dir: Arc<TempDir>, config: Config, change: impl FnOnce(&mut Command)) -> Self {
        Self::spawn_program(BINARY.as_ref(), dir, config, change)
    }

    /// The same of another build.
    #[track_caller]
    pub(crate) fn spawn_program(program: &Path, dir: Arc<TempDir>, config: Config, change: impl FnOnce(&mut Command)) -> Self {
        let turn = turn::shared();
        let file = dir.path().join("mailsluice.toml");
        let config =
            if config.is_set("store.path") { config } else { config.set("store.path", dir.path().join("records.redb").to_str().unwrap()) };
        std::fs::write(&file, config.text()).unwrap();
        let mut command = command_of(program);
        command.arg("serve").arg("--config").arg(&file).current_dir(dir.path());
        change(&mut command);
        let process = Process::start(&mut command);
        let listening = |listener: &str, nth: usize| {
            let mut seen = 0;
            process.lines.wait_for(&format!("listening, listener {listener}"), |line| {
                let fields = fields(line)?;
                if fields["message"] != "listening" || fields["listener"] != listener {
                    return None;
                }
                seen += 1;
                (seen > nth).then(|| fields["address"].as_str().unwrap().to_owned())
            })
        };
        let listeners = toml::from_str::<toml::Table>(&config.text()).unwrap()["smtp"]["listen"].as_array().unwrap().len();
        let smtp = (0..listeners).map(|nth| listening("smtp", nth).parse().unwrap()).collect();
        let admin = Admin::new(&listening("admin", 0));
        Self { process, dir, config, smtp, admin, _turn: turn }
    }

    /// Waits until it takes mail.
    #[track_caller]
    pub(crate) fn ready(self) -> Self {
        super::eventually("readiness", || (self.admin.try_get("/readyz").ok()?.status == 200).then_some(()));
        self
    }

    pub(crate) fn smtp(&self) -> SocketAddr {
        self.smtp[0]
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn shared_dir(&self) -> Arc<TempDir> {
        Arc::clone(&self.dir)
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("mailsluice.toml")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn log(&self) -> String {
        self.process.lines.text()
    }

    /// Log lines as JSON objects, as many as are.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.process.lines.all().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn running(&mut self) -> bool {
        self.process.running()
    }

    /// Writes another configuration and has it read. The store stays where it is.
    #[track_caller]
    pub(crate) fn reload(&mut self, config: Config) {
        let config = config.set("store.path", self.dir.path().join("records.redb").to_str().unwrap());
        std::fs::write(self.config_file(), config.text()).unwrap();
        self.config = config;
        self.signal(Signal::SIGHUP);
    }

    /// SIGTERM, then its exit code once it has ended by itself.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Stopped {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Stopped {
        let status = self.process.wait(PATIENCE);
        Stopped { code: status.code(), log: self.log() }
    }

    /// `kill -9`: nothing of the process runs any more.
    pub(crate) fn kill(mut self) -> Killed {
        self.process.kill();
        Killed { dir: Arc::clone(&self.dir), config: self.config.clone() }
    }

    /// The effective address of the admin listener, as the command line takes it.
    pub(crate) fn admin_url(&self) -> String {
        self.admin.url()
    }

    /// Runs a client command against this daemon.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        let mut command = command();
        command.args(arguments).arg("--admin").arg(self.admin_url());
        run(&mut command, PATIENCE)
    }

    /// Resident memory, octets.
    pub(crate) fn rss(&self) -> u64 {
        status_kib(self.pid(), "VmRSS:") * 1024
    }

    /// Open descriptors but for files of its store, which come and go by themselves.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        open.filter(|one| !std::fs::read_link(one.path()).is_ok_and(|file| file.starts_with(self.dir()))).count()
    }
}

pub(crate) struct Stopped {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

/// What is left of a killed daemon.
pub(crate) struct Killed {
    dir: Arc<TempDir>,
    config: Config,
}

impl Killed {
    /// Starts again with the same store, on the same port.
    #[track_caller]
    pub(crate) fn restart(self) -> Daemon {
        Daemon::start_in(self.dir, self.config)
    }
}

/// The fields of a JSON log line.
fn fields(line: &str) -> Option<Value> {
    let mut event: Value = serde_json::from_str(line).ok()?;
    let inner = event.get_mut("fields").map(Value::take);
    Some(inner.unwrap_or(event))
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
