//! One connection to an endpoint, over TCP or TLS: octets out, octets in, each with the call's deadline.
//!
//! An endpoint that answers early and closes makes our sending fail while its answer is in the socket: the failure is no error,
//! so that the answer is read. One that answers early and only stops reading is heard as well. Logs nothing.

use super::head::{self, Early};
use crate::ring::Conn;
use rustls::ClientConnection;
use std::io::{self, BufRead as _, ErrorKind, IoSlice, Write as _};
use std::net::IpAddr;
use std::time::Instant;

/// Records that are read at once.
const RECORDS_READ: usize = 16 * 1024;
/// Room for most answers.
const INPUT_STEP: usize = 2 * 1024;
/// Sent without a wait, before other connections of the ring get their turn.
const TURN_OCTETS: usize = 1024 * 1024;
/// Plaintext that the record layer encrypts at once.
const RECORDS_OCTETS: usize = 64 * 1024;
/// Slices of one send.
const SLICES_MAX: usize = 64;

/// How far a call has come.
#[derive(Default)]
pub(super) struct Progress {
    /// The endpoint did not take the whole request.
    pub(super) incomplete: bool,
    /// An octet of the response came.
    pub(super) received: bool,
    /// The deadline has passed.
    pub(super) timed_out: bool,
}

pub(super) struct Wire {
    conn: Conn,
    tls: Option<Box<ClientConnection>>,
    peer: IpAddr,
}

impl Wire {
    pub(super) fn new(conn: Conn, tls: Option<Box<ClientConnection>>, peer: IpAddr) -> Self {
        Self { conn, tls, peer }
    }

    /// The address it is connected to.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Open, and nothing has come that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        // The record layer wants to read while it has neither plaintext nor the other side's close_notify.
        self.conn.is_quiet() && self.tls.as_ref().is_none_or(|tls| tls.wants_read())
    }

    /// Sends all of it, unless the endpoint takes no more. What it says meanwhile is appended to `input`.
    pub(super) async fn send(
        &mut self,
        octets: &[&[u8]],
        input: &mut Vec<u8>,
        progress: &mut Progress,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut early = Watch { input, watching: true, in_turn: 0 };
        if self.tls.is_none() {
            return self.send_plain(octets, &mut early, progress, deadline).await;
        }
        let mut records = Vec::new();
        let mut waiting = 0;
        for slice in octets {
            for chunk in slice.chunks(RECORDS_OCTETS) {
                if progress.incomplete {
                    return Ok(());
                }
                // A header and a small body go out together.
                if waiting + chunk.len() > RECORDS_OCTETS {
                    self.take_records(&mut records);
                    self.send_plain(&[&records], &mut early, progress, deadline).await?;
                    records.clear();
                    waiting = 0;
                }
                if let Some(tls) = self.tls.as_mut() {
                    tls.writer().write_all(chunk)?;
                }
                waiting += chunk.len();
            }
        }
        self.take_records(&mut records);
        self.send_plain(&[&records], &mut early, progress, deadline).await
    }

    async fn send_plain(&mut self, octets: &[&[u8]], early: &mut Watch<'_>, progress: &mut Progress, deadline: Instant) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = octets.iter().map(|octets| IoSlice::new(octets)).collect();
        let mut rest = slices.as_mut_slice();
        // Empty slices in front would make a send of nothing.
        IoSlice::advance_slices(&mut rest, 0);
        if early.in_turn >= TURN_OCTETS {
            early.in_turn = 0;
            self.wait_to_send(early, progress, deadline).await?;
        }
        while !rest.is_empty() && !progress.incomplete {
            match self.conn.send_now(rest.get(..SLICES_MAX).unwrap_or(rest)) {
                Ok(0) => progress.incomplete = true,
                Ok(sent) => {
                    early.in_turn += sent;
                    IoSlice::advance_slices(&mut rest, sent);
                    if early.in_turn < TURN_OCTETS {
                        continue;
                    }
                }
                Err(error) => match kind(&error) {
                    Kind::Again => continue,
                    Kind::Wait => {}
                    Kind::Closed => progress.incomplete = true,
                    Kind::Other => return Err(error),
                },
            }
            if !rest.is_empty() && !progress.incomplete {
                early.in_turn = 0;
                self.wait_to_send(early, progress, deadline).await?;
            }
        }
        Ok(())
    }

    /// Until the endpoint takes more; what it says meanwhile may be that it wants no more (RFC 9112 section 9.5).
    async fn wait_to_send(&mut self, early: &mut Watch<'_>, progress: &mut Progress, deadline: Instant) -> io::Result<()> {
        let (takes, says) = self.conn.writable(early.watching, deadline).await?;
        if takes || !says {
            return Ok(());
        }
        match self.receive_now(early.input, progress) {
            // It has closed its side; it may read on.
            Ok(Some(0)) => early.watching = false,
            Ok(_) => {}
            Err(error) if matches!(kind(&error), Kind::Closed) => progress.incomplete = true,
            Err(error) => return Err(error),
        }
        match head::early(early.input) {
            Early::Nothing => {}
            Early::GoesOn => early.watching = false,
            Early::NoMore => progress.incomplete = true,
        }
        Ok(())
    }

    /// Appends at least one octet to `input`; 0 is the end.
    pub(super) async fn receive(&mut self, input: &mut Vec<u8>, progress: &mut Progress, deadline: Instant) -> io::Result<usize> {
        // Who writes an answer in pieces may wait for the first one to be acknowledged (Nagle) while our side puts that off.
        if progress.received {
            self.conn.acknowledge();
        }
        if self.tls.is_none() {
            input.reserve(INPUT_STEP);
            let (came, back) = self.conn.read(std::mem::take(input), deadline).await;
            *input = back;
            return came.inspect(|came| progress.received |= *came > 0);
        }
        loop {
            // There may be plaintext left from the last record.
            if let Some(came) = self.plaintext(input, progress)? {
                return Ok(came);
            }
            self.conn.readable(deadline).await?;
            if let Some(came) = self.receive_now(input, progress)? {
                return Ok(came);
            }
            // Records without octets of the answer: its tickets.
            self.conn.acknowledge();
        }
    }

    /// Octets that are there; `None`: there are none yet.
    fn receive_now(&mut self, input: &mut Vec<u8>, progress: &mut Progress) -> io::Result<Option<usize>> {
        if self.tls.is_some() {
            let before = input.len();
            return match self.read_records(Some(input))? {
                Some(_) if input.len() > before => {
                    progress.received = true;
                    Ok(Some(input.len() - before))
                }
                // Nothing yet, or the end, which the record layer knows.
                Some(_) => self.plaintext(input, progress),
                None => Ok(None),
            };
        }
        input.reserve(INPUT_STEP);
        match self.conn.read_now(input) {
            None => Ok(None),
            Some(Err(error)) if matches!(kind(&error), Kind::Again | Kind::Wait) => Ok(None),
            Some(read) => read.map(|came| {
                progress.received |= came > 0;
                Some(came)
            }),
        }
    }

    /// What the record layer has decrypted; an end without close_notify is an error, for what came before may be cut.
    fn plaintext(&mut self, input: &mut Vec<u8>, progress: &mut Progress) -> io::Result<Option<usize>> {
        let Some(tls) = self.tls.as_mut() else { return Ok(None) };
        let mut reader = tls.reader();
        let taken = match reader.fill_buf() {
            Ok(plain) => {
                input.extend_from_slice(plain);
                plain.len()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        reader.consume(taken);
        progress.received |= taken > 0;
        Ok(Some(taken))
    }

    /// Feeds the record layer with what the socket has, and appends what it decrypts: it takes no more while it holds much of that.
    /// `None`: nothing has come yet, 0 is the end.
    fn read_records(&mut self, mut input: Option<&mut Vec<u8>>) -> io::Result<Option<usize>> {
        let mut octets = Vec::with_capacity(RECORDS_READ);
        match self.conn.read_now(&mut octets) {
            None => return Ok(None),
            Some(Err(error)) if matches!(kind(&error), Kind::Again | Kind::Wait) => return Ok(None),
            Some(read) => drop(read?),
        }
        let Some(tls) = self.tls.as_mut() else { return Ok(None) };
        let mut rest = octets.as_slice();
        // The end is told too, as a read of nothing. Behind a close_notify the record layer takes no more, whatever comes.
        loop {
            let taken = tls.read_tls(&mut rest)?;
            tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if let Some(input) = input.as_deref_mut() {
                take_plaintext(tls, input);
            }
            if rest.is_empty() || taken == 0 {
                return Ok(Some(octets.len()));
            }
        }
    }

    fn take_records(&mut self, records: &mut Vec<u8>) {
        let Some(tls) = self.tls.as_mut() else { return };
        // Writing to a vector cannot fail; an end is an end all the same.
        while tls.wants_write() && matches!(tls.write_tls(records), Ok(n) if n > 0) {}
    }

    /// The client's side of the TLS handshake.
    pub(super) async fn handshake(&mut self, deadline: Instant) -> io::Result<()> {
        let mut records = Vec::new();
        loop {
            self.take_records(&mut records);
            if !records.is_empty() {
                let (sent, back) = self.conn.write_all(std::mem::take(&mut records), deadline).await;
                sent?;
                records = back;
                records.clear();
            }
            if self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking()) {
                return Ok(());
            }
            self.conn.readable(deadline).await?;
            match self.read_records(None) {
                Ok(Some(0)) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed during the TLS handshake")),
                Ok(_) => {}
                Err(error) => {
                    // The alert that tells the endpoint why; where there is no room for it, it is left out.
                    self.take_records(&mut records);
                    drop(self.conn.send_now(&[IoSlice::new(&records)]));
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(tls) = self.tls.as_mut() {
            tls.send_close_notify();
            let mut records = Vec::new();
            self.take_records(&mut records);
            // A courtesy: where there is no room for it, it is left out.
            drop(self.conn.send_now(&[IoSlice::new(&records)]));
        }
    }
}

fn take_plaintext(tls: &mut ClientConnection, input: &mut Vec<u8>) {
    let mut reader = tls.reader();
    // An error or nothing: there is none now, or none any more.
    while let Ok(plain) = reader.fill_buf()
        && !plain.is_empty()
    {
        input.extend_from_slice(plain);
        let taken = plain.len();
        reader.consume(taken);
    }
}

/// What an endpoint says while it is still being sent to.
struct Watch<'a> {
    input: &'a mut Vec<u8>,
    watching: bool,
    /// Octets sent since the last wait.
    in_turn: usize,
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
