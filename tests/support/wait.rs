//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long anything may take before the test gives up. Generous: only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; fails with `what` once patience has run out.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask)
}

/// Between two looks at something that cannot wake us.
#[expect(clippy::disallowed_methods, reason = "the one place that polls")]
pub(crate) fn tick() {
    std::thread::sleep(Duration::from_millis(5));
}

#[track_caller]
pub(crate) fn eventually_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for: {what}");
        tick();
    }
}
