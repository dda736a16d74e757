//! One ring thread: accepts on every listener and serves each connection as a task of its own.
//!
//! Logs a warning when descriptors run out; fails by telling the peer `421` and going on.

use super::Shared;
use super::connection::Connection;
use super::present::{Guest, RingState};
use super::proxy::{self, Header};
use super::stream::Stream;
use crate::envelope::Peer;
use crate::ring::{self, Conn, Listener};
use crate::smtp::{Refused, reply};
use crate::stats::BEAT_EVERY;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A connection that we will not serve gets its one line within this.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A trusted proxy's header comes at once or never.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at once of its header.
const PROXY_READ: usize = 1024;
/// Refused connections of a ring that are listened to for a moment, so that they read why. More are no use to anybody, and each has a
/// descriptor.
const LINGERING_MAX: usize = 32;
/// Pause after descriptors ran out.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A running ring thread.
pub struct Ring {
    commands: mpsc::UnboundedSender<Command>,
    thread: std::thread::JoinHandle<()>,
}

enum Command {
    Accept,
    Drain,
}

impl Ring {
    /// Opens the doors. Said when everything else stands: a crowd that waits at the listening sockets takes all descriptors it can get.
    pub fn accept(&self) {
        // A ring that has ended has nothing to accept with; its end is logged.
        drop(self.commands.send(Command::Accept));
    }

    /// No new connection from now on; idle ones are told and closed. The thread ends with its last connection.
    pub fn drain(&self) {
        // A ring that has ended has nothing to drain.
        drop(self.commands.send(Command::Drain));
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts ring thread `number` on its own duplicates of the listening sockets; returns once it could accept, or why it cannot.
///
/// # Errors
/// io_uring is forbidden, or there is no memory or descriptor for the ring.
pub fn start(number: usize, shared: Arc<Shared>, sockets: Vec<TcpListener>) -> io::Result<Ring> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("ring-{number}")).spawn(move || {
        let result = ring::run(async move {
            // A task: what the ring itself waits for is looked at in each of its turns.
            let (done, end) = oneshot::channel::<()>();
            ring::spawn(async move {
                accept_all(number, shared, sockets, inbox, ready).await;
                drop(done);
            });
            // Its other half is dropped, by a panic as well, which is logged.
            end.await.unwrap_or(());
        });
        if let Err(error) = result {
            tracing::error!(%error, "a ring could not be made");
        }
    })?;
    match started.recv() {
        Ok(()) => Ok(Ring { commands, thread }),
        // The thread has ended before it had a ring: ask for the reason once more, on this thread.
        Err(_) => Err(ring::probe().err().unwrap_or_else(|| io::Error::other("the ring thread ended at its start"))),
    }
}

async fn accept_all(
    number: usize,
    shared: Arc<Shared>,
    sockets: Vec<TcpListener>,
    inbox: mpsc::UnboundedReceiver<Command>,
    ready: SyncSender<()>,
) {
    let pulse = shared.stats.pulses.begin(format!("ring-{number}"));
    let ring = Rc::new(RingState::new(shared));
    let listeners: Vec<_> = sockets.into_iter().map(|socket| Rc::new(Listener::new(socket))).collect();
    // Only a daemon that has given up waiting is not there any more.
    ready.send(()).ok();
    let take: Rc<dyn Fn(Conn, SocketAddr)> = Rc::new({
        let ring = Rc::clone(&ring);
        move |conn, address| take(&ring, conn, address)
    });
    let beat = || {
        pulse.beat();
        ring.desk.beat.notify_waiters();
    };
    listen(&listeners, inbox, &take, beat).await;
    ring.drain();
    while !ring.is_empty() || listeners.iter().any(|listener| Rc::strong_count(listener) > 1) {
        beat();
        let tick = Instant::now() + Duration::from_millis(100);
        ring::timeout_at(tick, ring.empty.notified()).await;
    }
}

/// Listens until it is told to drain, whatever becomes of what is taken.
async fn listen(
    listeners: &[Rc<Listener>],
    mut inbox: mpsc::UnboundedReceiver<Command>,
    take: &Rc<dyn Fn(Conn, SocketAddr)>,
    on_beat: impl Fn(),
) {
    let mut beat = tokio::time::interval(BEAT_EVERY);
    let (stopped, mut stops) = mpsc::unbounded_channel();
    let accept_on = |number: usize| {
        if let Some(listener) = listeners.get(number) {
            ring::spawn(accept(Rc::clone(listener), Rc::clone(take), Stopped { number, to: stopped.clone() }));
        }
    };
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Accept) => (0..listeners.len()).for_each(accept_on),
                Some(Command::Drain) => break,
                None => break,
            },
            // A panic has ended the task (and is logged), never the listening.
            Some(number) = stops.recv() => accept_on(number),
            _ = beat.tick() => on_beat(),
        }
    }
    listeners.iter().for_each(|listener| listener.stop());
}

/// Tells that a listener's task has ended, in whatever way.
struct Stopped {
    number: usize,
    to: mpsc::UnboundedSender<usize>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Nobody listens any more when the ring drains.
        self.to.send(self.number).ok();
    }
}

/// Accepts until the listener is stopped; never dropped in between (the kernel would go on accepting for nobody).
async fn accept(listener: Rc<Listener>, take: Rc<dyn Fn(Conn, SocketAddr)>, _stopped: Stopped) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Ok((conn, address)) => take(conn, address),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                ring::sleep_until(Instant::now() + BACK_OFF).await;
            }
        }
    }
}

fn take(ring: &Rc<RingState>, conn: Conn, address: SocketAddr) {
    if conn.on_spare() {
        tracing::warn!("out of descriptors, a connection was told to come later: raise LimitNOFILE or lower smtp.max_connections");
        return refuse(ring, conn, address.ip().to_canonical());
    }
    admit(ring, conn, address);
}

fn admit(ring: &Rc<RingState>, conn: Conn, address: SocketAddr) {
    let peer = Peer { ip: address.ip().to_canonical(), port: address.port() };
    let trusted = ring.shared.live.load().config.smtp.proxy_protocol_from.iter().any(|net| net.contains(&peer.ip));
    if !trusted {
        return admit_peer(ring, conn, peer, Vec::new());
    }
    let most = ring.shared.live.load().config.smtp.max_connections;
    match Guest::enter(ring, most) {
        Some(guest) => ring::spawn(admit_proxied(Rc::clone(ring), conn, peer, guest)),
        None => refuse(ring, conn, peer.ip),
    }
}

fn admit_peer(ring: &Rc<RingState>, conn: Conn, peer: Peer, input: Vec<u8>) {
    match ring.shared.limits.admit(peer.ip) {
        Ok(admission) => ring::spawn(Connection::new(ring, conn, peer, admission, input).serve()),
        Err(_) => refuse(ring, conn, peer.ip),
    }
}

/// A trusted proxy names its client first (PROXY protocol v1 or v2); without a good header in time the connection is closed.
async fn admit_proxied(ring: Rc<RingState>, conn: Conn, proxy: Peer, _guest: Guest) {
    let deadline = Instant::now() + PROXY_TIMEOUT;
    let mut stream = Stream::new(conn);
    let mut input = Vec::new();
    loop {
        match proxy::parse(&input) {
            Header::Complete { peer, used } => {
                input.drain(..used.min(input.len()));
                admit_peer(&ring, stream.into_conn(), peer.unwrap_or(proxy), input);
                return;
            }
            Header::Incomplete => {}
            Header::Invalid => {
                tracing::warn!(proxy = %proxy.ip, "closed: no valid PROXY header from a network in smtp.proxy_protocol_from");
                return;
            }
        }
        input.reserve(PROXY_READ);
        let (result, back) = stream.read(input, deadline).await;
        input = back;
        if result.is_err() {
            return;
        }
    }
}

/// One line, and a moment for the peer to read it: for a few at once. Who comes in a crowd is told as far as that takes no time.
fn refuse(ring: &Rc<RingState>, conn: Conn, ip: IpAddr) {
    ring.shared.delivery.refused(Refused::connection(ip, reply::TOO_MANY_CONNECTIONS), None);
    let mut out = Vec::new();
    reply::TOO_MANY_CONNECTIONS.write(&mut out);
    match Guest::enter(ring, LINGERING_MAX) {
        Some(guest) => ring::spawn(say_and_close(conn, out, guest)),
        // What does not fit into an empty socket fits nowhere.
        None => drop(conn.send_now(&[io::IoSlice::new(&out)])),
    }
}

async fn say_and_close(conn: Conn, mut out: Vec<u8>, _guest: Guest) {
    let mut stream = Stream::new(conn);
    let deadline = Instant::now() + REFUSAL_TIMEOUT;
    if stream.write_last(&mut out, deadline).await.is_ok() {
        stream.close(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, listen};
    use crate::ring::{self, Conn, Listener};
    use std::cell::Cell;
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::rc::Rc;
    use tokio::sync::mpsc;

    #[test]
    fn a_panic_ends_one_connection_and_never_the_listening() {
        let sockets: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let (commands, inbox) = mpsc::unbounded_channel();
        commands.send(Command::Accept).unwrap();
        let clients = std::thread::spawn(move || {
            let mut greeted = Vec::new();
            for n in 0..12 {
                let mut client = TcpStream::connect(addresses[n % 2]).unwrap();
                let mut text = String::new();
                // A reset is an end as well.
                client.read_to_string(&mut text).ok();
                greeted.push(text);
            }
            commands.send(Command::Drain).unwrap();
            greeted
        });
        ring::run(async {
            let listeners: Vec<_> = sockets.into_iter().map(|socket| Rc::new(Listener::new(socket))).collect();
            let taken = Cell::new(0);
            let take: Rc<dyn Fn(Conn, SocketAddr)> = Rc::new(move |conn, _| {
                taken.set(taken.get() + 1);
                assert!(taken.get() % 3 != 0, "every third connection");
                conn.send_now(&[std::io::IoSlice::new(b"hello")]).unwrap();
            });
            listen(&listeners, inbox, &take, || {}).await;
        })
        .unwrap();
        let greeted = clients.join().unwrap();
        let expected: Vec<_> = (1..=12).map(|n| if n % 3 == 0 { "" } else { "hello" }).collect();
        assert_eq!(greeted, expected);
    }
}
