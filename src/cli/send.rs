//! `mailsluice send`: submits messages over SMTP as another mail server would, and prints each reply. For trying out and for
//! handing a file in once more; it retries nothing.

use super::args::Send;
use super::client::{connect_tcp, reachable};
use super::{Exit, Failure, complain, load, print};
use crate::config::{Config, hostname};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// RFC 5321 4.5.3.2.6: a client waits 10 minutes for the reply to the end of data.
const REPLY_TIMEOUT: Duration = Duration::from_secs(600);
/// RFC 5321 4.5.3.1.5 allows 512 octets; a server that sends much more is none.
const MAX_REPLY_LINE: u64 = 8192;
const MAX_REPLY_LINES: usize = 200;

pub(super) fn run(config: Option<&Path>, options: &Send) -> Result<(), Failure> {
    // The configuration is needed only for what the command line leaves open.
    let config = if options.server.is_none() || options.to.is_empty() { Some(load(config)?) } else { None };
    let own_name = hostname::fully_qualified().filter(|name| hostname::is_domain(name)).unwrap_or_else(|| "localhost".to_owned());
    let server = match (&options.server, &config) {
        (Some(server), _) => with_port(server),
        (None, Some(config)) => first_listener(config)?,
        (None, None) => with_port("localhost"),
    };
    let to = match &config {
        Some(config) if options.to.is_empty() => vec![some_recipient(config)],
        _ => options.to.clone(),
    };
    let from = options.from.clone().unwrap_or_else(|| format!("sender@{own_name}"));
    for address in to.iter().chain([&from]) {
        check_address(address)?;
    }
    let mut session = Session::open(&server, &own_name)?;
    let mut worst = Verdict::Taken;
    if options.files.is_empty() {
        worst = session.submit("sample", &from, &to, &sample(&from, &to, &own_name))?;
    }
    for path in &options.files {
        let message = read(path)?;
        worst = worst.max(session.submit(&path.display().to_string(), &from, &to, &message)?);
    }
    session.quit();
    match worst {
        Verdict::Taken => Ok(()),
        Verdict::Deferred => Err(Failure::new(Exit::Unavailable, format!("{server} deferred a message; send it again later"))),
        Verdict::Refused => Err(Failure::new(Exit::Data, format!("{server} refused a message; its reply says what to change"))),
    }
}

/// In the order in which the exit code counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Taken,
    Deferred,
    Refused,
}

fn with_port(server: &str) -> String {
    let has_port =
        server.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') || host.ends_with(']') && port.parse::<u16>().is_ok());
    if has_port { server.to_owned() } else { format!("{server}:25") }
}

fn first_listener(config: &Config) -> Result<String, Failure> {
    match config.smtp.listen.first() {
        Some(address) => Ok(reachable(*address).to_string()),
        None => Err(Failure::new(Exit::Configuration, "smtp.listen is empty; name a server with --server HOST:PORT")),
    }
}

/// An address that the first route takes: its first glob with something in place of each star.
fn some_recipient(config: &Config) -> String {
    let glob = config.routes.first().and_then(|route| route.recipients.first()).map_or("*", String::as_str);
    let address = glob.replace("**", "*").replace('*', "test");
    if address.contains('@') { address } else { format!("{address}@{}", config.smtp.hostname) }
}

/// An address becomes part of a command line, so nothing in it may end that.
fn check_address(address: &str) -> Result<(), Failure> {
    if address.chars().any(|c| c.is_control() || c == '<' || c == '>') {
        return Err(Failure::new(Exit::Usage, format!("{address:?} is no address; write it as in a@example.com")));
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let octets = if path.as_os_str() == "-" {
        let mut octets = Vec::new();
        io::stdin().lock().read_to_end(&mut octets).map(|_| octets)
    } else {
        std::fs::read(path)
    };
    octets.map_err(|error| Failure::new(Failure::code_of(&error), format!("{}: {error}; name a message file", path.display())))
}

/// A message with something to see for every part of the request: both texts and an attachment.
fn sample(from: &str, to: &[String], own_name: &str) -> Vec<u8> {
    let now = jiff::Timestamp::now();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&now).unwrap_or_default();
    let id = now.as_nanosecond();
    let sender = if from.is_empty() { "postmaster@localhost" } else { from };
    let text = format!(
        "From: Sample Sender <{sender}>\r\n\
         To: {to}\r\n\
         Subject: =?UTF-8?Q?A_sample_message_=E2=9C=94?=\r\n\
         Date: {date}\r\n\
         Message-ID: <{id}@{own_name}>\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=outer\r\n\
         \r\n\
         --outer\r\n\
         Content-Type: multipart/alternative; boundary=inner\r\n\
         \r\n\
         --inner\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         \r\n\
         Hello,\r\n\
         \r\n\
         this message was made by \"mailsluice send\".\r\n\
         --inner\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         \r\n\
         <p>Hello,</p>\r\n\
         <p>this message was made by <b>mailsluice send</b>.</p>\r\n\
         --inner--\r\n\
         --outer\r\n\
         Content-Type: text/csv; name=\"numbers.csv\"\r\n\
         Content-Disposition: attachment; filename=\"numbers.csv\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         \r\n\
         bnVtYmVyLHNxdWFyZQoxLDEKMiw0CjMsOQo=\r\n\
         --outer--\r\n",
        to = to.join(", "),
    );
    text.into_bytes()
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

struct Session {
    stream: BufReader<TcpStream>,
    server: String,
    extensions: Vec<String>,
}

impl Session {
    fn open(server: &str, own_name: &str) -> Result<Self, Failure> {
        let unreachable = |error: io::Error| {
            Failure::new(Exit::Unavailable, format!("{server}: {error}; start the daemon, or name another one with --server HOST:PORT"))
        };
        let stream = connect_tcp(server, CONNECT_TIMEOUT).map_err(unreachable)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT)).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut session = Self { stream: BufReader::new(stream), server: server.to_owned(), extensions: Vec::new() };
        let greeting = session.reply()?;
        session.expect(&greeting)?;
        let (ehlo, lines) = session.command_lines(&format!("EHLO {own_name}"))?;
        session.expect(&ehlo)?;
        session.extensions = lines.into_iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(session)
    }

    /// One transaction; prints the replies that decide.
    fn submit(&mut self, name: &str, from: &str, to: &[String], message: &[u8]) -> Result<Verdict, Failure> {
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
        let written = self.stream.get_mut().write_all(&data);
        let reply = match (self.reply(), written) {
            (Ok(reply), _) => reply,
            (Err(_), Err(error)) => return Err(self.lost(&error)),
            (Err(failure), Ok(())) => return Err(failure),
        };
        print(&format!("{name}: {reply}\n"))?;
        Ok(worst.max(reply.verdict()))
    }

    fn quit(mut self) {
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
        let written = self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes());
        written.map_err(|error| self.lost(&error))?;
        self.reply_lines()
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
    use std::net::TcpListener;

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

    #[test]
    fn ports() {
        for (server, expected) in [
            ("mx.example.com", "mx.example.com:25"),
            ("mx.example.com:2525", "mx.example.com:2525"),
            ("[::1]:2525", "[::1]:2525"),
            ("[::1]", "[::1]:25"),
            ("127.0.0.1", "127.0.0.1:25"),
        ] {
            assert_eq!(with_port(server), expected);
        }
    }

    #[test]
    fn a_recipient_of_the_first_route() {
        for (glob, expected) in [
            ("*", "test@mx.example.com"),
            ("*@tickets.example.com", "test@tickets.example.com"),
            ("support+*@example.com", "support+test@example.com"),
            ("*@*", "test@test"),
            ("a@example.com", "a@example.com"),
        ] {
            let text =
                format!("[smtp]\nhostname = \"mx.example.com\"\n[[route]]\nrecipients = [\"{glob}\"]\nurl = \"http://localhost/\"\n");
            let config = Config::parse(crate::config::Origin::Development, &text).expect("good");
            let route = crate::route::Routes::new(&config.routes);
            let address = some_recipient(&config);
            assert_eq!(address, expected);
            assert!(route.find(&address).is_some(), "{address}");
        }
    }

    /// A server that says each line of its script after one line of the client's (none before the first).
    fn scripted(script: &'static [&'static str]) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let mut heard = String::new();
            for line in script {
                reader.get_mut().write_all(line.as_bytes()).expect("it reads");
                let data = line.starts_with("354");
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).expect("a line") == 0 {
                        return heard;
                    }
                    heard.push_str(&line);
                    if !data || line == ".\r\n" {
                        break;
                    }
                }
            }
            heard
        });
        (address, server)
    }

    fn send(server: &str, to: &[&str], files: &[PathBuf]) -> Result<(), Failure> {
        let to = to.iter().map(|&address| address.to_owned()).collect();
        run(None, &Send { to, from: Some("a@b.example".to_owned()), server: Some(server.to_owned()), files: files.to_vec() })
    }

    #[test]
    fn a_transaction() {
        let (server, heard) = scripted(&[
            "220 mx\r\n",
            "250-mx\r\n250-SIZE 1000\r\n250 8BITMIME\r\n",
            "250 2.1.0 Ok\r\n",
            "550 5.1.1 no\r\n",
            "250 2.1.5 Ok\r\n",
            "354 go\r\n",
            "250 2.0.0 Ok: id\r\n",
            "221 bye\r\n",
        ]);
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("a.eml");
        std::fs::write(&file, "Subject: x\n\n.ä\n").expect("it can be written");
        let failure = send(&server, &["no@c.example", "yes@c.example"], &[file]).expect_err("one recipient was refused");
        assert_eq!(failure.exit, Exit::Data);
        let heard = heard.join().expect("it ends");
        let (ehlo, rest) = heard.split_once("\r\n").expect("lines");
        assert!(ehlo.starts_with("EHLO "), "{ehlo}");
        assert_eq!(
            rest,
            "MAIL FROM:<a@b.example> SIZE=19 BODY=8BITMIME\r\nRCPT TO:<no@c.example>\r\nRCPT TO:<yes@c.example>\r\nDATA\r\n\
             Subject: x\r\n\r\n..ä\r\n.\r\nQUIT\r\n"
        );
    }

    #[test]
    fn codes() {
        let table: [(&[&str], Option<Exit>); 6] = [
            (&["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "250 Ok\r\n", "221 bye\r\n"], None),
            (&["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "554 5.7.1 no\r\n", "221 bye\r\n"], Some(Exit::Data)),
            (
                &["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "450 4.3.0 later\r\n", "221 bye\r\n"],
                Some(Exit::Unavailable),
            ),
            (&["421 4.7.0 full\r\n"], Some(Exit::Unavailable)),
            (&["554 no\r\n"], Some(Exit::Data)),
            (&["HTTP/1.1 400 Bad Request\r\n"], Some(Exit::Unavailable)),
        ];
        for (script, expected) in table {
            let script: &'static [&'static str] = Vec::leak(script.to_vec());
            let (server, heard) = scripted(script);
            let got = send(&server, &["c@d.example"], &[]).err().map(|failure| failure.exit);
            assert_eq!(got, expected, "{script:?}");
            heard.join().expect("it ends");
        }
    }

    #[test]
    fn nothing_is_smuggled_into_a_command() {
        let failure = send("127.0.0.1:1", &["a@b>\r\nRSET"], &[]).expect_err("it is no address");
        assert_eq!(failure.exit, Exit::Usage);
        let failure = send("127.0.0.1:1", &["a@b"], &[]).expect_err("nobody listens");
        assert_eq!(failure.exit, Exit::Unavailable);
    }
}
