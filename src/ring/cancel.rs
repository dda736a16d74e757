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
pub(super) struct Timer(RefCell<Option<Pin<Box<Sleep>>>>);

impl Timer {
    fn poll_at(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut slot = self.0.borrow_mut();
        let wanted = tokio::time::Instant::from_std(deadline);
        let sleep = slot.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wanted)));
        if sleep.deadline() > wanted {
            sleep.as_mut().reset(wanted);
        }
        loop {
            std::task::ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(wanted);
        }
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
pub(super) async fn until<D>(mut op: Op<D>, timer: &Timer, deadline: Instant, interrupt: Option<&Interrupt>) -> (Ended, D) {
    let first = poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut op).poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if interrupt.is_some_and(|interrupt| interrupt.poll(cx).is_ready()) {
            return Poll::Ready(Err(Cause::Interrupt));
        }
        timer.poll_at(cx, deadline).map(|()| Err(Cause::Deadline))
    });
    match first.await {
        Ok((result, data)) => (ended(result, None), data),
        Err(cause) => {
            // On the heap: while it waits, as nearly always, an operation holds no room for its end.
            let (result, data) = Box::pin(cancelled(op)).await;
            (ended(result, Some(cause)), data)
        }
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
