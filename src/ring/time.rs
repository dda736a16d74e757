//! Waiting without a socket: until a time, for a future, for the ring's next turn. Logs nothing, cannot fail.

use super::op;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

/// Waits until then.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
}

/// Waits for the future at most until the deadline. Only for futures that are safe to drop (oneshots, timers), never for ring operations.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(deadline.into(), future).await.ok()
}

/// Lets the ring go round once: what others have to do is done, and what they submitted goes to the kernel. (A task that only yields
/// to the scheduler is ready again at once, and the ring would not be entered.)
pub async fn turn() {
    // It has no result, and cannot fail but by a ring that is at its end.
    drop(op::nop().await);
}

/// What the future has without waiting.
pub async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
