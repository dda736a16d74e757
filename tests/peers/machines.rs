//! `doctor` on broken machines: `tests/machines/machines.toml` says how each is broken and what is found, `sound.sh` makes the machine that is broken then,
//! with namespaces and files of its own. Needs root.

use crate::support::daemon::BINARY;
use crate::support::process::{Finished, run};
use crate::support::seccomp::{self, Forbidden};
use crate::support::turn;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde::Deserialize;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const SLOW: Duration = Duration::from_secs(120);
/// At once: each waits more than it works.
const AT_ONCE: usize = 4;
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machines {
    machine: Vec<Machine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    name: String,
    /// Commands, after those that make it sound.
    #[serde(rename = "break")]
    broken: String,
    #[serde(default)]
    forbid: Vec<String>,
    /// A name server that knows `example.com`.
    #[serde(default = "yes")]
    dns: bool,
    /// All that is found is no worse than this.
    worst: Option<String>,
    #[serde(default)]
    about: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    what: String,
    #[serde(default)]
    mend: String,
    /// What else is a problem then.
    #[serde(default)]
    also: String,
    exit: Option<i32>,
}

fn yes() -> bool {
    true
}

fn forbidden(text: &str) -> Forbidden {
    match text {
        "io_uring_setup EPERM" => Forbidden { call: libc::SYS_io_uring_setup, argument: None, error: libc::EPERM },
        "io_uring_setup ENOSYS" => Forbidden { call: libc::SYS_io_uring_setup, argument: None, error: libc::ENOSYS },
        "socket(AF_INET6) EAFNOSUPPORT" => {
            Forbidden { call: libc::SYS_socket, argument: Some(libc::AF_INET6 as u32), error: libc::EAFNOSUPPORT }
        }
        other => panic!("{other}: not known"),
    }
}

/// Certificates of an authority with one in the middle, as public ones have it.
fn make_certificates(dir: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    };
    let [root_key, middle_key, stranger_key] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    let root = authority("root").self_signed(&root_key).unwrap().pem();
    let root_issuer = Issuer::new(authority("root"), root_key);
    let middle = authority("middle").signed_by(&middle_key, &root_issuer).unwrap().pem();
    let issuer = Issuer::new(authority("middle"), middle_key);
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("root.pem", &root);
    write("stranger.pem", &authority("stranger").self_signed(&stranger_key).unwrap().pem());
    let now = SystemTime::now();
    for (name, host, from, to) in [
        ("good", "mx.example.com", now - DAY, now + 80 * DAY),
        ("soon", "mx.example.com", now - 80 * DAY, now + 9 * DAY + DAY / 2),
        ("expired", "mx.example.com", now - 90 * DAY, now - DAY),
        ("future", "mx.example.com", now + DAY, now + 90 * DAY),
        ("app", "app.example.com", now - DAY, now + 80 * DAY),
    ] {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        write(&format!("{name}.pem"), &format!("{leaf}{middle}"));
        write(&format!("{name}.key"), &key.serialize_pem());
        if name == "good" {
            write("leaf.pem", &leaf);
            write("leaf.key", &key.serialize_pem());
            // The same key, vouched for by nobody.
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, host);
            write("own.pem", &params.self_signed(&key).unwrap().pem());
            write("own.key", &key.serialize_pem());
        }
    }
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines").join(name)).unwrap()
}

/// A folder that the daemon's user may enter.
fn folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn examine(machine: &Machine, sound: &str, made: &Path) -> Finished {
    let work = folder();
    let names = if machine.dns { "names" } else { ":" };
    // What runs beside it ends with the first process of its namespace.
    let script = format!("{sound}\nendpoint\n{names}\n{}\nexec mailsluice doctor --json --config $configuration\n", machine.broken);
    let file = work.path().join("machine.sh");
    std::fs::write(&file, script).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]).arg(&file);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("made", made).env("work", work.path());
    for text in &machine.forbid {
        seccomp::forbid(&mut command, forbidden(text));
    }
    run(&mut command, SLOW)
}

/// What is not as it should be.
fn judge(machine: &Machine, finished: &Finished) -> Result<(), String> {
    let document: Value = serde_json::from_str(&finished.out).map_err(|error| error.to_string())?;
    let findings = document["findings"].as_array().ok_or("no findings")?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    // The clock is the real machine's.
    let judged: Vec<_> = findings.iter().filter(|finding| finding["about"] != "clock").collect();
    if let Some(worst) = &machine.worst {
        let worse: Vec<_> = judged.iter().filter(|finding| finding["severity"] != worst.as_str()).collect();
        return if worse.is_empty() { Ok(()) } else { Err(format!("{worse:#?}")) };
    }
    let is_it = |finding: &&&Value| {
        finding["about"] == machine.about.as_str()
            && finding["severity"] == machine.severity.as_str()
            && text(finding, "what").contains(&machine.what)
            && text(finding, "mend").contains(&machine.mend)
    };
    judged.iter().find(is_it).ok_or("not found")?;
    // It costs nothing else.
    let others = judged.iter().find(|finding| {
        finding["severity"] == "problem" && finding["about"] != machine.about.as_str() && finding["about"] != machine.also.as_str()
    });
    others.map_or(Ok(()), |other| Err(format!("another problem: {other}")))?;
    // A problem comes with its mend.
    let mute = judged.iter().find(|finding| finding["severity"] == "problem" && text(finding, "mend").is_empty());
    mute.map_or(Ok(()), |mute| Err(format!("no mend: {mute}")))?;
    let exit = machine.exit.unwrap_or(if machine.severity == "problem" || !machine.also.is_empty() { 69 } else { 0 });
    if finished.code == Some(exit) { Ok(()) } else { Err(format!("exit {:?}, not {exit}", finished.code)) }
}

#[test]
fn each_is_found_and_its_mend_named() {
    let machines: Machines = toml::from_str(&file("machines.toml")).unwrap();
    assert!(machines.machine.len() > 30);
    let only = std::env::var("MACHINE").unwrap_or_default();
    let (made, sound) = (folder(), file("sound.sh"));
    make_certificates(made.path());
    std::fs::copy(BINARY, made.path().join("mailsluice")).unwrap();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/60-mailsluice.conf"), made.path().join("60-mailsluice.conf")).unwrap();
    let _turn = turn::shared();
    let left = Mutex::new(machines.machine.iter().filter(|machine| machine.name.contains(&only)));
    let failed = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(machine) = { left.lock().unwrap().next() } {
                    let finished = examine(machine, &sound, made.path());
                    if let Err(why) = judge(machine, &finished) {
                        failed.lock().unwrap().push_str(&format!("{}: {why}\n{}{}\n\n", machine.name, finished.out, finished.err));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed}");
}
