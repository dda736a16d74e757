//! The forwarders against endpoints on real sockets that behave as a test says.

mod answers;
mod callbacks;
mod proxies;
mod redirects;
mod routes;
mod sockets;
mod tls;

use super::prepare::Found;
use super::{Completed, Forwarders, Job, NoAnswer, Refused, Response};
use crate::config::{Config, Origin, Route};
use crate::envelope::{Envelope, Peer};
use crate::message::{Body, Budget};
use crate::ring;
use crate::stats::Stats;
use crate::verify::Verifier;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// What came over a connection, in clear.
struct Request {
    line: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `None`: the connection ended before a header did.
    fn header(from: &mut impl std::io::BufRead) -> Option<Self> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let line = lines.next()?;
        let fields = lines.filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())));
        Some(Self { line, fields: fields.collect(), body: Vec::new() })
    }

    fn whole(from: &mut impl std::io::BufRead) -> Option<Self> {
        let mut request = Self::header(from)?;
        let length: u64 = request.field("content-length")?.parse().ok()?;
        from.take(length).read_to_end(&mut request.body).ok()?;
        (request.body.len() as u64 == length).then_some(request)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// One connection, as the script sees it.
struct Talk {
    /// Counted from 0.
    connection: usize,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Talk {
    /// Reads a whole request and keeps it for the test. False: the client has closed.
    fn request(&mut self) -> bool {
        let request = Request::whole(&mut self.reader);
        let came = request.is_some();
        self.seen.lock().unwrap().extend(request);
        came
    }

    /// Reads a request's header only.
    fn header(&mut self) {
        let header = Request::header(&mut self.reader);
        self.seen.lock().unwrap().extend(header);
    }

    /// False: the client takes no more.
    fn say(&mut self, octets: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(octets.as_ref()).is_ok()
    }

    /// Until the client closes.
    fn wait_for_close(&mut self) {
        let mut rest = [0; 4096];
        while self.reader.read(&mut rest).is_ok_and(|n| n > 0) {}
    }
}

struct Endpoint {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Endpoint {
    fn start(script: impl Fn(&mut Talk) + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", script)
    }

    fn start_on(address: &str, script: impl Fn(&mut Talk) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let endpoint = Self { address: listener.local_addr().unwrap(), connections: Arc::default(), seen: Arc::default() };
        let (connections, seen, script) = (Arc::clone(&endpoint.connections), Arc::clone(&endpoint.seen), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                // Else an answer behind TLS tickets waits for their acknowledgement, and an early close throws it away.
                stream.set_nodelay(true).unwrap();
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let connection = connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let reader = BufReader::new(stream.try_clone().unwrap());
                    script(&mut Talk { connection, stream, reader, seen });
                });
            }
        });
        endpoint
    }

    /// Answers every request with these octets.
    fn always(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::start(move |talk| while talk.request() && talk.say(&answer) {})
    }

    /// Takes requests and says nothing.
    fn silent() -> Self {
        Self::start(|talk| {
            talk.request();
            talk.wait_for_close();
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

type OnRing = Box<dyn FnOnce() + Send>;

/// The forwarders of one configuration, and a ring to run them on.
struct Rig {
    forwarders: Arc<Forwarders>,
    ring: mpsc::UnboundedSender<OnRing>,
    stats: Arc<Stats>,
    config: Config,
    budget: Arc<Budget>,
}

/// A route's table; `more` are further lines of it.
fn route(name: &str, url: &str, more: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nrecipients = [\"*\"]\nurl = \"{url}\"\nformat = \"rfc822\"\n{more}\n")
}

impl Rig {
    fn new(config: &str) -> Self {
        let config = Config::parse(Origin::File("test.toml".into()), config).unwrap();
        let stats = Stats::new();
        let verifier = Verifier::start(&config.dns).unwrap();
        let forwarders = Forwarders::start(&config, &stats, verifier).unwrap();
        let (ring, mut inbox) = mpsc::unbounded_channel::<OnRing>();
        std::thread::spawn(move || {
            let until_dropped = async move {
                while let Some(work) = inbox.recv().await {
                    work();
                }
            };
            ring::run(until_dropped).unwrap();
        });
        Self { forwarders, ring, stats, config, budget: Budget::new(256 * 1024 * 1024, 1.0, 1.0) }
    }

    fn on_ring(&self, work: impl FnOnce() + Send + 'static) {
        assert!(self.ring.send(Box::new(work)).is_ok(), "the ring runs");
    }

    /// Runs it as a task of the ring; it ends when nobody waits for its answer any more.
    fn run<F: Future<Output: Send> + 'static>(&self, task: impl FnOnce() -> F + Send + 'static) -> oneshot::Receiver<F::Output> {
        let (mut answer, receiver) = oneshot::channel();
        self.on_ring(move || {
            ring::spawn(async move {
                let done = tokio::select! {
                    done = task() => Some(done),
                    () = answer.closed() => None,
                };
                done.map(|done| answer.send(done));
            });
        });
        receiver
    }

    /// With one route, `r`.
    fn of(endpoint: &Endpoint, more: &str) -> Self {
        Self::new(&route("r", &endpoint.url("/in"), more))
    }

    fn route(&self, name: &str) -> Arc<Route> {
        Arc::clone(self.config.routes.iter().find(|route| route.name == name).unwrap())
    }

    fn job(&self, route: Arc<Route>, message: &[u8]) -> Job {
        let mut body = Body::new(self.budget.lease(&self.budget.share()));
        body.extend(message).unwrap();
        let target = Arc::clone(&route.target);
        Job {
            route,
            target,
            place: None,
            envelope: Arc::new(envelope()),
            body,
            header_len: 0,
            webhook_id: "msg_1".into(),
            received: Instant::now(),
            spf: None,
        }
    }

    fn submit(&self, route: &str, message: &[u8]) -> Result<oneshot::Receiver<Result<Completed, Refused>>, Refused> {
        self.submit_job(self.job(self.route(route), message))
    }

    /// `Err`: it did not get a place.
    fn submit_job(&self, job: Job) -> Result<oneshot::Receiver<Result<Completed, Refused>>, Refused> {
        let place = self.forwarders.enter(&job)?;
        let forwarders = Arc::clone(&self.forwarders);
        Ok(self.run(move || async move { forwarders.go(job, Found::default(), place).await }))
    }

    fn send(&self, message: &[u8]) -> Result<Response, NoAnswer> {
        answer(self.submit("r", message).unwrap())
    }

    /// With less time than a configuration may give.
    fn send_within(&self, timeout: Duration, message: &[u8]) -> Result<Response, NoAnswer> {
        answer(self.submit_within(timeout, message).unwrap())
    }

    fn submit_within(&self, timeout: Duration, message: &[u8]) -> Result<oneshot::Receiver<Result<Completed, Refused>>, Refused> {
        let route = Route { timeout, ..Route::clone(&self.route("r")) };
        self.submit_job(self.job(Arc::new(route), message))
    }
}

fn envelope() -> Envelope {
    Envelope {
        peer: Peer { ip: "192.0.2.7".parse().unwrap(), port: 4000 },
        helo: "client.example".into(),
        reverse_path: "from@example.com".into(),
        recipients: vec!["to@example.org".into()],
        declared_size: None,
        smtputf8: false,
        tls: None,
    }
}

fn answer(receiver: oneshot::Receiver<Result<Completed, Refused>>) -> Result<Response, NoAnswer> {
    receiver.blocking_recv().unwrap().unwrap().answer
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn broken(answer: Result<Response, NoAnswer>) -> String {
    match answer {
        Err(NoAnswer::Broken(why)) => why,
        other => panic!("not broken: {other:?}"),
    }
}

#[track_caller]
fn not_reached(answer: Result<Response, NoAnswer>) -> String {
    match answer {
        Err(NoAnswer::NotReached(why)) => why,
        other => panic!("reached: {other:?}"),
    }
}
