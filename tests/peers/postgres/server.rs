//! A PostgreSQL of Debian's package, with a cluster of its own for a test; asked by its own `psql`.

use crate::support::daemon::command;
use crate::support::process::{Finished, Process, run};
use crate::support::{Config, PATIENCE, eventually_within, port};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

const BOOT: Duration = Duration::from_secs(60);
/// What all boxes of a test have in common.
pub(super) const ID_SECRET: &str = "the same on all boxes of the fleet";

pub(super) struct Server {
    dir: tempfile::TempDir,
    pub(super) port: u16,
    process: Mutex<Option<Process>>,
    cable: Option<Cable>,
    is_aside: bool,
}

/// A network of the server's own, and the cable to it.
pub(super) struct Cable {
    network: String,
    ours: String,
}

impl Cable {
    pub(super) const SERVER: &str = "198.18.77.2";
    const OURS: &str = "198.18.77.1/30";

    fn new() -> Self {
        let id = std::process::id();
        let this = Self { network: format!("mailsluice-{id}"), ours: format!("ms{id}") };
        let (network, ours) = (&this.network[..], &this.ours[..]);
        ip(&["netns", "add", network]);
        ip(&["link", "add", ours, "type", "veth", "peer", "name", "server", "netns", network]);
        ip(&["address", "add", Self::OURS, "dev", ours]);
        ip(&["link", "set", ours, "up"]);
        ip(&["-n", network, "address", "add", "198.18.77.2/30", "dev", "server"]);
        ip(&["-n", network, "link", "set", "lo", "up"]);
        this.plug(true);
        this
    }

    /// Pulled out, what is sent is lost without a word.
    pub(super) fn plug(&self, is_in: bool) {
        ip(&["-n", &self.network, "link", "set", "server", if is_in { "up" } else { "down" }]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for words in [["link", "delete", &self.ours], ["netns", "delete", &self.network]] {
            drop(run(Command::new("ip").args(words), PATIENCE));
        }
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    run(Command::new("ip").args(words), PATIENCE).ok();
}

fn program(name: &str) -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is not installed: tests/test.sh installs what the tests need");
    let newest = versions
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap_or(0));
    newest.unwrap().join("bin").join(name)
}

/// The server runs as nobody's root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().expect("the package's user");
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

impl Server {
    /// A server that trusts whoever comes.
    pub(super) fn start() -> Self {
        Self::start_in(None, false)
    }

    /// As good as on a machine of its own: it runs when nobody else wants to, and its files are in memory.
    pub(super) fn start_aside() -> Self {
        Self::start_in(None, true)
    }

    /// Another machine, as far as the network goes. Takes root.
    pub(super) fn start_behind_a_cable() -> Self {
        Self::start_in(Some(Cable::new()), false)
    }

    fn start_in(cable: Option<Cable>, is_aside: bool) -> Self {
        let dir = if is_aside { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap();
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name("postgres").unwrap().expect("the package's user");
            nix::unistd::chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let data = dir.path().join("data");
        let mut initdb = as_postgres(&program("initdb"));
        initdb.current_dir(dir.path()).arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        run(&mut initdb, BOOT).ok();
        let addresses = if cable.is_some() { "'*'" } else { "'127.0.0.1'" };
        let server = Self { port: port::free(), process: Mutex::default(), dir, cable, is_aside };
        server.set(&[
            ("port", &server.port.to_string()),
            ("unix_socket_directories", &format!("'{}'", server.dir.path().display())),
            ("listen_addresses", addresses),
            ("shared_buffers", "'32MB'"),
            ("max_connections", "60"),
            ("fsync", "off"),
        ]);
        server.begin();
        server
    }

    /// Settings, read at the next start or by `psql -c "SELECT pg_reload_conf()"`.
    pub(super) fn set(&self, settings: &[(&str, &str)]) {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        for (name, value) in settings {
            writeln!(file, "{name} = {value}").unwrap();
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn socket(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn cable(&self) -> &Cable {
        self.cable.as_ref().expect("a server behind a cable")
    }

    pub(super) fn begin(&self) {
        let mut postgres = match &self.cable {
            None if self.is_aside => {
                let mut command = as_postgres(Path::new("chrt"));
                command.args(["--idle", "0"]).arg(program("postgres"));
                command
            }
            None => as_postgres(&program("postgres")),
            Some(cable) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &cable.network, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
                command.arg(program("postgres"));
                command
            }
        };
        postgres.current_dir(self.dir.path()).arg("-D").arg(self.data());
        *self.process.lock().unwrap() = Some(Process::start(&mut postgres));
        let ready = || (self.try_sql("postgres", "SELECT 1").code == Some(0)).then_some(());
        eventually_within(BOOT, "the server to answer", ready);
    }

    /// `pg_ctl stop -m immediate`: no checkpoint, no farewell.
    pub(super) fn stop_at_once(&self) {
        let mut process = self.process.lock().unwrap().take().unwrap();
        process.signal(Signal::SIGQUIT);
        process.wait(BOOT);
    }

    pub(super) fn try_sql(&self, database: &str, sql: &str) -> Finished {
        let mut psql = Command::new(program("psql"));
        psql.arg("-h").arg(self.socket()).args(["-p", &self.port.to_string(), "-U", "postgres", "-d", database, "-AtXq", "-c", sql]);
        run(&mut psql, PATIENCE * 2)
    }

    #[track_caller]
    pub(super) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).ok().trim_end().to_owned()
    }

    #[track_caller]
    pub(super) fn number(&self, database: &str, sql: &str) -> u64 {
        self.sql(database, sql).parse().unwrap()
    }

    /// A database that `mailsluice fleet init` has prepared.
    pub(super) fn fleet(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        let said = self.init(name).ok();
        assert!(said.contains("mailsluice may write"), "{said}");
        name.to_owned()
    }

    /// `mailsluice fleet init`, by the administrator.
    pub(super) fn init(&self, name: &str) -> Finished {
        let dir = tempfile::tempdir().unwrap();
        let (config, owner) = (dir.path().join("mailsluice.toml"), dir.path().join("owner"));
        let text = self.boxed(Config::without_routes().route("all", &["*"], "http://127.0.0.1:9/"), name, "init").text();
        std::fs::write(&config, text).unwrap();
        std::fs::write(&owner, format!("host={} port={} user=postgres dbname={name}\n", self.socket().display(), self.port)).unwrap();
        let mut init = command();
        init.args(["fleet", "init", "--config", config.to_str().unwrap(), "--postgres-file", owner.to_str().unwrap()]);
        run(&mut init, PATIENCE)
    }

    /// A copy of a database, as `pg_dump` makes it.
    pub(super) fn dump(&self, database: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{database}.dump"));
        self.with_client("pg_dump", &["-Fc", "-f", file.to_str().unwrap(), database]);
        file
    }

    pub(super) fn restore(&self, database: &str, file: &Path) {
        self.with_client("pg_restore", &["--exit-on-error", "--single-transaction", "-d", database, file.to_str().unwrap()]);
    }

    #[track_caller]
    fn with_client(&self, name: &str, words: &[&str]) {
        let mut command = Command::new(program(name));
        command.arg("-h").arg(self.socket()).args(["-p", &self.port.to_string(), "-U", "postgres"]).args(words);
        run(&mut command, PATIENCE * 2).ok();
    }

    /// A box of the fleet in this database.
    pub(super) fn boxed(&self, config: Config, database: &str, name: &str) -> Config {
        self.boxed_by(config, &format!("host=127.0.0.1 port={} user=mailsluice dbname={database} sslmode=disable", self.port), name)
    }

    #[expect(clippy::unused_self, reason = "a box is a box of a server")]
    pub(super) fn boxed_by(&self, config: Config, connection: &str, name: &str) -> Config {
        config.set("fleet.postgres", connection).set("fleet.box", name).set("forward.id_secret", ID_SECRET)
    }
}
