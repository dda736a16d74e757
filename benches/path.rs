//! Which functions does the daemon run from its start to its twenty thousandth message? Writes them as `packaging/path.ld`, by which `build.rs` has
//! the linker lay them side by side: Linux maps 64 KiB around each page of a program that is touched.
//!
//! The program itself is looked at as it is: a breakpoint on each function, taken away when it is reached, so that each costs once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    unsafe_code,
    reason = "a tool for who builds; it stops at the first thing that is not as expected, and says so"
)]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use daemon::{Client, Daemon, binary, endpoint};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

const TRAP: u8 = 0xCC;
/// Names the file that takes the addresses reached; who has it is the tracer.
const REACHED: &str = "MAILSLUICE_REACHED";

struct Function {
    octets: usize,
    name: String,
}

/// By their place in the program's file.
fn functions(program: &Path) -> BTreeMap<usize, Function> {
    let listed = Command::new("nm").args(["-S", "--defined-only"]).arg(program).output().expect("nm, of binutils");
    let text = String::from_utf8(listed.stdout).unwrap();
    let of = |line: &str| {
        let [at, octets, kind, name] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let number = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
        "tTwW".contains(kind).then(|| (number(at), Function { octets: number(octets), name: name.to_owned() }))
    };
    text.lines().filter_map(of).collect()
}

/// Runs the program with these arguments until it ends, and notes each function that it reaches.
fn trace(reached: &Path) -> nix::Result<()> {
    let program = binary();
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = Pid::from_raw(command.spawn().unwrap().id().try_into().unwrap());
    waitpid(child, None)?;
    ptrace::setoptions(child, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL)?;
    let maps = std::fs::read_to_string(format!("/proc/{child}/maps")).unwrap();
    let base = usize::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
    let memory = std::fs::File::options().read(true).write(true).open(format!("/proc/{child}/mem")).unwrap();
    let mut octet_at = BTreeMap::new();
    for at in functions(&program).into_keys() {
        let mut octet = [0];
        memory.read_exact_at(&mut octet, (base + at) as u64).unwrap();
        memory.write_all_at(&[TRAP], (base + at) as u64).unwrap();
        octet_at.insert(base + at, octet);
    }
    let mut out = std::fs::File::create(reached).unwrap();
    ptrace::cont(child, None)?;
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(thread, Signal::SIGTRAP) => {
                let mut registers = ptrace::getregs(thread)?;
                let at = usize::try_from(registers.rip).unwrap() - 1;
                if let Some(octet) = octet_at.get(&at) {
                    // Two threads may have come to it at once: each runs it again.
                    memory.write_all_at(octet, at as u64).unwrap();
                    writeln!(out, "{}", at - base).unwrap();
                    registers.rip -= 1;
                    ptrace::setregs(thread, registers)?;
                }
                ptrace::cont(thread, None)?;
            }
            WaitStatus::Stopped(thread, Signal::SIGSTOP) | WaitStatus::PtraceEvent(thread, ..) => ptrace::cont(thread, None)?,
            WaitStatus::Stopped(thread, signal) => ptrace::cont(thread, signal)?,
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) if ended == child => return Ok(()),
            _ => {}
        }
    }
}

fn route(to: SocketAddr, format: &str) -> String {
    format!("[[route]]\nname = \"bench\"\nrecipients = [\"*\"]\nurl = \"http://{to}/\"\nformat = \"{format}\"\n")
}

fn message(octets: usize) -> Vec<u8> {
    [support::plain(octets), b".\r\n".to_vec()].concat()
}

/// More than a file of records has, over fifty connections; some large ones; some that bring one message each.
fn plain(daemon: &Daemon, _: &CertificateDer<'static>) {
    for (connections, messages, octets) in [(50, 400, 4096), (8, 4, 5 << 20), (40, 1, 4096)] {
        thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| {
                    let mut client = Client::connect(daemon.smtp);
                    (0..messages).for_each(|_| client.send("anna@example.com", &message(octets)));
                    client.say(b"QUIT\r\n");
                    client.expect("221");
                });
            }
        });
    }
}

fn encrypted(daemon: &Daemon, certificate: &CertificateDer<'static>) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    for _ in 0..10 {
        let mut stream = TcpStream::connect(daemon.smtp).unwrap();
        stream.write_all(b"EHLO client.example.org\r\nSTARTTLS\r\n").unwrap();
        let mut clear = BufReader::new(stream.try_clone().unwrap());
        ["220 ", "250 ", "220 "].iter().for_each(|last| until(&mut clear, last));
        let name = ServerName::try_from("bench.example").unwrap();
        let mut secret = BufReader::new(StreamOwned::new(ClientConnection::new(Arc::clone(&config), name).unwrap(), stream));
        let dialog = ["EHLO client.example.org\r\n", "MAIL FROM:<bob@example.org>\r\n", "RCPT TO:<anna@example.com>\r\n", "DATA\r\n"];
        for (line, last) in dialog.iter().zip(["250 ", "250 ", "250 ", "354 "]) {
            secret.get_mut().write_all(line.as_bytes()).unwrap();
            until(&mut secret, last);
        }
        secret.get_mut().write_all(&message(100_000)).unwrap();
        until(&mut secret, "250 ");
    }
}

fn until(from: &mut impl std::io::BufRead, last: &str) {
    let mut line = String::new();
    while !line.starts_with(last) {
        line.clear();
        assert!(from.read_line(&mut line).unwrap() > 0, "closed before {last}");
    }
}

/// The places of the functions that are reached while this is sent.
fn reached(format: &str, send: fn(&Daemon, &CertificateDer<'static>)) -> BTreeSet<usize> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pair = rcgen::generate_simple_self_signed(["bench.example".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let tls = format!("[smtp.tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"\n", certificate.display(), key.display());
    let file = dir.path().join("reached");
    let mut tracer = Command::new(std::env::current_exe().unwrap());
    tracer.env(REACHED, &file);
    let daemon = Daemon::start_by(tracer, dir, "", &format!("{tls}{}", route(endpoint(), format)));
    send(&daemon, pair.cert.der());
    BufReader::new(std::fs::File::open(file).unwrap()).lines().map(|line| line.unwrap().parse().unwrap()).collect()
}

/// A mangled name and those of the modules and types around it, the outermost first, without the hash that changes with each version.
fn enclosing(name: &str) -> Vec<&str> {
    let Some(mut rest) = name.strip_prefix("_ZN") else { return vec![name.split(".llvm.").next().unwrap()] };
    let mut names = Vec::new();
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(octets) = rest[..digits].parse::<usize>() else { return names };
        if octets == 17 && rest[digits..].starts_with('h') {
            return names;
        }
        rest = &rest[digits + octets..];
        names.push(&name[..name.len() - rest.len()]);
    }
}

/// What takes these functions in, and not many others: as far out as half of what lies there is reached, since the next build may inline others
/// of them.
fn patterns(functions: &BTreeMap<usize, Function>, reached: &BTreeSet<usize>) -> BTreeSet<String> {
    let mut octets = BTreeMap::<&str, [usize; 2]>::new();
    for (at, function) in functions {
        for name in enclosing(&function.name) {
            let [hot, all] = octets.entry(name).or_default();
            *all += function.octets;
            *hot += if reached.contains(at) { function.octets } else { 0 };
        }
    }
    let of = |at: &usize| {
        let names = enclosing(&functions[at].name);
        let is_used = |name: &&&str| octets[**name][0] * 2 >= octets[**name][1];
        let pattern = names.iter().skip(1).find(is_used).or(names.last()).copied()?;
        // The compiler puts what it takes for rarely used into `.text.unlikely`.
        Some(if pattern.starts_with('_') { format!(".text*{pattern}*") } else { format!(".text.{pattern}") })
    };
    reached.iter().filter_map(of).collect()
}

fn main() {
    if let Some(file) = std::env::var_os(REACHED) {
        trace(&PathBuf::from(file)).unwrap();
        return;
    }
    let functions = functions(&binary());
    let first = reached("rfc822", plain);
    let more = ["rfc822", "json", "multipart"].map(|format| reached(format, encrypted));
    let rest: BTreeSet<usize> = more.iter().flatten().filter(|at| !first.contains(at)).copied().collect();
    let mut script = "/* What a message runs, side by side: written by `cargo bench --bench path`, used by build.rs. */\n\
                      SECTIONS\n{\n  .text.path :\n  {\n"
        .to_owned();
    for (what, reached) in [("start and any message", &first), ("TLS and formats", &rest)] {
        let octets: usize = reached.iter().map(|at| functions[at].octets).sum();
        let patterns = patterns(&functions, reached);
        println!("{what}: {} functions of {octets} octets in {} patterns", reached.len(), patterns.len());
        writeln!(script, "    /* {what} */").unwrap();
        for pattern in patterns {
            writeln!(script, "    *({pattern})").unwrap();
        }
    }
    script.push_str("  }\n}\nINSERT BEFORE .text;\n");
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/path.ld"), script).unwrap();
}
