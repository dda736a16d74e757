//! An endpoint that does what it can and no more, as real ones are: it takes every request, keeps what it cannot work on yet in a queue
//! of its own, first in, first out, and works on when its client is gone. And senders who come however many wait already.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, sleep_until, timeout};

/// How long one message takes, seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Takes {
    Constant(f64),
    Exponential(f64),
    /// One in ten the second.
    Mixed(f64, f64),
    /// Every second one the second.
    Turns(f64, f64),
}

impl Takes {
    pub(crate) fn mean(self) -> f64 {
        match self {
            Self::Constant(takes) | Self::Exponential(takes) => takes,
            Self::Mixed(quick, slow) => 0.9 * quick + 0.1 * slow,
            Self::Turns(quick, slow) => f64::midpoint(quick, slow),
        }
    }

    fn draw(self, dice: &Dice, number: usize) -> Duration {
        Duration::from_secs_f64(match self {
            Self::Constant(takes) => takes,
            Self::Exponential(mean) => dice.exponential(mean),
            Self::Mixed(_, slow) if dice.throw() < 0.1 => slow,
            Self::Turns(_, slow) if number % 2 == 1 => slow,
            Self::Mixed(quick, _) | Self::Turns(quick, _) => quick,
        })
    }
}

/// xorshift64*.
struct Dice(Cell<u64>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    #[expect(clippy::cast_precision_loss, reason = "a number between 0 and 1")]
    fn throw(&self) -> f64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&self, mean: f64) -> f64 {
        -mean * (1.0 - self.throw()).ln()
    }
}

/// A piece of work that the endpoint has done.
#[derive(Clone, Copy)]
pub(crate) struct Worked {
    pub(crate) id: u64,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
}

#[derive(Default)]
struct Done {
    worked: Vec<Worked>,
    inside: usize,
    begun: usize,
}

/// Runs in a thread of its own until the process ends.
pub(crate) struct Busy {
    address: SocketAddr,
    done: Arc<Mutex<Done>>,
}

struct Inside {
    workers: Semaphore,
    takes: Takes,
    dice: Dice,
    done: Arc<Mutex<Done>>,
}

impl Busy {
    pub(crate) fn start(workers: usize, takes: Takes) -> Self {
        // A connection of each that waits inside, and of each that sends.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, done) = (listener.local_addr().unwrap(), Arc::<Mutex<Done>>::default());
        let shared = Arc::clone(&done);
        std::thread::spawn(move || {
            run(async move {
                let inside = Rc::new(Inside { workers: Semaphore::new(workers), takes, dice: Dice::new(7), done: shared });
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let inside = Rc::clone(&inside);
                    spawn_local(async move { serve(stream, &inside).await.unwrap_or_default() });
                }
            });
        });
        Self { address, done }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    /// All that it has done, once nothing is inside any more.
    #[track_caller]
    pub(crate) fn worked(&self) -> Vec<Worked> {
        super::eventually("the endpoint to come to rest", || (self.done.lock().unwrap().inside == 0).then_some(()));
        self.done.lock().unwrap().worked.clone()
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future);
}

async fn serve(mut stream: TcpStream, inside: &Rc<Inside>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut octets = Vec::new();
    loop {
        let (length, id) = loop {
            if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
                let number = |name: &str, text: &[u8]| -> Option<u64> {
                    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
                    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
                };
                let length = number("content-length:", &octets[..end]).unwrap() as usize + end + 4;
                if octets.len() >= length {
                    break (length, number("x-id:", &octets[end + 4..length]).unwrap_or_default());
                }
            }
            if stream.read_buf(&mut octets).await? == 0 {
                return Ok(());
            }
        };
        octets.drain(..length);
        let (told, answer) = oneshot::channel();
        inside.done.lock().unwrap().inside += 1;
        let work = Rc::clone(inside);
        // The client's going ends the wait for the answer, not the work.
        spawn_local(async move {
            let _worker = work.workers.acquire().await;
            let begun = Instant::now();
            let number = {
                let mut done = work.done.lock().unwrap();
                done.begun += 1;
                done.begun
            };
            sleep(work.takes.draw(&work.dice, number)).await;
            let mut done = work.done.lock().unwrap();
            done.worked.push(Worked { id, begun, ended: Instant::now() });
            done.inside -= 1;
            drop(done);
            let _ = told.send(());
        });
        answer.await.map_err(std::io::Error::other)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    }
}

/// A message that was sent.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) code: u16,
    /// From its end, or from DATA where that was refused.
    pub(crate) told_after: Duration,
}

/// Messages to a recipient for so long, so many a second, whatever becomes of those before (Poisson); returns when all are answered.
pub(crate) fn arrivals(to: SocketAddr, per_second: f64, long: Duration) -> HashMap<u64, Sent> {
    let sent = Rc::new(RefCell::new(HashMap::new()));
    let shared = Rc::clone(&sent);
    run(async move {
        let (dice, start) = (Dice::new(11), tokio::time::Instant::now());
        let idle = Rc::new(RefCell::new(Vec::new()));
        let (mut next, mut all) = (start, JoinSet::new());
        for id in 0.. {
            next += Duration::from_secs_f64(dice.exponential(1.0 / per_second));
            if next > start + long {
                break;
            }
            sleep_until(next).await;
            let (idle, sent) = (Rc::clone(&idle), Rc::clone(&shared));
            all.spawn_local(async move {
                let at = Instant::now();
                let outcome = timeout(Duration::from_secs(90), send(to, id, &idle)).await.expect("an answer").expect("a session");
                sent.borrow_mut().insert(id, Sent { at, code: outcome.0, told_after: outcome.1 });
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    });
    Rc::into_inner(sent).unwrap().into_inner()
}

/// So many who send one message after the other, for so long; who is refused comes again a tenth of a second later. Returns when all are
/// answered.
pub(crate) fn crowd(to: SocketAddr, clients: u64, long: Duration) -> Vec<Sent> {
    let sent = Rc::new(RefCell::new(Vec::new()));
    let shared = Rc::clone(&sent);
    run(async move {
        let (until, idle, mut all) = (Instant::now() + long, Rc::new(RefCell::new(Vec::new())), JoinSet::new());
        for client in 0..clients {
            let (idle, sent) = (Rc::clone(&idle), Rc::clone(&shared));
            all.spawn_local(async move {
                while Instant::now() < until {
                    let at = Instant::now();
                    let (code, told_after) =
                        timeout(Duration::from_secs(90), send(to, client, &idle)).await.expect("an answer").expect("a session");
                    sent.borrow_mut().push(Sent { at, code, told_after });
                    if code != 250 {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    });
    Rc::into_inner(sent).unwrap().into_inner()
}

struct Session {
    stream: TcpStream,
    octets: Vec<u8>,
}

impl Session {
    async fn open(to: SocketAddr) -> std::io::Result<Self> {
        let mut session = Self { stream: TcpStream::connect(to).await?, octets: Vec::new() };
        session.stream.set_nodelay(true)?;
        session.reply().await?;
        session.command("EHLO load.test\r\n").await?;
        Ok(session)
    }

    async fn command(&mut self, line: &str) -> std::io::Result<u16> {
        self.stream.write_all(line.as_bytes()).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> std::io::Result<u16> {
        loop {
            while let Some(end) = self.octets.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.octets.drain(..=end).collect();
                if line[3] == b' ' {
                    return std::str::from_utf8(&line[..3]).unwrap().parse().map_err(std::io::Error::other);
                }
            }
            if self.stream.read_buf(&mut self.octets).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

async fn send(to: SocketAddr, id: u64, idle: &RefCell<Vec<Session>>) -> std::io::Result<(u16, Duration)> {
    let kept = idle.borrow_mut().pop();
    let mut session = match kept {
        Some(session) => session,
        None => Session::open(to).await?,
    };
    session.command("MAIL FROM:<a@sender.test>\r\n").await?;
    session.command("RCPT TO:<b@example.test>\r\n").await?;
    let mut asked = Instant::now();
    let mut code = session.command("DATA\r\n").await?;
    if code == 354 {
        let message = format!("Subject: one of many\r\nX-Id: {id}\r\n\r\ntext\r\n.\r\n");
        session.stream.write_all(message.as_bytes()).await?;
        asked = Instant::now();
        code = session.reply().await?;
    }
    let told_after = asked.elapsed();
    session.command("RSET\r\n").await?;
    idle.borrow_mut().push(session);
    Ok((code, told_after))
}
