//! A thread's ring from its start to its end: tasks, their panics, and the emptying before the ring is dropped.
//!
//! Logs a panic by its place only, and a ring that could not be emptied. Fails as [`super::SetupError`] says.

use super::in_hand::RING;
use super::{setup, time};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long the last operations may take to come back; they come at once unless the kernel is in trouble.
const EMPTYING: Duration = Duration::from_secs(5);

/// Runs a ring on this thread until `main` is done, then ends the tasks that are left and their connections.
/// `Err` if io_uring is forbidden or there are no resources.
pub fn run<F: Future>(main: F) -> io::Result<F::Output> {
    hide_panic_messages();
    let runtime = tokio_uring::Runtime::new(&setup::builder()?).map_err(setup::SetupError::from)?;
    let (output, empty) = runtime.block_on(async {
        let _running = Running::new();
        let output = caught(main).await;
        (output, empty().await)
    });
    if !empty {
        // The runtime's drop would free buffers that the kernel still holds. A ring's memory is the smaller harm.
        tracing::error!("operations are left in the ring, its memory is kept");
        std::mem::forget(runtime);
    }
    output.or_else(|panic| resume_unwind(panic))
}

/// A task on this thread's ring; a panic in it ends the task only (its connection closes), and is logged without any octets.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let id = RING.with(|ring| ring.next_task.replace(ring.next_task.get() + 1));
    let listed = Listed(id);
    let handle = tokio_uring::spawn(Task { future: Box::pin(task), _listed: listed });
    RING.with(|ring| {
        if ring.emptying.borrow().is_some() {
            // Spawned by a task on its way out.
            handle.abort();
        }
        ring.tasks.borrow_mut().insert(id, handle.abort_handle());
    });
}

/// A task that tidies up and is never ended from outside. Outside of a running ring there is nothing to tidy: it is dropped.
pub(super) fn reap(task: impl Future<Output = ()> + 'static) {
    if RING.with(|ring| ring.running.get()) {
        drop(tokio_uring::spawn(task));
    }
}

/// What the runtime polls. It rounds its own block up to 128 octets, which hold two words of ours: the future has a block of its own.
struct Task<F> {
    future: Pin<Box<F>>,
    _listed: Listed,
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let _in_task = InTask::new();
        // A panic's message is dropped here; its place has been logged where it happened.
        catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx))).unwrap_or(Poll::Ready(()))
    }
}

/// A task's place in the list, from its spawning until its future is dropped.
struct Listed(u64);

impl Drop for Listed {
    fn drop(&mut self) {
        // Gone already if the thread ends around us.
        RING.try_with(|ring| {
            drop(ring.tasks.borrow_mut().remove(&self.0));
            ring.wake_if_empty();
        })
        .ok();
    }
}

struct Running(());

impl Running {
    fn new() -> Self {
        RING.with(|ring| ring.running.set(true));
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RING.with(|ring| ring.running.set(false));
    }
}

struct InTask(());

impl InTask {
    fn new() -> Self {
        RING.with(|ring| ring.in_task.set(true));
        Self(())
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        RING.with(|ring| ring.in_task.set(false));
    }
}

/// Ends all tasks and waits until the kernel holds none of our buffers. Dropping the runtime with operations in it would free
/// the buffers of forgotten ones before it cancels them.
async fn empty() -> bool {
    let emptied = poll_fn(|cx| {
        RING.with(|ring| {
            if ring.is_empty() {
                return Poll::Ready(());
            }
            for task in ring.tasks.borrow().values() {
                task.abort();
            }
            *ring.emptying.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
    });
    time::timeout_at(Instant::now() + EMPTYING, emptied).await.is_some()
}

/// The future's output, or the panic that ended it.
async fn caught<F: Future>(future: F) -> std::thread::Result<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// A panic's message may quote what a peer sent: in tasks only its place is logged.
fn hide_panic_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let in_task = RING.try_with(|ring| ring.in_task.get()).unwrap_or(false);
            if in_task {
                let place = panic.location().map(ToString::to_string).unwrap_or_default();
                tracing::error!(place, "a connection's task panicked and was ended");
            }
            if !in_task || cfg!(test) {
                usual(panic);
            }
        }));
    });
}
