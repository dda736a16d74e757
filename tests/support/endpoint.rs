//! A real HTTP endpoint: a thread for each connection, every request kept byte for byte, and answers as bad as a test wants them.

use super::http::{Fields, read_body, read_head};
use super::wait::PATIENCE;
use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub(crate) connection: u64,
}

impl Request {
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.fields))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// What an endpoint does with a request.
#[derive(Clone)]
pub(crate) enum Answer {
    Respond {
        status: u16,
        fields: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// These octets, then FIN.
    Octets(Vec<u8>),
    /// These octets, then a reset.
    Reset(Vec<u8>),
    /// These octets, one each so often, then the connection stays open.
    Drip(Vec<u8>, Duration),
    /// These octets over and over, until the client goes away.
    Endless(Vec<u8>, Vec<u8>),
    /// Nothing, with the connection open.
    Hang,
    /// The answer, once the gate is open.
    Behind(Gate, Box<Self>),
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Respond { status, fields: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::Respond { status, fields: vec![("Content-Type".into(), "text/plain; charset=utf-8".into())], body: text.into() }
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).field("Location", location)
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        let Self::Respond { fields, .. } = &mut self else { panic!("only a response has fields") };
        fields.push((name.into(), value.into()));
        self
    }
}

/// Something that answers wait for.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait_for(&self, long: Duration) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(closed, long, |open| !*open).unwrap());
    }

    fn wait(&self, stop: &AtomicBool) {
        let mut open = self.0.0.lock().unwrap();
        while !*open && !stop.load(Ordering::Relaxed) {
            open = self.0.1.wait_timeout(open, Duration::from_millis(50)).unwrap().0;
        }
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;
type Early = dyn Fn(&str, &Fields) -> Option<Answer> + Send + Sync;

#[derive(Default)]
struct State {
    requests: Vec<Arc<Request>>,
}

struct Shared {
    script: Box<Script>,
    /// Decides on the head alone: the body is not read then.
    early: Option<Box<Early>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    state: Mutex<State>,
    more: Condvar,
    connections: AtomicU64,
    stop: AtomicBool,
}

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

/// What an endpoint is made of.
pub(crate) struct Builder {
    ip: IpAddr,
    script: Box<Script>,
    early: Option<Box<Early>>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Builder {
    pub(crate) fn on(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    pub(crate) fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Answers some requests by their target and fields, without reading their body.
    pub(crate) fn early(mut self, early: impl Fn(&str, &Fields) -> Option<Answer> + Send + Sync + 'static) -> Self {
        self.early = Some(Box::new(early));
        self
    }

    pub(crate) fn start(self) -> Endpoint {
        let listener = TcpListener::bind((self.ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: self.script,
            early: self.early,
            tls: self.tls,
            state: Mutex::default(),
            more: Condvar::new(),
            connections: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&for_thread);
                // A client that goes away ends the connection's thread, nothing else.
                std::thread::Builder::new().stack_size(256 << 10).spawn(move || drop(shared.serve(stream))).unwrap();
            }
        });
        Endpoint { address, shared }
    }
}

impl Endpoint {
    /// Answers each request by this function.
    pub(crate) fn with(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Builder {
        Builder { ip: Ipv4Addr::LOCALHOST.into(), script: Box::new(script), early: None, tls: None }
    }

    /// `200` to everything.
    pub(crate) fn ok() -> Self {
        Self::always(Answer::status(200))
    }

    pub(crate) fn always(answer: Answer) -> Self {
        Self::with(move |_| answer.clone()).start()
    }

    /// These answers in turn, the last one again and again.
    pub(crate) fn in_turn(answers: Vec<Answer>) -> Self {
        let left = Mutex::new(VecDeque::from(answers));
        Self::with(move |_| {
            let mut left = left.lock().unwrap();
            if left.len() > 1 { left.pop_front().unwrap() } else { left[0].clone() }
        })
        .start()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Arc<Request>> {
        self.lock().requests.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().requests.len()
    }

    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The only request that has come.
    #[track_caller]
    pub(crate) fn only(&self) -> Arc<Request> {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "requests: {requests:?}");
        Arc::clone(&requests[0])
    }

    /// Waits until so many requests have come whole.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Arc<Request>> {
        self.wait(&format!("{count} requests"), |state| state.requests.len() >= count);
        self.requests()
    }

    #[track_caller]
    fn wait(&self, what: &str, enough: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while !enough(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the endpoint waited for {what}, has {}", state.requests.len());
            state = self.shared.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets what came so far.
    pub(crate) fn clear(&self) {
        self.lock().requests.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then closes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// A stream in clear or under TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn reset(&self) -> io::Result<()> {
        socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(octets),
            Self::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let tls = rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Stream::Tls(Box::new(rustls::StreamOwned::new(tls, stream)))
            }
        };
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        loop {
            let Some((start, fields)) = read_head(&mut stream)? else { return Ok(()) };
            let mut parts = start.split(' ');
            let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if let Some(answer) = self.early.as_ref().and_then(|early| early(target, &fields)) {
                return self.answer(&answer, stream.get_mut()).map(drop);
            }
            let body = read_body(&mut stream, &fields, false)?;
            let (method, target) = (method.to_owned(), target.to_owned());
            let request = Arc::new(Request { method, target, fields, body, connection });
            let answer = (self.script)(&request);
            // Kept before the answer: what was answered can be looked up.
            self.state.lock().unwrap().requests.push(request);
            self.more.notify_all();
            if !self.answer(&answer, stream.get_mut())? {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    fn answer(&self, answer: &Answer, stream: &mut Stream) -> io::Result<bool> {
        match answer {
            Answer::Respond { status, fields, body } => {
                let mut head = format!("HTTP/1.1 {status} Whatever\r\n");
                for (name, value) in fields {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                if !matches!(status, 100..200 | 204 | 304) {
                    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                head.push_str("\r\n");
                let mut octets = head.into_bytes();
                octets.extend_from_slice(body);
                stream.write_all(&octets)?;
                stream.flush()?;
                return Ok(true);
            }
            Answer::Octets(octets) => {
                stream.write_all(octets)?;
                stream.flush()?;
            }
            Answer::Reset(octets) => {
                stream.write_all(octets)?;
                stream.flush()?;
                stream.reset()?;
            }
            Answer::Drip(octets, every) => {
                for octet in octets {
                    // A gate nobody opens: the pause is the behaviour.
                    Gate::default().wait_for(*every);
                    stream.write_all(std::slice::from_ref(octet))?;
                    stream.flush()?;
                }
                self.until_gone(stream);
            }
            Answer::Endless(head, octets) => {
                stream.write_all(head)?;
                while !self.stop.load(Ordering::Relaxed) {
                    stream.write_all(octets)?;
                }
            }
            Answer::Hang => self.until_gone(stream),
            Answer::Behind(gate, answer) => {
                gate.wait(&self.stop);
                return self.answer(answer, stream);
            }
        }
        Ok(false)
    }

    /// Until the client closes or the endpoint goes away.
    fn until_gone(&self, stream: &mut Stream) {
        let _ = stream.tcp().set_read_timeout(Some(Duration::from_millis(100)));
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}
