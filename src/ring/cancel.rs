//! Deadlines: an operation that is not done in time is cancelled by its descriptor, and awaited.

use super::op::{Flight, Op, Socket, cancel_all};
use nix::libc;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// How long a cancelled operation may take to come back before its connection is shut down as well.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Cancels what is pending on this descriptor; the future need not be awaited.
pub(super) fn cancel(socket: &Rc<Socket>) -> Flight<()> {
    cancel_all(socket)
}

/// One timer for all deadlines of a connection. It is moved only when it would come too late: while deadlines move forward,
/// as they do, an operation costs no work in the timer wheel.
#[derive(Default)]
pub(super) struct Timer(Cell<Option<Pin<Box<Sleep>>>>);

impl Timer {
    fn poll_at(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let wanted = tokio::time::Instant::from_std(deadline);
        let mut sleep = self.0.take().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(wanted)));
        if sleep.deadline() > wanted {
            sleep.as_mut().reset(wanted);
        }
        let mut polled = sleep.as_mut().poll(cx);
        while polled.is_ready() && Instant::now() < deadline {
            sleep.as_mut().reset(wanted);
            polled = sleep.as_mut().poll(cx);
        }
        self.0.set(Some(sleep));
        polled
    }
}

/// A wish to end a wait early. It is kept until a wait has ended by it.
#[derive(Default)]
pub(super) struct Interrupt {
    wished: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Interrupt {
    pub(super) fn wish(&self) {
        self.wished.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.wished.take() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Why we cancelled an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Deadline,
    Interrupt,
}

/// How an operation ended.
pub(super) enum Ended {
    /// With a result, perhaps in spite of a cancellation.
    Done(u32),
    /// With nothing, and it should be submitted again: another operation's cancellation or a signal hit it.
    Again,
    Failed(io::Error),
}

/// Awaits the operation until the deadline, or until the interrupt; then cancels it and awaits what it still has to say.
pub(super) fn until<'a, D>(op: Op<D>, timer: &'a Timer, deadline: Instant, interrupt: Option<&'a Interrupt>) -> Until<'a, D> {
    Until { stage: Stage::Pending(op), timer, deadline, interrupt }
}

/// The future of [`until`]. By hand: an async block would hold the operation twice, in every connection that waits.
pub(super) struct Until<'a, D: 'static> {
    stage: Stage<D>,
    timer: &'a Timer,
    deadline: Instant,
    interrupt: Option<&'a Interrupt>,
}

enum Stage<D: 'static> {
    Pending(Op<D>),
    Cancelled(Cause, Pin<Box<dyn Future<Output = (io::Result<u32>, D)>>>),
    Over,
}

impl<D> Future for Until<'_, D> {
    type Output = (Ended, D);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(Ended, D)> {
        let Self { stage, timer, deadline, interrupt } = &mut *self;
        if let Stage::Pending(op) = stage {
            if let Poll::Ready((result, data)) = Pin::new(op).poll(cx) {
                *stage = Stage::Over;
                return Poll::Ready((ended(result, None), data));
            }
            let cause = if interrupt.is_some_and(|interrupt| interrupt.poll(cx).is_ready()) {
                Cause::Interrupt
            } else {
                std::task::ready!(timer.poll_at(cx, *deadline));
                Cause::Deadline
            };
            if let Stage::Pending(op) = std::mem::replace(stage, Stage::Over) {
                *stage = Stage::Cancelled(cause, Box::pin(cancelled(op)));
            }
        }
        let Stage::Cancelled(cause, cancelled) = stage else { return Poll::Pending };
        let (result, data) = std::task::ready!(cancelled.as_mut().poll(cx));
        let cause = *cause;
        *stage = Stage::Over;
        Poll::Ready((ended(result, Some(cause)), data))
    }
}

/// Cancels the operation and awaits it. It may have ended with a result before the cancellation came.
async fn cancelled<D>(mut op: Op<D>) -> (io::Result<u32>, D) {
    let socket = op.socket().map(Rc::clone);
    if let Some(socket) = &socket {
        drop(cancel(socket));
    }
    let mut grace = pin!(tokio::time::sleep(CANCEL_GRACE));
    let mut blunt = false;
    poll_fn(|cx| {
        let polled = Pin::new(&mut op).poll(cx);
        if polled.is_pending() && !blunt && grace.as_mut().poll(cx).is_ready() {
            // The kernel could not cancel it (it runs in a worker, say): end the connection under it.
            blunt = true;
            if let Some(socket) = &socket {
                socket.shutdown();
            }
        }
        polled
    })
    .await
}

fn ended(result: io::Result<u32>, cause: Option<Cause>) -> Ended {
    match (result, cause) {
        (Ok(n), _) => Ended::Done(n),
        (Err(error), cause) if is_passing(&error) => match cause {
            None => Ended::Again,
            Some(Cause::Deadline) => Ended::Failed(io::ErrorKind::TimedOut.into()),
            Some(Cause::Interrupt) => Ended::Failed(io::ErrorKind::Interrupted.into()),
        },
        (Err(error), _) => Ended::Failed(error),
    }
}

/// Errors that say nothing about the connection.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}
