//! `GET /records/live`: server-sent events, one per record, as they are committed.
//!
//! Records are rendered once, whatever the number of clients, and go out in chunks at most ten times a second. What all
//! clients together are sent is bounded: beyond it, and to a client that does not read, records are left out and an event
//! `skipped` says so (the reader then asks `/records`). So a thousand clients cost mail nothing, and without one the store hands out nothing.
//! Who does not read has no share of that bound, and makes room where all places are taken.

use super::answer::Problem;
use super::listener::Speech;
use crate::record::Record;
use crate::store::Store;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

/// Live views at once; where all of them read, one more gets a 503.
pub(super) const MAX_CLIENTS: usize = 1200;
const BETWEEN_CHUNKS: Duration = Duration::from_millis(100);
/// A comment after so much silence, so that a dead connection is noticed at both ends.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Octets per chunk, for all clients together that read: 100 MiB a second.
const MAX_OCTETS_PER_CHUNK: usize = 10 * 1024 * 1024;
/// Chunks that a client may be behind; beyond it does not read.
const CHUNKS_BEHIND: usize = 32;

/// The clients' end of the stream.
pub(super) struct Live {
    chunks: broadcast::Sender<Bytes>,
    /// How many chunks there have been.
    sent: Arc<AtomicU64>,
    clients: Mutex<Vec<Weak<Client>>>,
    source: Mutex<Source>,
    /// Told when the source is opened.
    opened: Notify,
}

/// The store's end. It is open as long as there are clients: each record costs the writer a wake-up then.
enum Source {
    Closed,
    /// For the pump to take.
    Opened(broadcast::Receiver<Arc<Record>>),
    Pumped,
}

impl Default for Live {
    fn default() -> Self {
        let chunks = broadcast::Sender::new(CHUNKS_BEHIND);
        Self { chunks, sent: Arc::default(), clients: Mutex::default(), source: Mutex::new(Source::Closed), opened: Notify::new() }
    }
}

impl Live {
    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, chunk: Bytes) -> bool {
        self.sent.fetch_add(1, Ordering::Relaxed);
        // No client is no error.
        self.chunks.send(chunk).is_ok()
    }

    /// One more client; `None` where all places are taken by clients that read.
    fn join(&self, speech: Arc<Speech>) -> Option<Arc<Client>> {
        let mut clients = self.clients();
        if clients.len() >= MAX_CLIENTS {
            let behind = |client: &Weak<Client>| client.upgrade().map_or(u64::MAX, |client| client.behind());
            let (at, _) =
                clients.iter().map(behind).enumerate().max_by_key(|(_, behind)| *behind).filter(|(_, n)| *n > CHUNKS_BEHIND as u64)?;
            if let Some(stalled) = clients.swap_remove(at).upgrade() {
                stalled.speech.end();
            }
        }
        let client = Arc::new(Client { speech, sent: Arc::clone(&self.sent), taken: AtomicU64::new(self.sent.load(Ordering::Relaxed)) });
        clients.push(Arc::downgrade(&client));
        Some(client)
    }

    /// Clients that are there.
    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Client>>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        clients
    }

    /// How many took the last chunk.
    fn readers(&self) -> usize {
        self.clients().iter().filter_map(Weak::upgrade).filter(|client| client.behind() == 0).count()
    }

    /// For a client that has been counted: it sees every record from here on.
    fn open(&self, store: &Store) {
        let mut source = self.source();
        if matches!(*source, Source::Closed) {
            *source = Source::Opened(store.subscribe());
            self.opened.notify_one();
        }
    }

    async fn opened(&self) -> broadcast::Receiver<Arc<Record>> {
        loop {
            if let Some(records) = self.take() {
                return records;
            }
            self.opened.notified().await;
        }
    }

    fn take(&self) -> Option<broadcast::Receiver<Arc<Record>>> {
        let mut source = self.source();
        match std::mem::replace(&mut *source, Source::Pumped) {
            Source::Opened(records) => Some(records),
            other @ (Source::Closed | Source::Pumped) => {
                *source = other;
                None
            }
        }
    }

    /// Closes the source if nobody is there any more.
    fn close_if_alone(&self) -> bool {
        let mut source = self.source();
        let alone = self.clients().is_empty();
        if alone {
            *source = Source::Closed;
        }
        alone
    }

    /// One more view, until its client is gone.
    pub(super) fn watch(&self, store: &Store, speech: Arc<Speech>) -> Result<Response, Problem> {
        let Some(client) = self.join(speech) else {
            return Err(Problem::unavailable("too many live views are open"));
        };
        let receiver = self.chunks.subscribe();
        self.open(store);
        // The comment goes out at once and tells the client that it is connected.
        let hello = Some(Bytes::from_static(b"retry: 2000\n: connected\n\n"));
        let events = futures_util::stream::unfold((receiver, client, hello), async |(mut receiver, client, hello)| {
            let chunk = match hello {
                Some(hello) => hello,
                None => match receiver.recv().await {
                    Ok(chunk) => chunk,
                    Err(RecvError::Lagged(_)) => skipped(None),
                    Err(RecvError::Closed) => return None,
                },
            };
            client.took();
            Some((Ok::<_, std::convert::Infallible>(chunk), (receiver, client, None)))
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
        Ok((headers, Body::from_stream(events)).into_response())
    }

    /// Takes records from the store and hands chunks to all clients; runs until it is dropped.
    pub(super) async fn pump(&self) {
        loop {
            let records = self.opened().await;
            self.pump_while_watched(records).await;
        }
    }

    async fn pump_while_watched(&self, mut records: broadcast::Receiver<Arc<Record>>) {
        while !self.close_if_alone() {
            let chunk = match tokio::time::timeout(HEARTBEAT, records.recv()).await {
                Err(_) => Bytes::from_static(b": still here\n\n"),
                Ok(Ok(first)) => {
                    let mut batch = Batch::new(self.readers());
                    batch.push(&first);
                    batch.drain(&mut records);
                    batch.finish()
                }
                Ok(Err(RecvError::Lagged(n))) => skipped(Some(n)),
                // The store was closed: the daemon ends soon. Nothing else to do here, and `start` waits for more than this.
                Ok(Err(RecvError::Closed)) => return std::future::pending().await,
            };
            if self.send(chunk) {
                tokio::time::sleep(BETWEEN_CHUNKS).await;
            }
        }
    }
}

/// Counted as long as it lives.
struct Client {
    speech: Arc<Speech>,
    sent: Arc<AtomicU64>,
    /// Of the chunks that have been sent.
    taken: AtomicU64,
}

impl Client {
    fn took(&self) {
        self.taken.store(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn behind(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// Events under way to a chunk.
struct Batch {
    text: String,
    max: usize,
    left_out: u64,
}

impl Batch {
    fn new(readers: usize) -> Self {
        Self { text: String::new(), max: MAX_OCTETS_PER_CHUNK / readers.max(1), left_out: 0 }
    }

    fn push(&mut self, record: &Record) {
        if self.text.len() >= self.max {
            self.left_out += 1;
            return;
        }
        // JSON has no line ends of its own outside of strings, and escapes them there: one data line is the whole record.
        let json = serde_json::to_string(record).unwrap_or_default();
        self.text.push_str(&format!("id: {}\ndata: {json}\n\n", record.id));
    }

    fn drain(&mut self, records: &mut broadcast::Receiver<Arc<Record>>) {
        loop {
            match records.try_recv() {
                Ok(record) => self.push(&record),
                Err(TryRecvError::Lagged(n)) => self.left_out += n,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn finish(self) -> Bytes {
        let mut octets = self.text.into_bytes();
        if self.left_out > 0 {
            octets.extend_from_slice(&skipped(Some(self.left_out)));
        }
        octets.into()
    }
}

/// Records that are in the log but not in this stream.
fn skipped(records: Option<u64>) -> Bytes {
    format!("event: skipped\ndata: {}\n\n", serde_json::json!({ "records": records })).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_has_no_share_and_makes_room() {
        let live = Live::default();
        let speeches: Vec<Arc<Speech>> = (0..MAX_CLIENTS).map(|_| Arc::default()).collect();
        let clients: Vec<_> = speeches.iter().map(|speech| live.join(Arc::clone(speech)).unwrap()).collect();
        assert_eq!(live.readers(), MAX_CLIENTS);
        assert!(live.join(Arc::default()).is_none(), "all of them read");
        for _ in 0..=CHUNKS_BEHIND {
            live.send(Bytes::new());
            clients.iter().skip(1).for_each(|client| client.took());
        }
        assert_eq!(live.readers(), MAX_CLIENTS - 1);
        assert!(live.join(Arc::default()).is_some());
        let ended: Vec<_> = speeches.iter().enumerate().filter(|(_, speech)| speech.is_ended()).map(|(at, _)| at).collect();
        assert_eq!(ended, [0]);
        assert!(live.join(Arc::default()).is_some(), "the one before has gone again");
        drop(clients);
        assert_eq!(live.readers(), 0);
    }
}
