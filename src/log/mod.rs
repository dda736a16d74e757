//! Log lines: to the journal under systemd, as text on a terminal, else as JSON; the only place that writes them.
//!
//! Lines go through a bounded queue (`queue.rs`) to a thread of their own (`sink.rs`), so that nothing waits for who reads them.
//! Whatever a field holds, a line stays one line: control characters (and those that turn the writing direction) are
//! written as escapes in every format. What comes too often is counted (`pace.rs`). Where a line cannot be written it is lost and counted; mail goes on.

mod line;
mod pace;
mod queue;
mod sink;

pub use line::{escaped, written_len};

use crate::config::{Log, LogLevel};
use pace::Pace;
use queue::Queue;
use sink::{JOURNAL_SOCKET, Sink};
use std::io;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry, reload};

/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running log.
#[derive(Clone)]
pub struct Handle {
    level: reload::Handle<LevelFilter, Registry>,
    lines: Lines,
}

impl Handle {
    pub fn set_level(&self, level: LogLevel) {
        // Fails only if the log is gone, in tests that made a second one.
        drop(self.level.modify(|filter| *filter = filter_of(level)));
    }

    /// Lines that could not be written since the start.
    #[must_use]
    pub fn lines_lost(&self) -> u64 {
        self.lines.queue.lost()
    }

    /// Each second, so that the count of what was left out comes also when nothing follows.
    pub fn tick(&self) {
        self.lines.say_left_out(false);
    }

    /// Before the process ends: gives the last lines a second to be written.
    pub fn flush(&self) {
        self.lines.say_left_out(true);
        self.lines.queue.flush(LAST_LINES);
    }
}

/// Starts the log of this process; a second call changes nothing.
///
/// # Errors
/// The machine has no thread or descriptor left for it.
pub fn init(config: &Log) -> io::Result<Handle> {
    let (filter, level) = reload::Layer::new(filter_of(config.level));
    let (sink, refused) = Sink::open(config.format)?;
    let lines = Lines { queue: Queue::start(sink)?, pace: Arc::default() };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines.clone());
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(error) = refused
    {
        tracing::warn!(%error, socket = JOURNAL_SOCKET, "the journal cannot be reached, so the log is JSON on stderr; set log.format");
    }
    log_panics();
    Ok(Handle { level, lines })
}

thread_local! {
    static EXPECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs work whose panics the caller meets and says what they come to: no bug of ours is reported then.
///
/// # Errors
/// What the work panicked with.
pub fn meeting_panics<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let outer = EXPECTED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    EXPECTED.set(outer);
    result
}

/// A panic is a bug of ours and one line. Its message is left out: the standard library's own ones quote the text at
/// hand, which may be a message's (promise 2).
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            if EXPECTED.get() {
                return tracing::warn!(place, "a library gave up on what it was given");
            }
            tracing::error!(thread = thread.name().unwrap_or_default(), place, "panic; please report this bug with this line");
        }));
    });
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The layer that makes lines of events.
#[derive(Clone)]
struct Lines {
    queue: Queue,
    pace: Arc<Pace>,
}

impl Lines {
    fn say_left_out(&self, all: bool) {
        for line in self.pace.over(Instant::now(), all) {
            self.queue.push(line);
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(line) = self.pace.take(event, Instant::now()) {
            self.queue.push(line);
        }
    }
}
