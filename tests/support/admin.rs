//! A client of the admin listener, over TCP or a Unix socket, that can send what a browser would not.

use super::http::{Fields, read_body, read_head};
use super::wait::PATIENCE;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub(crate) enum Admin {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Admin {
    /// From the address as the log has it: `127.0.0.1:8025` or `unix:/path`.
    pub(crate) fn new(address: &str) -> Self {
        match address.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(address.parse().unwrap()),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".into(),
        }
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        })
    }

    /// Any request: the head's lines as they are, then the body.
    pub(crate) fn request(&self, head: &str, body: &[u8]) -> io::Result<Response> {
        let mut stream = self.connect()?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut stream = BufReader::new(stream);
        let (start, fields) = read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = start.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let body = read_body(&mut stream, &fields, true)?;
        Ok(Response { status, fields, body })
    }

    pub(crate) fn try_get(&self, path: &str) -> io::Result<Response> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.host()), b"")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.try_get(path).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
        response.json()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, content_type: &str, body: &str) -> Response {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.host(),
            body.len()
        );
        self.request(&head, body.as_bytes()).unwrap()
    }

    /// Every record that a query gives, newest first, over all its pages.
    #[track_caller]
    pub(crate) fn records(&self, filter: &str) -> Vec<Value> {
        let mut records = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.json(&format!("/records?limit=500&{filter}{cursor}"));
            records.extend(page["records"].as_array().unwrap_or_else(|| panic!("{page}")).iter().cloned());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return records,
            }
        }
    }

    /// A number of `/stats`, by its path: `messages.delivered`.
    #[track_caller]
    pub(crate) fn stat(&self, path: &str) -> u64 {
        let stats = self.json("/stats");
        let value = path.split('.').fold(&stats, |value, key| &value[key]);
        value.as_u64().unwrap_or_else(|| panic!("{path}: {value} in {stats}"))
    }

    /// Waits until a number of `/stats` is this one.
    #[track_caller]
    pub(crate) fn wait_for_stat(&self, path: &str, wanted: u64) {
        super::eventually(&format!("{path} = {wanted}"), || (self.stat(path) == wanted).then_some(()));
    }

    /// Opens a server-sent event stream.
    pub(crate) fn events(&self, path: &str) -> Events {
        self.try_events(path).unwrap()
    }

    pub(crate) fn try_events(&self, path: &str) -> io::Result<Events> {
        let mut stream = self.connect()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.host())?;
        let mut stream = BufReader::new(stream);
        let (start, _) = read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if start.contains(" 200 ") { Ok(Events(stream)) } else { Err(io::Error::other(start)) }
    }
}

/// An event stream, read line by line; chunk sizes between them do not matter.
pub(crate) struct Events(BufReader<Box<dyn Stream>>);

impl Events {
    /// The data of the next event.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the event stream ended");
            if let Some(data) = line.strip_prefix("data:") {
                return serde_json::from_str(data.trim()).unwrap();
            }
        }
    }
}
