//! One call: a request over one connection, and its answer. The octets of the body go from where they lie to the socket.
//!
//! Logs nothing; fails with the phase and one short line, and [`Progress`] tells what of it could be repeated.

use super::address;
use super::failure::{NoAnswer, Phase, is_late};
use super::framing::Body;
use super::head::{self, Framing, Head};
use super::request::{Request, Wanted};
use super::response::{Answer, BODY_KEPT, Response};
use super::wire::{Progress, Wire};
use rustls::AlertDescription;
use std::time::{Duration, Instant};

/// Octets of a response body that are read.
const BODY_READ_MAX: usize = 64 * 1024;
/// The status line has been the answer: its body is waited for no longer than this.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// An answer, and the connection if it can be used again.
pub(super) struct Called {
    pub(super) answer: Answer,
    pub(super) wire: Option<Wire>,
}

/// Asks over this connection.
///
/// # Errors
/// There was no complete status line and header.
pub(super) async fn call(mut wire: Wire, head: &[u8], request: &Request<'_>, progress: &mut Progress) -> Result<Called, NoAnswer> {
    let Request { body, deadline, wanted, .. } = *request;
    let mut input = Vec::new();
    let from_public = address::is_public(wire.peer());
    let mut octets = Vec::with_capacity(body.len() + 1);
    octets.push(head);
    octets.extend_from_slice(body);
    if let Err(error) = wire.send(&octets, &mut input, progress, deadline).await {
        return Err(failed(progress, Phase::Sending, &error));
    }
    drop(octets);
    let sent = Instant::now();
    let mut head = answered(&mut wire, &mut input, progress, deadline).await?;
    let answered = Instant::now();
    let (wanted, until) = match wanted {
        Wanted::Body(most) if (200..300).contains(&head.status) => (most, deadline),
        Wanted::Body(_) | Wanted::Start => (BODY_KEPT, deadline.min(answered + BODY_PATIENCE)),
    };
    let mut body = Body::new(head.framing);
    let mut kept = Vec::new();
    let mut reading = Reading { body: &mut body, kept: &mut kept, wanted };
    let to_the_end = reading.read(&mut wire, &mut input, progress, until).await;
    // Octets behind the answer are nobody's.
    let reusable = head.keeps_alive && body.has_ended() && !progress.incomplete && input.is_empty();
    let is_whole = (body.has_ended() || head.framing == Framing::Close && to_the_end) && kept.len() < wanted;
    let (location, cache_control) = (head.location.take(), head.cache_control.take());
    let response = Response::new(head, kept, wanted);
    let answer = Answer { response, location, cache_control, is_whole, from_public, waited: answered - sent };
    Ok(Called { answer, wire: reusable.then_some(wire) })
}

fn failed(progress: &mut Progress, phase: Phase, error: &std::io::Error) -> NoAnswer {
    progress.timed_out = is_late(error);
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let phase = if alert.is_some_and(is_of_certificate) { Phase::Tls } else { phase };
    NoAnswer::of(phase, error)
}

/// With TLS 1.3 a client hears of what is wrong with its certificate behind its own handshake.
fn is_of_certificate(error: &rustls::Error) -> bool {
    use AlertDescription as A;
    let rustls::Error::AlertReceived(alert) = error else { return false };
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    )
}

/// Reads a status line and header; 1xx go by. What came behind them stays in `input`.
async fn answered(wire: &mut Wire, input: &mut Vec<u8>, progress: &mut Progress, deadline: Instant) -> Result<Head, NoAnswer> {
    let mut searched = 0;
    loop {
        if let Some((head, used)) = head::read(input, &mut searched).map_err(|why| NoAnswer::new(Phase::Waiting, why))? {
            input.drain(..used);
            if !head.is_interim() {
                return Ok(head);
            }
            searched = 0;
            continue;
        }
        match wire.receive(input, progress, deadline).await {
            Ok(0) => return Err(NoAnswer::new(Phase::Waiting, "closed before the answer was complete")),
            Ok(_) => {}
            Err(error) => return Err(failed(progress, Phase::Waiting, &error)),
        }
    }
}

/// A body that comes, and what is kept of it.
struct Reading<'a> {
    body: &'a mut Body,
    kept: &'a mut Vec<u8>,
    wanted: usize,
}

impl Reading<'_> {
    /// The start of the body as far as it comes: whatever happens to the rest, the answer stands. Whether the connection has ended.
    async fn read(&mut self, wire: &mut Wire, input: &mut Vec<u8>, progress: &mut Progress, deadline: Instant) -> bool {
        let mut total = 0;
        loop {
            let used = self.body.take(input, self.kept, self.wanted);
            input.drain(..used);
            total += used;
            if self.body.has_ended() || self.body.is_broken() || total >= BODY_READ_MAX {
                return false;
            }
            match wire.receive(input, progress, deadline).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}
