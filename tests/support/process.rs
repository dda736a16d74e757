//! A child process whose output lines can be waited for.

use super::wait::PATIENCE;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines of standard output and standard error, in the order in which they came.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    pub(crate) fn text(&self) -> String {
        self.lock().join("\n")
    }

    fn follow(self: &Arc<Self>, from: impl Read + Send + 'static) -> std::thread::JoinHandle<()> {
        let lines = Arc::clone(self);
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                lines.lock().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                lines.more.notify_all();
                line.clear();
            }
        })
    }

    /// The first line for which `find` has something, past or to come.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut lines = self.lock();
        loop {
            while let Some(line) = lines.get(seen) {
                if let Some(found) = find(line) {
                    return found;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line for: {what}; the log is\n{}", lines.join("\n"));
            lines = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running child; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) lines: Arc<Lines>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let lines = Arc::new(Lines::default());
        let readers = vec![lines.follow(child.stdout.take().unwrap()), lines.follow(child.stderr.take().unwrap())];
        Self { child, lines, readers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its end, within the given time, with all its output read.
    #[track_caller]
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        let status = super::eventually_within(patience, "the process to end", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- output of process {}\n{}\n---", self.child.id(), self.lines.text());
        }
    }
}

/// Runs a command to its end within the given time: status, standard output, standard error.
#[track_caller]
pub(crate) fn run(command: &mut Command, patience: Duration) -> Finished {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let drain = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut octets = Vec::new();
            from.read_to_end(&mut octets).unwrap();
            String::from_utf8_lossy(&octets).into_owned()
        })
    };
    let out = drain(Box::new(child.stdout.take().unwrap()));
    let err = drain(Box::new(child.stderr.take().unwrap()));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {patience:?}: {}{}", out.join().unwrap(), err.join().unwrap());
        }
        super::wait::tick();
    };
    Finished { code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }
}

/// Puts this thread, and the children it starts, into a network with nothing but a loopback device. Without root nothing changes.
pub(crate) fn enter_a_network_of_its_own() {
    #[expect(unsafe_code, reason = "two system calls that have no safe form here")]
    // SAFETY: `unshare` changes this thread only; the request outlives the call that reads it, and its name is its first field.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return;
        }
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        let up = libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request);
        assert_eq!(up, 0, "{}", std::io::Error::last_os_error());
    }
}

/// What this thread and its children mount is gone with them.
pub(crate) fn enter_mounts_of_its_own() {
    #[expect(unsafe_code, reason = "a system call that has no safe form here")]
    // SAFETY: `unshare` changes this thread only.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
    run(Command::new("mount").args(["--make-rprivate", "/"]), PATIENCE).ok();
}
