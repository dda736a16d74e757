//! One connection to an endpoint, over TCP or TLS, with the call's deadline on every wait.
//!
//! - An endpoint that answers early and closes makes our sending fail while its answer is in the socket: the failure is
//!   swallowed, so that ureq goes on to read. One that answers early and only stops reading is heard as well.
//! - The header of a request goes out together with the start of its body.
//! - Buffers belong to the thread that makes a call, not to the connection: an idle one holds none.
//!
//! Logs nothing; fails with ureq's errors.

use super::agent::{INPUT_OCTETS, OUTPUT_OCTETS};
use super::progress::{note, progress};
use super::redirect;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::ClientConnection;
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;
use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// A header that is longer goes out by itself.
const HEAD_HELD_MAX: usize = 16 * 1024;
/// `HTTP/1.1 413`: enough of a response to know what it says.
const STATUS_END: usize = 12;

thread_local! {
    static SPARE: Cell<Option<LazyBuffers>> = const { Cell::new(None) };
}

pub(super) struct Wire {
    /// Non-blocking.
    stream: Arc<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    peer: IpAddr,
    buffers: Option<LazyBuffers>,
    /// The last call that used it.
    call: u64,
    /// The header of a request whose body has not begun.
    head: Vec<u8>,
    /// The endpoint takes no more of this request; the connection is not used again.
    gave_up_sending: bool,
    /// Look for an answer while the request cannot go on.
    watching: bool,
    /// Some of the answer came while the request was still being sent.
    early: bool,
}

impl Wire {
    pub(super) fn new(stream: Arc<TcpStream>, tls: Option<Box<ClientConnection>>, peer: IpAddr) -> Self {
        Self { stream, tls, peer, buffers: None, call: 0, head: Vec::new(), gave_up_sending: false, watching: false, early: false }
    }

    fn buffers(&mut self) -> &mut LazyBuffers {
        self.buffers.get_or_insert_with(|| SPARE.take().unwrap_or_else(|| LazyBuffers::new(INPUT_OCTETS, OUTPUT_OCTETS)))
    }

    /// Gives the buffers to the thread's next call.
    fn spare_buffers(&mut self) {
        if let Some(buffers) = self.buffers.take()
            && buffers.input().is_empty()
        {
            SPARE.set(Some(buffers));
        }
    }

    /// True: this is the first this call has to do with the connection.
    fn join_call(&mut self) -> Result<bool, Error> {
        let now = progress();
        if self.call == now.call {
            return Ok(false);
        }
        // ureq's pool knows names; the rule is about addresses.
        if now.only_public && !redirect::is_public(self.peer) {
            note(|progress| progress.not_public = true);
            return Err(Error::ConnectionFailed);
        }
        let reused = self.call != 0;
        note(|progress| {
            progress.reused = reused;
            progress.peer = Some(self.peer);
        });
        self.call = now.call;
        self.head.clear();
        self.watching = true;
        self.early = false;
        Ok(true)
    }

    fn give_up_sending(&mut self) {
        self.gave_up_sending = true;
        note(|progress| progress.incomplete = true);
    }

    /// Sends the held header and so many octets of the output buffer.
    fn send(&mut self, amount: usize) -> Result<(), Error> {
        let sent = if self.tls.is_some() { self.send_tls(amount) } else { self.send_plain(amount) };
        self.head.clear();
        sent
    }

    fn send_plain(&mut self, amount: usize) -> Result<(), Error> {
        let mut at = 0;
        while at < self.head.len() + amount && !self.gave_up_sending {
            let stream = Arc::clone(&self.stream);
            self.buffers();
            let (head, buffers) = (&self.head, self.buffers.as_mut());
            let output = buffers.and_then(|buffers| buffers.output().get(..amount)).unwrap_or_default();
            let written = match head.get(at..).filter(|rest| !rest.is_empty()) {
                Some(rest) => (&*stream).write_vectored(&[IoSlice::new(rest), IoSlice::new(output)]),
                None => (&*stream).write(output.get(at - head.len()..).unwrap_or_default()),
            };
            at += self.written(written)?;
        }
        Ok(())
    }

    fn send_tls(&mut self, amount: usize) -> Result<(), Error> {
        let head = std::mem::take(&mut self.head);
        let mut at = 0;
        while at < head.len() + amount && !self.gave_up_sending {
            self.buffers();
            let (Some(tls), Some(buffers)) = (self.tls.as_mut(), self.buffers.as_mut()) else { break };
            let rest = match head.get(at..).filter(|rest| !rest.is_empty()) {
                Some(rest) => rest,
                None => buffers.output().get(at - head.len()..amount).unwrap_or_default(),
            };
            at += tls.writer().write(rest)?;
            // The header waits for the start of the body, to go out with it.
            if at != head.len() || amount == 0 {
                self.flush_tls()?;
            }
        }
        Ok(())
    }

    fn flush_tls(&mut self) -> Result<(), Error> {
        while !self.gave_up_sending {
            let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) else { break };
            let written = tls.write_tls(&mut &*self.stream);
            self.written(written)?;
        }
        Ok(())
    }

    /// What became of a write.
    fn written(&mut self, written: io::Result<usize>) -> Result<usize, Error> {
        match written {
            Ok(0) => self.give_up_sending(),
            Ok(n) => {
                note(|progress| progress.sent = true);
                return Ok(n);
            }
            Err(error) => match kind(&error) {
                Kind::Again => {}
                Kind::Wait => self.wait_to_send()?,
                Kind::Closed => self.give_up_sending(),
                Kind::Other => return Err(error.into()),
            },
        }
        Ok(0)
    }

    /// Until the endpoint takes more; what it says meanwhile may be that it wants no more (RFC 9112 section 9.5).
    fn wait_to_send(&mut self) -> Result<(), Error> {
        let wanted = if self.watching { PollFlags::POLLOUT | PollFlags::POLLIN } else { PollFlags::POLLOUT };
        let ready = wait(&self.stream, wanted, progress().deadline)?;
        if ready.contains(PollFlags::POLLOUT) || !ready.contains(PollFlags::POLLIN) {
            return Ok(());
        }
        match self.receive_some() {
            // It has closed its side; it may read on.
            Ok(Some(0)) => self.watching = false,
            Ok(Some(_)) => self.early = true,
            Ok(None) => {}
            Err(Error::Io(error)) if matches!(kind(&error), Kind::Closed) => {
                self.give_up_sending();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let input = self.buffers().input();
        if let Some(start) = input.get(..STATUS_END) {
            // Behind a 1xx or a 2xx the request goes on.
            let refused = start.starts_with(b"HTTP/1.") && matches!(start, [.., b' ', b'3'..=b'5', _, _]);
            self.watching = false;
            if refused {
                self.give_up_sending();
            }
        }
        Ok(())
    }

    /// Octets that are there; `None`: there are none yet.
    fn receive_some(&mut self) -> Result<Option<usize>, Error> {
        let stream = Arc::clone(&self.stream);
        self.buffers();
        let Some(buffers) = self.buffers.as_mut() else { return Ok(None) };
        let room = buffers.input_append_buf();
        if room.is_empty() {
            return Err(Error::LargeResponseHeader(INPUT_OCTETS, INPUT_OCTETS));
        }
        let read = match self.tls.as_mut() {
            None => (&*stream).read(room),
            Some(tls) => read_tls(tls, &stream, room),
        };
        match read {
            Ok(n) => {
                buffers.input_appended(n);
                if n > 0 {
                    note(|progress| progress.received = true);
                }
                Ok(Some(n))
            }
            Err(error) if matches!(kind(&error), Kind::Again | Kind::Wait) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Plaintext that is there or can be had from what is there.
fn read_tls(tls: &mut ClientConnection, mut stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(room) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Also the end without close_notify: an error, for what came before may be cut.
            done => return done,
        }
        tls.read_tls(&mut stream)?;
        tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        Self::buffers(self)
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let first = self.join_call()?;
        if self.gave_up_sending {
            return Ok(());
        }
        if first && amount <= HEAD_HELD_MAX {
            self.buffers();
            let output = self.buffers.as_mut().and_then(|buffers| buffers.output().get(..amount));
            self.head.extend_from_slice(output.unwrap_or_default());
            return Ok(());
        }
        self.send(amount)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        if !self.head.is_empty() {
            // A request without a body.
            self.send(0)?;
        }
        // What came early is in the buffer: the connection may be closed behind it.
        if std::mem::take(&mut self.early) {
            return Ok(true);
        }
        loop {
            // TLS may have plaintext left from the last record.
            if self.tls.is_none() {
                wait(&self.stream, PollFlags::POLLIN, progress().deadline)?;
            }
            if let Some(came) = self.receive_some()? {
                return Ok(came > 0);
            }
            wait(&self.stream, PollFlags::POLLIN, progress().deadline)?;
        }
    }

    /// Asked before a call takes the connection from the pool, and before it is put there.
    fn is_open(&mut self) -> bool {
        let call = progress();
        if self.gave_up_sending || (call.fresh && call.peer.is_none()) {
            return false;
        }
        self.spare_buffers();
        // Nothing may come while nothing was asked.
        matches!((&*self.stream).read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.spare_buffers();
        if let Some(tls) = self.tls.as_mut().filter(|_| !self.gave_up_sending) {
            tls.send_close_notify();
            // A courtesy: where there is no room for it, it is left out.
            drop(tls.write_tls(&mut &*self.stream));
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).finish_non_exhaustive()
    }
}

enum Kind {
    Again,
    Wait,
    /// The other end has closed the connection, or torn it down.
    Closed,
    Other,
}

fn kind(error: &io::Error) -> Kind {
    #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind has many, and grows")]
    match error.kind() {
        ErrorKind::Interrupted => Kind::Again,
        ErrorKind::WouldBlock => Kind::Wait,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Kind::Closed,
        _ => Kind::Other,
    }
}

/// Waits for one of the events, a hang-up or an error; no longer than the deadline.
pub(super) fn wait(stream: &TcpStream, wanted: PollFlags, deadline: Option<Instant>) -> Result<PollFlags, Error> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
        if left.is_zero() {
            return Err(Error::Timeout(Timeout::Global));
        }
        // Rounded up, so that the last turn does not spin.
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        let mut fds = [PollFd::new(stream.as_fd(), wanted)];
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
            Err(error) => return Err(Error::Io(error.into())),
        }
    }
}
