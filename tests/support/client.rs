//! An SMTP client that sends any octets and waits with a deadline.

use super::wait::PATIENCE;
use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

/// A whole reply, its lines without CRLF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) lines: Vec<String>,
}

impl Reply {
    /// Its only line, or its last.
    pub(crate) fn text(&self) -> &str {
        self.lines.last().unwrap()
    }

    #[track_caller]
    pub(crate) fn starts(&self, with: &str) -> &Self {
        assert!(self.text().starts_with(with), "reply {:?}, expected {with:?}", self.lines);
        self
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
    /// Between the two.
    Gone,
}

pub(crate) struct Client {
    stream: Stream,
    received: Vec<u8>,
}

impl Client {
    /// Connects and takes the banner.
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let mut client = Self::connect_silently(to);
        client.reply().starts("220 ");
        client
    }

    /// Connects from an address of this machine and reads nothing yet.
    #[track_caller]
    pub(crate) fn connect_from(from: IpAddr, to: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        Self::over(socket.into())
    }

    #[track_caller]
    pub(crate) fn connect_silently(to: SocketAddr) -> Self {
        Self::try_connect(to).unwrap()
    }

    pub(crate) fn try_connect(to: SocketAddr) -> io::Result<Self> {
        TcpStream::connect_timeout(&to, PATIENCE).map(Self::over)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), received: Vec::new() }
    }

    fn io(&mut self) -> &mut dyn ReadWrite {
        match &mut self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
            Stream::Gone => unreachable!("only inside starttls"),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Gone => unreachable!("only inside starttls"),
        }
    }

    pub(crate) fn try_send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.io().write_all(octets.as_ref())?;
        self.io().flush()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets).unwrap();
    }

    /// Each piece by itself, under TLS in records of its own, which then are cut at these places.
    #[track_caller]
    pub(crate) fn send_in_pieces(&mut self, pieces: &[&[u8]], cuts: &[usize]) {
        let Stream::Tls(stream) = &mut self.stream else { return pieces.iter().for_each(|piece| self.send(piece)) };
        let mut records = Vec::new();
        // A record holds no more, and what is written is kept until it is sent.
        for part in pieces.iter().flat_map(|piece| piece.chunks(16 * 1024)) {
            stream.conn.writer().write_all(part).unwrap();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut records).unwrap();
            }
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(records.len())).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for to in cuts.into_iter().chain([records.len()]) {
            stream.sock.write_all(&records[std::mem::replace(&mut from, to)..to]).unwrap();
        }
    }

    pub(crate) fn try_reply(&mut self) -> io::Result<Reply> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            while let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                let last = line.as_bytes().get(3) != Some(&b'-');
                let code = line.get(..3).and_then(|code| code.parse().ok());
                lines.push(line);
                if last {
                    let code = code.ok_or_else(|| io::Error::other(format!("not a reply: {lines:?}")))?;
                    return Ok(Reply { code, lines });
                }
            }
            let mut buffer = [0; 4096];
            let n = self.io().read(&mut buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&buffer[..n]);
        }
    }

    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}, received {:?}", String::from_utf8_lossy(&self.received)))
    }

    /// One command line and its reply.
    #[track_caller]
    pub(crate) fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    /// One command line whose reply must start so.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, reply: &str) -> Reply {
        let got = self.command(line);
        assert!(got.text().starts_with(reply), "{line:?}: {:?}, expected {reply:?}", got.lines);
        got
    }

    #[track_caller]
    pub(crate) fn ehlo(&mut self) -> Reply {
        self.expect("EHLO client.test", "250 ")
    }

    /// EHLO, MAIL and one RCPT for each recipient.
    #[track_caller]
    pub(crate) fn envelope(&mut self, from: &str, to: &[&str]) {
        self.ehlo();
        self.transaction(from, to);
    }

    /// MAIL and one RCPT for each recipient.
    #[track_caller]
    pub(crate) fn transaction(&mut self, from: &str, to: &[&str]) {
        self.expect(&format!("MAIL FROM:<{from}>"), "250 ");
        for to in to {
            self.expect(&format!("RCPT TO:<{to}>"), "250 ");
        }
    }

    /// DATA with this message, dot-stuffed; the reply to its end, or to DATA where it is told "later" there.
    #[track_caller]
    pub(crate) fn data(&mut self, message: &[u8]) -> Reply {
        let reply = self.command("DATA");
        if reply.code != 354 {
            assert_eq!(reply.code / 10, 45, "{reply:?}");
            return reply;
        }
        self.send(stuffed(message));
        self.reply()
    }

    /// One BDAT chunk and its reply.
    #[track_caller]
    pub(crate) fn bdat(&mut self, chunk: &[u8], last: bool) -> Reply {
        let mut octets = format!("BDAT {}{}\r\n", chunk.len(), if last { " LAST" } else { "" }).into_bytes();
        octets.extend_from_slice(chunk);
        self.send(octets);
        self.reply()
    }

    /// STARTTLS and the handshake, with these roots.
    #[track_caller]
    pub(crate) fn starttls(&mut self, config: Arc<rustls::ClientConfig>) {
        self.expect("STARTTLS", "220 ");
        self.handshake(config).unwrap();
    }

    /// The handshake alone, to its end.
    pub(crate) fn handshake(&mut self, config: Arc<rustls::ClientConfig>) -> io::Result<()> {
        assert!(self.received.is_empty(), "the server spoke before the handshake");
        let Stream::Plain(mut stream) = std::mem::replace(&mut self.stream, Stream::Gone) else { panic!("TLS already") };
        let name = ServerName::try_from("mx.test").unwrap();
        let mut tls = rustls::ClientConnection::new(config, name).unwrap();
        let done = tls.complete_io(&mut stream);
        self.stream = Stream::Tls(Box::new(rustls::StreamOwned::new(tls, stream)));
        done.map(drop)
    }

    /// Octets and close_notify behind them, in one segment.
    #[track_caller]
    pub(crate) fn send_and_close_tls(&mut self, octets: &[u8]) {
        let Stream::Tls(stream) = &mut self.stream else { panic!("no TLS") };
        stream.conn.writer().write_all(octets).unwrap();
        stream.conn.send_close_notify();
        let mut records = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut records).unwrap();
        }
        stream.sock.write_all(&records).unwrap();
    }

    pub(crate) fn tls_version(&self) -> Option<rustls::ProtocolVersion> {
        match &self.stream {
            Stream::Tls(stream) => stream.conn.protocol_version(),
            _ => None,
        }
    }

    pub(crate) fn handshake_kind(&self) -> Option<rustls::HandshakeKind> {
        match &self.stream {
            Stream::Tls(stream) => stream.conn.handshake_kind(),
            _ => None,
        }
    }

    /// The server has closed, with nothing more to say.
    #[track_caller]
    pub(crate) fn closed(&mut self) {
        let mut rest = std::mem::take(&mut self.received);
        let end = self.io().read_to_end(&mut rest);
        let by_tls = end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        let by_reset = end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
        assert!(end.is_ok() || by_tls || by_reset, "not closed: {end:?}");
        assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Everything that comes until the server closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.received);
        let _ = self.io().read_to_end(&mut rest);
        rest
    }

    /// FIN: nothing more will be sent.
    pub(crate) fn finish(&self) {
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// Goes away with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(self.tcp()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    #[track_caller]
    pub(crate) fn quit(mut self) {
        self.expect("QUIT", "221 ");
        self.closed();
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A message as DATA carries it, with its end (RFC 5321 section 4.5.2). It must end in CRLF or be empty.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(message.len() + message.len() / 64 + 8);
    let mut line_start = true;
    for &octet in message {
        if line_start && octet == b'.' {
            octets.push(b'.');
        }
        octets.push(octet);
        line_start = octet == b'\n' && octets.ends_with(b"\r\n");
    }
    octets.extend_from_slice(b".\r\n");
    octets
}

/// One message in a connection of its own; the reply to its end of data.
#[track_caller]
pub(crate) fn deliver(to: SocketAddr, from: &str, recipients: &[&str], message: &[u8]) -> Reply {
    let mut client = Client::connect(to);
    client.envelope(from, recipients);
    let reply = client.data(message);
    client.quit();
    reply
}
