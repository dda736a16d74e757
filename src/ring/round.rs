//! What is left of the ring's present round for tasks that have more to do. Logs nothing, cannot fail.

use super::in_hand::RING;
use super::{task, time};
use std::time::{Duration, Instant};

/// So much longer may a round of the ring take for all those together that could give way and go on.
const GOING_ON: Duration = Duration::from_millis(5);

/// Whether a task that has more to do need not give way yet: it finds what it works on in the processor's cache. All tasks share one
/// allowance in each round of the ring, so that no number of them holds it up.
pub fn may_go_on() -> bool {
    RING.with(|ring| {
        let now = Instant::now();
        let since = ring.gone_on_since.get().unwrap_or_else(|| {
            if ring.running.get() {
                ring.gone_on_since.set(Some(now));
                task::reap(async {
                    time::turn().await;
                    RING.with(|ring| ring.gone_on_since.set(None));
                });
            }
            now
        });
        now.saturating_duration_since(since) < GOING_ON
    })
}
