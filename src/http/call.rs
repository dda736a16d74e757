//! One call: a request over one connection, and its answer. The octets of the body go from where they lie to the socket.
//!
//! Logs nothing; fails with the phase and one short line, and [`Progress`] tells what of it could be repeated.

use super::address;
use super::failure::{NoAnswer, Phase, is_late};
use super::framing::Body;
use super::head::{self, Head};
use super::response::{Answer, BODY_KEPT, Response};
use super::wire::{Progress, Wire};
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
pub(super) async fn call(
    mut wire: Wire,
    head: &[u8],
    body: &[&[u8]],
    progress: &mut Progress,
    deadline: Instant,
) -> Result<Called, NoAnswer> {
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
    let mut body = Body::new(head.framing);
    let mut kept = Vec::new();
    read_body(&mut wire, &mut body, &mut kept, &mut input, progress, deadline.min(answered + BODY_PATIENCE)).await;
    // Octets behind the answer are nobody's.
    let reusable = head.keeps_alive && body.has_ended() && !progress.incomplete && input.is_empty();
    let location = head.location.take();
    let answer = Answer { response: Response::new(head, kept), location, from_public, waited: answered - sent };
    Ok(Called { answer, wire: reusable.then_some(wire) })
}

fn failed(progress: &mut Progress, phase: Phase, error: &std::io::Error) -> NoAnswer {
    progress.timed_out = is_late(error);
    NoAnswer::of(phase, error)
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

/// The start of the body as far as it comes: whatever happens to the rest, the answer stands.
async fn read_body(wire: &mut Wire, body: &mut Body, kept: &mut Vec<u8>, input: &mut Vec<u8>, progress: &mut Progress, deadline: Instant) {
    let mut total = 0;
    loop {
        let used = body.take(input, kept, BODY_KEPT);
        input.drain(..used);
        total += used;
        if body.has_ended() || body.is_broken() || total >= BODY_READ_MAX {
            return;
        }
        if !matches!(wire.receive(input, progress, deadline).await, Ok(n) if n > 0) {
            return;
        }
    }
}
