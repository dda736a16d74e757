//! One call: a request over one connection, and its answer. Reading that is ureq-proto's, which does no I/O of its own; the
//! octets of the body go from where they lie to the socket.
//!
//! Logs nothing; fails with one short line, and [`Progress`] tells how far it came.

use super::address;
use super::failure::{NoAnswer, Phase, is_late};
use super::response::{Answer, Response};
use super::wire::{INPUT_OCTETS, Progress, Wire};
use std::time::{Duration, Instant};
use ureq_proto::client::state::{Cleanup, RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::http::{HeaderMap, Request, header};

/// Octets of a response body that are read, and that are kept.
const BODY_READ_MAX: usize = 64 * 1024;
const BODY_KEPT: usize = 2 * 1024;
/// Octets of a body that are taken at once, at least.
const PIECE_MIN: usize = 128;
/// The body of a redirect is of little interest; the deadline is for what it leads to.
const REDIRECT_BODY_PATIENCE: Duration = Duration::from_secs(1);

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
    let call = awaiting_answer().map_err(|error| NoAnswer::new(Phase::Sending, error.to_string()))?;
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
    let (fields, next) = match header(&mut wire, call, &mut input, progress, deadline).await {
        Ok(answered) => answered,
        Err(Failed::Io(error)) => return Err(failed(progress, Phase::Waiting, &error)),
        Err(Failed::Protocol(why)) => return Err(NoAnswer::new(Phase::Waiting, why)),
    };
    let waited = sent.elapsed();
    let Fields { status, content_type, retry_after, location } = fields;
    let patience =
        if location.is_some() && (300..=399).contains(&status) { deadline.min(Instant::now() + REDIRECT_BODY_PATIENCE) } else { deadline };
    let (body, reusable) = match next {
        RecvResponseResult::RecvBody(call) => kept_body(&mut wire, call, &mut input, progress, patience).await,
        RecvResponseResult::Cleanup(call) => (String::new(), may_be_used_again(&call)),
        RecvResponseResult::Redirect(call) => (String::new(), may_be_used_again(&call.proceed())),
    };
    let response = Response { status, content_type, retry_after, body, redirect_refused: None };
    // Octets behind the answer are nobody's.
    let wire = (reusable && !progress.incomplete && input.is_empty()).then_some(wire);
    Ok(Called { answer: Answer { response, location, from_public, waited }, wire })
}

fn failed(progress: &mut Progress, phase: Phase, error: &std::io::Error) -> NoAnswer {
    progress.timed_out = is_late(error);
    NoAnswer::of(phase, error)
}

/// The protocol's state once a request has been sent. It insists on having written one, so it writes the shortest there is, for nobody:
/// a GET, whose answer is framed as that to our POST is (RFC 9112 section 6.3).
fn awaiting_answer() -> Result<Call<RecvResponse>, ureq_proto::Error> {
    let mut call = Call::new(Request::new(()))?.proceed();
    let mut nowhere = [0; 128];
    call.write(&mut nowhere)?;
    if let Some(SendRequestResult::RecvResponse(call)) = call.proceed()? {
        Ok(call)
    } else {
        Err(ureq_proto::Error::BadHeader("the shortest request is too long".to_owned()))
    }
}

fn may_be_used_again(call: &Call<Cleanup>) -> bool {
    !call.must_close_connection()
}

enum Failed {
    Io(std::io::Error),
    Protocol(String),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ureq_proto::Error> for Failed {
    fn from(error: ureq_proto::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// What is of interest in a response's header.
struct Fields {
    status: u16,
    content_type: Option<String>,
    retry_after: Option<String>,
    location: Option<String>,
}

impl Fields {
    fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).map(|value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Self { status, content_type: text(header::CONTENT_TYPE), retry_after: text(header::RETRY_AFTER), location: text(header::LOCATION) }
    }
}

/// Reads a status line and header; 1xx go by. What came behind them stays in `input`.
async fn header(
    wire: &mut Wire,
    mut call: Call<RecvResponse>,
    input: &mut Vec<u8>,
    progress: &mut Progress,
    deadline: Instant,
) -> Result<(Fields, RecvResponseResult), Failed> {
    loop {
        let (used, response) = call.try_response(input, false)?;
        input.drain(..used.min(input.len()));
        if let Some(response) = response {
            let fields = Fields::of(response.status().as_u16(), response.headers());
            let next = call.proceed().ok_or_else(|| Failed::Protocol("the response ends in its header".to_owned()))?;
            return Ok((fields, next));
        }
        if used > 0 {
            continue;
        }
        if input.len() >= INPUT_OCTETS {
            return Err(Failed::Protocol(format!("the response's header is longer than {INPUT_OCTETS} octets")));
        }
        if wire.receive(input, progress, deadline).await? == 0 {
            return Err(Failed::Protocol("closed before the answer was complete".to_owned()));
        }
    }
}

/// The start of the body as far as it comes: the status line has been the answer, whatever happens to the rest. True: it came to its end.
async fn kept_body(
    wire: &mut Wire,
    mut call: Call<RecvBody>,
    input: &mut Vec<u8>,
    progress: &mut Progress,
    deadline: Instant,
) -> (String, bool) {
    let mut kept = Vec::new();
    // On the heap: it would lie in the future of every message, waiting or not. As long as what is there: most bodies are short.
    let mut piece = vec![0; input.len().clamp(PIECE_MIN, BODY_KEPT)];
    let mut total = 0;
    let mut ended = false;
    while total < BODY_READ_MAX {
        let Ok((used, came)) = call.read(input, &mut piece) else { break };
        input.drain(..used.min(input.len()));
        // Sizes of chunks and trailers count as well.
        total += used.max(came);
        let room = BODY_KEPT.saturating_sub(kept.len()).min(came);
        kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        if came == piece.len() {
            piece.resize(BODY_KEPT, 0);
        }
        // A body that ends with its connection never says so.
        ended = call.can_proceed() && !matches!(call.body_mode(), ureq_proto::BodyMode::CloseDelimited);
        if ended {
            break;
        }
        // A chunk's size or a trailer that does not end.
        if used == 0 && came == 0 && input.len() >= INPUT_OCTETS {
            break;
        }
        if used == 0 && came == 0 && !matches!(wire.receive(input, progress, deadline).await, Ok(n) if n > 0) {
            break;
        }
    }
    let reusable = ended
        && match call.proceed() {
            Some(RecvBodyResult::Cleanup(call)) => may_be_used_again(&call),
            Some(RecvBodyResult::Redirect(call)) => may_be_used_again(&call.proceed()),
            None => false,
        };
    // A character cut at the end becomes a replacement character, which is no help: it is left out.
    let text = String::from_utf8_lossy(&kept);
    let text = if kept.len() == BODY_KEPT { text.trim_end_matches('\u{fffd}').to_owned() } else { text.into_owned() };
    (text, reusable)
}
