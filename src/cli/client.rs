//! The client commands' HTTP to the running daemon: over TCP or its Unix socket, found through the configuration or
//! `--admin`, with the token where there is one.

use super::args::Admin;
use super::choice::Choice;
use super::{Exit, Failure};
use crate::config::{AdminListen, Secret};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Response;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Body};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of 1000 records with long texts is a few MiB.
const MAX_ANSWER: u64 = 64 << 20;

/// The running daemon, as the client commands see it.
pub(super) struct Client {
    agent: Agent,
    /// For the request line and for errors.
    address: Address,
    token: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// Host and port.
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => write!(f, "http://{host}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Client {
    pub(super) fn new(config: &Choice, options: &Admin) -> Result<Self, Failure> {
        let (address, mut token) = match &options.admin {
            Some(url) => (named(url)?, None),
            None => {
                let config = config.load()?;
                let address = match config.admin.listen {
                    AdminListen::Tcp(address) => Address::Tcp(reachable(address).to_string()),
                    AdminListen::Unix(path) => Address::Unix(path),
                };
                (address, config.admin.token)
            }
        };
        if let Some(path) = &options.token_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(Failure::code_of(&error), format!("{}: {error}; name a file with the admin token", path.display()))
            })?;
            token = Some(Secret::new(text.trim()));
        }
        let agent_config = Agent::config_builder().proxy(None).http_status_as_error(false).max_redirects(0).max_idle_connections(1).build();
        let agent = Agent::with_parts(agent_config, Dial(address.clone()), NoResolver);
        Ok(Self { agent, address, token })
    }

    /// A small answer, whole.
    pub(super) fn get(&self, path: &str) -> Result<String, Failure> {
        self.text(self.open(path)?)
    }

    /// An answer that goes on: read it as it comes.
    pub(super) fn stream(&self, path: &str) -> Result<impl Read + use<>, Failure> {
        Ok(self.open(path)?.into_body().into_reader())
    }

    pub(super) fn post(&self, path: &str, body: &serde_json::Value) -> Result<String, Failure> {
        let mut request = self.agent.post(self.url(path)).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        let response = request.send(body.to_string()).map_err(|error| self.unreachable(error))?;
        let response = self.accepted(response)?;
        self.text(response)
    }

    fn open(&self, path: &str) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        let response = request.call().map_err(|error| self.unreachable(error))?;
        self.accepted(response)
    }

    fn url(&self, path: &str) -> String {
        match &self.address {
            Address::Tcp(host) => format!("http://{host}{path}"),
            Address::Unix(_) => format!("http://localhost{path}"),
        }
    }

    fn text(&self, response: Response<Body>) -> Result<String, Failure> {
        let mut body = response.into_body();
        body.with_config().limit(MAX_ANSWER).read_to_string().map_err(|error| self.broken(error))
    }

    fn accepted(&self, response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let text = self.text(response)?;
        let said = serde_json::from_str::<serde_json::Value>(&text).ok();
        let said = said.as_ref().and_then(|value| value.get("error")).and_then(serde_json::Value::as_str).unwrap_or("no reason given");
        let exit = match status {
            401 | 403 => Exit::NoPermission,
            400..=499 => Exit::Data,
            _ => Exit::Unavailable,
        };
        Err(Failure::new(exit, format!("{} answered {status}: {said}", self.address)))
    }

    fn unreachable(&self, error: ureq::Error) -> Failure {
        let denied = matches!(&error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied);
        let exit = if denied { Exit::NoPermission } else { Exit::Unavailable };
        let error = without_prefix(error);
        let line = format!("{}: {error}; start the daemon, or name its admin address with --config FILE or --admin URL", self.address);
        Failure::new(exit, line)
    }

    /// The connection ended within an answer.
    pub(super) fn broken(&self, error: impl fmt::Display) -> Failure {
        Failure::new(Exit::Unavailable, format!("{}: the answer broke off: {error}; look whether the daemon still runs", self.address))
    }
}

fn without_prefix(error: ureq::Error) -> String {
    if let ureq::Error::Io(error) = error { error.to_string() } else { error.to_string() }
}

fn named(url: &str) -> Result<Address, Failure> {
    if let Some(path) = url.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    let host = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).filter(|host| !host.is_empty() && !host.contains('/'));
    match host {
        // RFC 3986 3.2.2: only an address in brackets may have more colons.
        Some(host) if host.contains("]:") || (host.contains(':') && !host.ends_with(']')) => Ok(Address::Tcp(host.to_owned())),
        Some(host) => Ok(Address::Tcp(format!("{host}:80"))),
        None => Err(Failure::new(
            Exit::Usage,
            format!("--admin {url:?} is no admin address; write http://HOST:PORT or unix:/PATH (for another machine: ssh -L)"),
        )),
    }
}

/// The address at which a listener on this machine is reached.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match (address.ip().is_unspecified(), address.is_ipv4()) {
        (true, true) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, false) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (false, _) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Connects a socket of either kind within a deadline. `[::1]` may be missing where IPv6 is off; a listener on `[::]` then
/// is one on IPv4.
pub(super) fn connect_tcp(host: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = host.to_socket_addrs()?.collect();
    if let [SocketAddr::V6(only)] = addresses.as_slice()
        && *only.ip() == Ipv6Addr::LOCALHOST
    {
        addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), only.port()));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// ureq asks before it connects; [`Dial`] resolves by itself.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &ureq::http::Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        Ok(addresses)
    }
}

#[derive(Debug)]
struct Dial(Address);

impl Connector<()> for Dial {
    type Out = Line;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Line>, ureq::Error> {
        let stream = match &self.0 {
            Address::Tcp(host) => {
                let stream = connect_tcp(host, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Line { stream, buffers }))
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection without deadlines: the user waits as long as they like, and `forget` may take its time.
struct Line {
    stream: Stream,
    buffers: LazyBuffers,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl Transport for Line {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(output)?,
            Stream::Unix(stream) => stream.write_all(output)?,
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let input = self.buffers.input_append_buf();
        let amount = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(input)?,
            Stream::Unix(stream) => stream.read(input)?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// A connection that stood idle is not used again: a restarted daemon would be noticed too late.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// A query of the admin listener, percent-encoded.
pub(super) fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    #[test]
    fn admin_addresses() {
        let tcp = |host: &str| Some(Address::Tcp(host.to_owned()));
        let table = [
            ("http://127.0.0.1:8025", tcp("127.0.0.1:8025")),
            ("http://[::1]:8025/", tcp("[::1]:8025")),
            ("http://[::1]", tcp("[::1]:80")),
            ("http://mx.example.com", tcp("mx.example.com:80")),
            ("unix:/run/mailsluice/admin.sock", Some(Address::Unix("/run/mailsluice/admin.sock".into()))),
            ("unix:admin.sock", None),
            ("https://mx.example.com", None),
            ("127.0.0.1:8025", None),
            ("http://", None),
            ("http://a/b", None),
        ];
        for (url, expected) in table {
            assert_eq!(named(url).ok(), expected, "{url}");
        }
    }

    /// Answers one request and gives back what was asked.
    fn answer_once(listener: UnixListener, answer: &'static str) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let mut asked = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                asked.push_str(&line);
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            asked.push_str(&String::from_utf8_lossy(&body));
            reader.into_inner().write_all(answer.as_bytes()).expect("it reads");
            asked
        })
    }

    #[test]
    fn over_a_socket_with_a_token() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("admin.sock");
        let token = folder.path().join("token");
        std::fs::write(&token, "t0ken\n").expect("it can be written");
        let options = Admin { admin: Some(format!("unix:{}", path.display())), token_file: Some(token) };
        let client = Client::new(&Choice::Development, &options).expect("options");
        let server = answer_once(
            UnixListener::bind(&path).expect("a socket"),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n3\r\n 1}\r\n0\r\n\r\n",
        );
        let got = client.post("/forget", &serde_json::json!({"address": "a@b.example"})).expect("an answer");
        assert_eq!(got, "{\"a\": 1}");
        let asked = server.join().expect("it ends").to_ascii_lowercase();
        assert!(asked.starts_with("post /forget http/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nauthorization: bearer t0ken\r\n"), "{asked}");
        assert!(asked.ends_with("\r\n\r\n{\"address\":\"a@b.example\"}"), "{asked}");
    }

    #[test]
    fn what_goes_wrong_is_one_line_with_a_code() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("admin.sock");
        let options = Admin { admin: Some(format!("unix:{}", path.display())), token_file: None };
        let client = Client::new(&Choice::Development, &options).expect("options");
        let failure = client.get("/stats").expect_err("nobody listens");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.line.contains("No such file") && failure.line.contains("start the daemon"), "{}", failure.line);

        let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 24\r\n\r\n{\"error\":\"send a token\"}";
        let server = answer_once(UnixListener::bind(&path).expect("a socket"), refusal);
        let failure = client.get("/stats").expect_err("a refusal");
        assert_eq!(failure.exit, Exit::NoPermission);
        assert!(failure.line.ends_with("answered 401: send a token"), "{}", failure.line);
        server.join().expect("it ends");
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(with_query("/records", &[("sender", "a+b@c"), ("limit", "5")]), "/records?sender=a%2Bb%40c&limit=5");
        assert_eq!(with_query("/records", &[]), "/records");
    }
}
