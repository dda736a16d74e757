//! One SMTP session as a client: EHLO, STARTTLS where it is offered, transactions, each reply read whole.

use super::super::{Exit, Failure, complain, print};
use super::line::Line;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

/// RFC 5321 4.5.3.1.5 allows 512 octets; a server that sends much more is none.
const MAX_REPLY_LINE: u64 = 8192;
const MAX_REPLY_LINES: usize = 200;

/// In the order in which the exit code counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Taken,
    Deferred,
    Refused,
}

/// RFC 5321 4.5.2: CRLF line ends, a second dot before a dot that starts a line, and the end of data behind it. Beside it the
/// message's size as RFC 1870 counts it: without those dots and the end.
fn stuffed(message: &[u8]) -> (Vec<u8>, usize) {
    let mut dots = 0;
    let mut data = Vec::with_capacity(message.len() + message.len() / 32 + 8);
    let mut previous = b'\n';
    for &octet in message {
        match (previous, octet) {
            (b'\n', b'.') => {
                data.extend_from_slice(b"..");
                dots += 1;
            }
            (b'\r', b'\n') => data.push(b'\n'),
            (_, b'\n') => data.extend_from_slice(b"\r\n"),
            _ => data.push(octet),
        }
        previous = octet;
    }
    if previous != b'\n' {
        data.extend_from_slice(b"\r\n");
    }
    let size = data.len() - dots;
    data.extend_from_slice(b".\r\n");
    (data, size)
}

/// A reply of one or several lines.
struct Reply {
    code: u16,
    /// As they came, joined by a space.
    text: String,
}

impl Reply {
    fn verdict(&self) -> Verdict {
        match self.code {
            200..=399 => Verdict::Taken,
            400..=499 => Verdict::Deferred,
            _ => Verdict::Refused,
        }
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, crate::log::escaped(&self.text))
    }
}

pub(super) struct Session {
    stream: BufReader<Line>,
    server: String,
    extensions: Vec<String>,
}

impl Session {
    pub(super) fn open(server: &str, own_name: &str) -> Result<Self, Failure> {
        let unreachable = |error: io::Error| {
            Failure::new(Exit::Unavailable, format!("{server}: {error}; start the daemon, or name another one with --server HOST:PORT"))
        };
        let stream = Line::connect(server).map_err(unreachable)?;
        let mut session = Self { stream: BufReader::new(stream), server: server.to_owned(), extensions: Vec::new() };
        let greeting = session.reply()?;
        session.expect(&greeting)?;
        session.hello(own_name)?;
        if session.offers("STARTTLS") && session.command("STARTTLS")?.verdict() == Verdict::Taken {
            session = session.encrypted()?;
            session.hello(own_name)?;
        }
        Ok(session)
    }

    fn hello(&mut self, own_name: &str) -> Result<(), Failure> {
        let (ehlo, lines) = self.command_lines(&format!("EHLO {own_name}"))?;
        self.expect(&ehlo)?;
        self.extensions = lines.into_iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    /// What the server has said before counts no more (RFC 3207 4.2), and what it said too early would pass for encrypted.
    fn encrypted(self) -> Result<Self, Failure> {
        let Self { stream, server, .. } = self;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Unavailable, format!("{server}: STARTTLS failed: {error}; look at its certificate and [smtp.tls]"))
        };
        if !stream.buffer().is_empty() {
            return Err(failed(&"it went on in the clear"));
        }
        let line = stream.into_inner().encrypted(&server).map_err(|error| failed(&error))?;
        Ok(Self { stream: BufReader::new(line), server, extensions: Vec::new() })
    }

    /// One transaction; prints the replies that decide.
    pub(super) fn submit(&mut self, name: &str, from: &str, to: &[String], message: &[u8]) -> Result<Verdict, Failure> {
        let mut mail = format!("MAIL FROM:<{from}>");
        let (data, size) = stuffed(message);
        if self.offers("SIZE") {
            mail.push_str(&format!(" SIZE={size}"));
        }
        if self.offers("8BITMIME") && !message.is_ascii() {
            mail.push_str(" BODY=8BITMIME");
        }
        if self.offers("SMTPUTF8") && !(from.is_ascii() && to.iter().all(|address| address.is_ascii())) {
            mail.push_str(" SMTPUTF8");
        }
        let reply = self.command(&mail)?;
        if reply.verdict() != Verdict::Taken {
            print(&format!("{name}: {reply}\n"))?;
            return Ok(reply.verdict());
        }
        let mut accepted = 0;
        let mut worst = Verdict::Taken;
        for address in to {
            let reply = self.command(&format!("RCPT TO:<{address}>"))?;
            if reply.verdict() == Verdict::Taken {
                accepted += 1;
            } else {
                print(&format!("{name}: {address}: {reply}\n"))?;
                worst = worst.max(reply.verdict());
            }
        }
        if accepted == 0 {
            self.command("RSET")?;
            return Ok(worst);
        }
        let reply = self.command("DATA")?;
        if reply.code != 354 {
            print(&format!("{name}: {reply}\n"))?;
            return Ok(worst.max(reply.verdict()).max(Verdict::Deferred));
        }
        // A server may refuse within the data; its reply says more than the broken pipe.
        let written = self.write(&data);
        let reply = match (self.reply(), written) {
            (Ok(reply), _) => reply,
            (Err(_), Err(error)) => return Err(self.lost(&error)),
            (Err(failure), Ok(())) => return Err(failure),
        };
        print(&format!("{name}: {reply}\n"))?;
        Ok(worst.max(reply.verdict()))
    }

    pub(super) fn quit(mut self) {
        // The messages have been answered; how the session ends does not matter to them.
        if let Err(failure) = self.command("QUIT") {
            complain(&failure.shown());
        }
    }

    fn offers(&self, extension: &str) -> bool {
        self.extensions.iter().any(|line| line.split(' ').next() == Some(extension))
    }

    /// A greeting or EHLO that must be a 2xx.
    fn expect(&self, reply: &Reply) -> Result<(), Failure> {
        match reply.verdict() {
            Verdict::Taken => Ok(()),
            Verdict::Deferred => {
                Err(Failure::new(Exit::Unavailable, format!("{} takes no mail now: {reply}; try again later", self.server)))
            }
            Verdict::Refused => {
                Err(Failure::new(Exit::Data, format!("{} takes no mail from here: {reply}; its reply says why", self.server)))
            }
        }
    }

    fn command(&mut self, line: &str) -> Result<Reply, Failure> {
        self.command_lines(line).map(|(reply, _)| reply)
    }

    fn command_lines(&mut self, line: &str) -> Result<(Reply, Vec<String>), Failure> {
        let written = self.write(format!("{line}\r\n").as_bytes());
        written.map_err(|error| self.lost(&error))?;
        self.reply_lines()
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        let line = self.stream.get_mut();
        line.write_all(octets)?;
        line.flush()
    }

    fn reply(&mut self) -> Result<Reply, Failure> {
        self.reply_lines().map(|(reply, _)| reply)
    }

    /// RFC 5321 4.2.1: a hyphen behind the code says that more lines come.
    fn reply_lines(&mut self) -> Result<(Reply, Vec<String>), Failure> {
        let mut lines = Vec::new();
        while lines.len() < MAX_REPLY_LINES {
            let mut octets = Vec::new();
            let read = (&mut self.stream).take(MAX_REPLY_LINE).read_until(b'\n', &mut octets);
            read.map_err(|error| self.lost(&error))?;
            let line = String::from_utf8_lossy(&octets);
            let Some(line) = line.strip_suffix('\n') else {
                return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
            };
            let line = line.strip_suffix('\r').unwrap_or(line);
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok()).filter(|code| (200..600).contains(code));
            let Some(code) = code else {
                let shown: String = line.chars().take(80).collect();
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("{} is no SMTP server: it said {shown:?}; name one with --server", self.server),
                ));
            };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                let text = lines.join(" ");
                return Ok((Reply { code, text }, lines));
            }
        }
        Err(Failure::new(Exit::Unavailable, format!("{} is no SMTP server: its reply has no end; name one with --server", self.server)))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        Failure::new(
            Exit::Unavailable,
            format!("{}: the connection broke: {error}; the message may not have been taken, send it again", self.server),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_stuffed() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b".\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\nb\r\n", b"a\r\nb\r\n.\r\n"),
            (b"a\nb\n", b"a\r\nb\r\n.\r\n"),
            (b".\n..\n.a\nb.\n", b"..\r\n...\r\n..a\r\nb.\r\n.\r\n"),
            (b"a\r\n.\r\n", b"a\r\n..\r\n.\r\n"),
            (b"\n\n", b"\r\n\r\n.\r\n"),
            (b"a\rb", b"a\rb\r\n.\r\n"),
        ];
        for (message, expected) in table {
            assert_eq!(stuffed(message).0, *expected, "{:?}", String::from_utf8_lossy(message));
        }
    }
}
