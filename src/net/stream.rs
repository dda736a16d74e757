//! One connection's octets, in the clear or through TLS: wait, read, write, each with a deadline.

use super::buffer;
use super::tls::Tls;
use crate::message::Body;
use crate::ring::{self, Conn, Fill, Untaken};
use crate::stats::TlsFailure;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

/// How long a closed connection is listened to, so that the last reply is not lost in a reset.
const LINGER: Duration = Duration::from_secs(2);

/// What is read at once of records that bring commands: what comes behind a whole record is held beside its plaintext.
const COMMAND_RECORDS: usize = 4 * 1024;

pub(super) struct Stream {
    conn: Conn,
    tls: Option<Box<Tls>>,
    /// Why TLS ended, where it did not end well.
    tls_failure: Option<TlsFailure>,
    /// Octets that were written, as they went out; it begins anew behind the greatest number.
    written: u32,
}

/// What has arrived of all that was written.
pub(super) struct Parting {
    written: u32,
    /// Octets of the end itself.
    end: u32,
    untaken: Untaken,
}

impl Parting {
    /// What was written up to there has not arrived, whatever became of what was written behind it. The peer's side may have taken it and cut
    /// the connection off: that counts if nothing was written behind it, and nothing was `heard` since. One that was `ahead` cuts off what it
    /// does not wait for, and its side may not have said yet what it had taken.
    pub(super) fn lost(&self, written: u32, heard: bool, ahead: bool) -> bool {
        let behind = self.written.wrapping_sub(written);
        let untaken = self.untaken.octets > behind.saturating_add(self.end) && !(ahead && self.untaken.reset);
        untaken || (behind == 0 && self.untaken.reset && !heard)
    }
}

/// Why the octets stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer closed, or the connection broke.
    Gone,
    /// The connection was reset: what was written last may not have arrived.
    Reset,
    /// The deadline came first.
    TimedOut,
    /// The daemon is draining and the connection was idle.
    Interrupted,
}

impl From<io::Error> for Ended {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds that matter are named; any other is a connection that is gone")]
    fn from(error: io::Error) -> Self {
        use io::ErrorKind;
        match error.kind() {
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Gone,
        }
    }
}

/// Data octets go straight behind the body's last one.
pub(super) struct Tail(pub(super) Body);

// SAFETY: `Body` promises that its spare octets are writable and stay when the value moves.
#[expect(unsafe_code, reason = "a buffer goes to the ring")]
unsafe impl Fill for Tail {
    fn spare_ptr(&mut self) -> *mut u8 {
        self.0.spare_ptr()
    }
    fn spare(&self) -> usize {
        self.0.spare()
    }
    unsafe fn filled(&mut self, n: usize) {
        // SAFETY: the ring has written `n` of the spare octets.
        unsafe { self.0.advance(n) }
    }
}

/// No more of its spare octets than can be used now: what a peer sends beyond them stays with the kernel.
pub(super) struct Limited<B> {
    pub(super) into: B,
    pub(super) most: usize,
}

// SAFETY: the octets are the inner value's, and fewer of them.
#[expect(unsafe_code, reason = "a buffer goes to the ring")]
unsafe impl<B: Fill> Fill for Limited<B> {
    fn spare_ptr(&mut self) -> *mut u8 {
        self.into.spare_ptr()
    }
    fn spare(&self) -> usize {
        self.into.spare().min(self.most)
    }
    unsafe fn filled(&mut self, n: usize) {
        // SAFETY: by the caller's promise.
        unsafe { self.into.filled(n) }
    }
}

impl Stream {
    pub(super) fn new(conn: Conn) -> Self {
        Self { conn, tls: None, tls_failure: None, written: 0 }
    }

    /// The connection again, for its next owner.
    pub(super) fn into_conn(self) -> Conn {
        self.conn
    }

    /// Whether [`Stream::read`] has something to say without waiting: octets, or that none will come.
    pub(super) fn has_news(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| !tls.plain().is_empty() || tls.is_behind() || tls.is_closed())
    }

    /// There may be more where the last octets came from: it is looked for at once, if the ring has the time.
    pub(super) fn go_on(&self) {
        if ring::may_go_on() {
            self.conn.look_again();
        }
    }

    /// Waits without a buffer until the peer says something; [`Stream::read`] has it then.
    pub(super) fn idle(&mut self, deadline: Instant) -> impl Future<Output = io::Result<()>> {
        self.conn.readable(deadline)
    }

    /// Appends what has come, as far as there is room, once [`Stream::idle`] has said that there is something. False: under TLS it is no whole
    /// record yet, and the rest is waited for without a buffer.
    pub(super) async fn hear<B: Fill>(&mut self, mut into: B, deadline: Instant) -> (Result<bool, Ended>, B) {
        if self.tls.is_none() {
            let (result, into) = self.read(into, deadline).await;
            return (result.map(|()| true), into);
        }
        if self.plain_is_empty()
            && let Err(ended) = self.read_records(COMMAND_RECORDS, deadline).await
        {
            return (Err(ended), into);
        }
        let taken = self.tls.as_mut().map_or(0, |tls| {
            let taken = fill(&mut into, tls.plain());
            tls.consume(taken);
            taken
        });
        (Ok(taken > 0), into)
    }

    fn plain_is_empty(&mut self) -> bool {
        self.tls.as_mut().is_none_or(|tls| tls.plain().is_empty())
    }

    /// Appends what the peer sends, as far as there is room; at least one octet.
    pub(super) async fn read<B: Fill>(&mut self, mut into: B, deadline: Instant) -> (Result<(), Ended>, B) {
        while let Some(tls) = &mut self.tls {
            // Under TLS the plaintext is copied once, from the record layer's buffer.
            let taken = fill(&mut into, tls.plain());
            tls.consume(taken);
            if taken > 0 {
                return (Ok(()), into);
            }
            if let Err(ended) = self.read_records(buffer::OCTETS, deadline).await {
                return (Err(ended), into);
            }
        }
        let (read, into) = self.conn.read(into, deadline).await;
        let result = match read {
            Ok(0) => Err(Ended::Gone),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        (result, into)
    }

    /// Reads ciphertext and lets TLS work on it; answers (alerts, key updates) go out at once.
    async fn read_records(&mut self, most: usize, deadline: Instant) -> Result<(), Ended> {
        // After its close_notify the peer has nothing to say, though it may keep the connection open.
        if self.tls.as_ref().is_some_and(|tls| tls.is_closed()) {
            return Err(Ended::Gone);
        }
        let mut back = buffer::take();
        if !self.tls.as_ref().is_some_and(|tls| tls.is_behind()) {
            let (read, Limited { into, .. }) = self.conn.read(Limited { into: back, most }, deadline).await;
            if read? == 0 {
                return Err(Ended::Gone);
            }
            back = into;
        }
        let Some(tls) = &mut self.tls else { return Err(Ended::Gone) };
        let fed = tls.feed(&back);
        let mut out = back;
        out.clear();
        tls.take_out(&mut out);
        if out.is_empty() {
            buffer::give(out);
        } else {
            buffer::give(self.write_raw(out, deadline).await?);
        }
        fed.map_err(|error| {
            self.tls_failure = Some(error.failure());
            tracing::debug!(%error, "TLS ended");
            Ended::Gone
        })
    }

    /// Writes all of `out`, whose memory goes back to the thread's buffers.
    pub(super) async fn write(&mut self, out: &mut Vec<u8>, deadline: Instant) -> Result<(), Ended> {
        if out.is_empty() {
            return Ok(());
        }
        let octets = self.on_wire(out)?;
        buffer::give(self.write_raw(octets, deadline).await?);
        Ok(())
    }

    /// As [`Stream::write`], before [`Stream::close`]: with the end of the connection in the same segment.
    pub(super) async fn write_last(&mut self, out: &mut Vec<u8>, deadline: Instant) -> Result<(), Ended> {
        if out.is_empty() {
            return Ok(());
        }
        let octets = self.on_wire(out)?;
        self.write_last_raw(octets, deadline).await
    }

    /// The octets as they go out; `out` is left empty.
    fn on_wire(&mut self, out: &mut Vec<u8>) -> Result<Vec<u8>, Ended> {
        let mut octets = std::mem::take(out);
        if let Some(tls) = &mut self.tls {
            tls.write_plain(&octets).map_err(|_| Ended::Gone)?;
            octets.clear();
            tls.take_out(&mut octets);
        }
        Ok(octets)
    }

    async fn write_raw(&mut self, octets: Vec<u8>, deadline: Instant) -> Result<Vec<u8>, Ended> {
        let written = octets.len();
        let (result, back) = self.conn.write_all(octets, deadline).await;
        result?;
        self.count(written);
        Ok(back)
    }

    fn count(&mut self, octets: usize) {
        self.written = self.written.wrapping_add(u32::try_from(octets).unwrap_or(u32::MAX));
    }

    async fn write_last_raw(&mut self, octets: Vec<u8>, deadline: Instant) -> Result<(), Ended> {
        let written = octets.len();
        let (result, _) = self.conn.write_last(octets, deadline).await;
        result?;
        self.count(written);
        Ok(())
    }

    /// The server's side of the handshake (RFC 3207): on success the stream is encrypted from here on.
    pub(super) async fn start_tls(&mut self, tls: Tls, deadline: Instant) -> Result<String, (Ended, TlsFailure)> {
        self.tls = Some(Box::new(tls));
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            // Waited for without a buffer, and by nobody when the daemon drains.
            let waited = self.conn.readable(deadline).await.map_err(Ended::from);
            let read = match waited {
                Ok(()) => self.read_records(buffer::OCTETS, deadline).await,
                Err(ended) => Err(ended),
            };
            if let Err(ended) = read {
                let otherwise = if ended == Ended::TimedOut { TlsFailure::Timeout } else { TlsFailure::BrokenOff };
                return Err((ended, self.tls_failure.unwrap_or(otherwise)));
            }
        }
        Ok(self.tls.as_ref().map(|tls| tls.description()).unwrap_or_default())
    }

    /// Whether the peer is there and has said nothing that was not read.
    pub(super) fn is_quiet(&self) -> bool {
        self.conn.is_quiet()
    }

    /// How far it has been written: to be asked of [`Parting::lost`].
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// Says that this was all, and closes.
    pub(super) async fn close(mut self, deadline: Instant) -> Parting {
        let written = self.written;
        if let Some(tls) = &mut self.tls {
            let mut out = Vec::new();
            tls.close_notify(&mut out);
            if !out.is_empty() {
                // The end of the connection says whether it came.
                self.write_last_raw(out, deadline).await.ok();
            }
        }
        // The FIN counts as one.
        let end = self.written.wrapping_sub(written) + 1;
        Parting { written, end, untaken: self.conn.close(LINGER).await }
    }
}

/// Copies as much as there is room for.
fn fill(into: &mut impl Fill, octets: &[u8]) -> usize {
    let n = into.spare().min(octets.len());
    #[expect(unsafe_code, reason = "octets that `Fill` promises are written and counted")]
    // SAFETY: there is room for `n` octets by the contract of `Fill`, and all of them are written.
    unsafe {
        std::ptr::copy_nonoverlapping(octets.as_ptr(), into.spare_ptr(), n);
        into.filled(n);
    }
    n
}
