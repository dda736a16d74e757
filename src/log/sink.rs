//! Where lines go, and so how they look. Only the log's own thread writes here, and may wait here for ever.

use super::line::Line;
use crate::config::LogFormat;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;

pub(super) const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

enum Form {
    Journal(UnixDatagram),
    Text { colours: bool },
    Json,
}

pub(super) struct Sink {
    form: Form,
    /// A descriptor of our own: the standard library has a lock on its stderr, and who else says something there must not wait for it.
    stderr: File,
}

impl Sink {
    /// Also the reason why it is not what was asked for.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn open(format: LogFormat) -> io::Result<(Self, Option<io::Error>)> {
        let terminal = io::stderr().is_terminal();
        let coloured = || std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (form, refused) = match format {
            LogFormat::Auto if stderr_is_the_journal() => journal(),
            LogFormat::Journald => journal(),
            LogFormat::Auto if terminal => (Form::Text { colours: coloured() }, None),
            LogFormat::Text => (Form::Text { colours: terminal && coloured() }, None),
            LogFormat::Auto | LogFormat::Json => (Form::Json, None),
        };
        Ok((Self { form, stderr: io::stderr().as_fd().try_clone_to_owned()?.into() }, refused))
    }

    #[cfg(test)]
    pub(super) fn json(stderr: File) -> Self {
        Self { form: Form::Json, stderr }
    }

    /// Whether it could be written.
    pub(super) fn write(&self, line: &Line) -> bool {
        let written = match &self.form {
            // What is too long for a datagram goes the way of plain output, which the journal cuts into pieces but keeps.
            Form::Journal(socket) => socket.send(line.journal().as_bytes()).map(drop).or_else(|_| self.print(&line.text(false))),
            Form::Text { colours } => self.print(&line.text(*colours)),
            Form::Json => self.print(&line.json()),
        };
        written.is_ok()
    }

    /// All of it, also where another process has made the descriptor one that does not block.
    fn print(&self, line: &str) -> io::Result<()> {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match (&self.stderr).write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut room = [nix::poll::PollFd::new(self.stderr.as_fd(), nix::poll::PollFlags::POLLOUT)];
                    nix::poll::poll(&mut room, nix::poll::PollTimeout::NONE)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn journal() -> (Form, Option<io::Error>) {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(JOURNAL_SOCKET)?;
        Ok(socket)
    });
    match connected {
        Ok(socket) => (Form::Journal(socket), None),
        Err(error) => (Form::Json, Some(error)),
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` names the device and inode of the stream; another process may have inherited the variable
/// but not the stream.
fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = nix::sys::stat::fstat(io::stderr()) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}
