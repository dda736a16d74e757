//! One ring thread: accepts on every listener and serves each connection as a task of its own.
//!
//! Logs a warning when descriptors run out; fails by telling the peer `421` and going on.

use super::Shared;
use super::connection::Connection;
use super::proxy::{self, Header};
use crate::envelope::Peer;
use crate::ring::{self, Conn, Interrupter, Listener};
use crate::smtp::{Refused, Reply, reply};
use crate::stats::Recorder;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// A connection that we will not serve gets its one line within this.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A trusted proxy's header comes at once or never.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after descriptors ran out.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What one ring's tasks share; never leaves its thread.
pub(super) struct RingState {
    pub(super) shared: Arc<Shared>,
    pub(super) recorder: Recorder,
    draining: Cell<bool>,
    connections: RefCell<HashMap<u64, Interrupter>>,
    next: Cell<u64>,
    /// Told when the last connection has gone.
    empty: Notify,
}

impl RingState {
    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    fn enter(&self, conn: &Conn) -> u64 {
        let key = self.next.get();
        self.next.set(key.wrapping_add(1));
        self.connections.borrow_mut().insert(key, conn.interrupter());
        key
    }

    fn leave(&self, key: u64) {
        let mut connections = self.connections.borrow_mut();
        connections.remove(&key);
        if connections.is_empty() {
            self.empty.notify_one();
        }
    }
}

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
        let result = ring::run(accept_all(shared, sockets, inbox, ready));
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

async fn accept_all(shared: Arc<Shared>, sockets: Vec<TcpListener>, mut inbox: mpsc::UnboundedReceiver<Command>, ready: SyncSender<()>) {
    let ring = Rc::new(RingState {
        recorder: shared.stats.recorder(),
        shared,
        draining: Cell::new(false),
        connections: RefCell::default(),
        next: Cell::new(0),
        empty: Notify::new(),
    });
    let listeners: Vec<_> = sockets.into_iter().map(|socket| Rc::new(Listener::new(socket))).collect();
    // Only a daemon that has given up waiting is not there any more.
    ready.send(()).ok();
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Accept => {
                for listener in &listeners {
                    ring::spawn(accept(Rc::clone(&ring), Rc::clone(listener)));
                }
            }
            Command::Drain => {
                ring.draining.set(true);
                for listener in &listeners {
                    listener.stop();
                }
                for conn in ring.connections.borrow().values() {
                    conn.interrupt();
                }
                break;
            }
        }
    }
    while !ring.connections.borrow().is_empty() || listeners.iter().any(|listener| Rc::strong_count(listener) > 1) {
        let tick = Instant::now() + Duration::from_millis(100);
        ring::timeout_at(tick, ring.empty.notified()).await;
    }
}

/// Accepts until the listener is stopped; never dropped in between (the kernel would go on accepting for nobody).
async fn accept(ring: Rc<RingState>, listener: Rc<Listener>) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Ok((conn, address)) if conn.on_spare() => {
                ring.shared.delivery.refused(Refused::connection(address.ip().to_canonical(), reply::TOO_MANY_CONNECTIONS));
                tracing::warn!("out of descriptors, a connection was told to come later: raise LimitNOFILE or lower smtp.max_connections");
                ring::spawn(refuse(conn, reply::TOO_MANY_CONNECTIONS));
            }
            Ok((conn, address)) => admit(&ring, conn, address),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                ring::sleep_until(Instant::now() + BACK_OFF).await;
            }
        }
    }
}

fn admit(ring: &Rc<RingState>, conn: Conn, address: SocketAddr) {
    let peer = Peer { ip: address.ip().to_canonical(), port: address.port() };
    let trusted = ring.shared.live.load().config.smtp.proxy_protocol_from.iter().any(|net| net.contains(&peer.ip));
    if trusted {
        ring::spawn(admit_proxied(Rc::clone(ring), conn, peer));
    } else {
        admit_peer(ring, conn, peer, Vec::new());
    }
}

fn admit_peer(ring: &Rc<RingState>, conn: Conn, peer: Peer, input: Vec<u8>) {
    match ring.shared.limits.admit(peer.ip) {
        Ok(admission) => ring::spawn(Connection::new(ring, conn, peer, admission, input).serve()),
        Err(_) => {
            ring.shared.delivery.refused(Refused::connection(peer.ip, reply::TOO_MANY_CONNECTIONS));
            ring::spawn(refuse(conn, reply::TOO_MANY_CONNECTIONS));
        }
    }
}

/// Marks a connection as there, also when its task ends by a panic.
pub(super) struct Present {
    ring: Rc<RingState>,
    key: u64,
}

impl Present {
    pub(super) fn enter(ring: &Rc<RingState>, conn: &Conn) -> Self {
        Self { ring: Rc::clone(ring), key: ring.enter(conn) }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.ring.leave(self.key);
    }
}

/// A trusted proxy names its client first (PROXY protocol v1 or v2); without a good header in time the connection is closed.
async fn admit_proxied(ring: Rc<RingState>, conn: Conn, proxy: Peer) {
    let deadline = Instant::now() + PROXY_TIMEOUT;
    let mut stream = super::stream::Stream::new(conn);
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
        if stream.read(&mut input, deadline).await.is_err() {
            return;
        }
    }
}

async fn refuse(conn: Conn, words: Reply) {
    let mut stream = super::stream::Stream::new(conn);
    let mut out = Vec::new();
    words.write(&mut out);
    let deadline = Instant::now() + REFUSAL_TIMEOUT;
    if stream.write_last(&mut out, deadline).await.is_ok() {
        stream.close(deadline).await;
    }
}
