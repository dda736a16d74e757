//! A line that comes again and again is written a hundred times a minute and then counted, by the place in the code that it comes from, so
//! that none hides another. Errors, debugging and lines about mail (which have a pace of their own) are not held back.

use super::line::Line;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level};

const LINES: u32 = 100;
const WHILE: Duration = Duration::from_secs(60);
/// Lines of this target are paced by who says them.
const MAIL: &str = "mailsluice::mail";

/// As many places as there are in the code.
#[derive(Default)]
pub(super) struct Pace(Mutex<HashMap<Identifier, Place>>);

struct Place {
    since: Instant,
    written: u32,
    left_out: u64,
    /// What the first one said that was left out.
    like: String,
}

impl Pace {
    /// The line, where it may be written.
    pub(super) fn take(&self, event: &Event<'_>, now: Instant) -> Option<Line> {
        let metadata = event.metadata();
        if !matches!(*metadata.level(), Level::WARN | Level::INFO) || metadata.target() == MAIL {
            return Some(Line::of(event));
        }
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Place { since: now, written: 0, left_out: 0, like: String::new() };
        let place = places.entry(metadata.callsite()).or_insert_with(new);
        // What was left out is said before this begins anew, by `over`.
        if place.left_out == 0 && now.saturating_duration_since(place.since) >= WHILE {
            *place = new();
        }
        if place.written < LINES {
            place.written += 1;
            drop(places);
            return Some(Line::of(event));
        }
        place.left_out += 1;
        if place.left_out == 1 {
            place.like = Line::of(event).message;
        }
        None
    }

    /// What is to be said of those whose minute is over, or of all.
    pub(super) fn over(&self, now: Instant, all: bool) -> Vec<Line> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = places.values_mut().filter(|place| place.left_out > 0 && (all || now.saturating_duration_since(place.since) >= WHILE));
        let said = over.map(|place| {
            let (lines, like) = (place.left_out, std::mem::take(&mut place.like));
            *place = Place { since: now, written: 0, left_out: 0, like: String::new() };
            Line::of_left_out(lines, like)
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::Subscriber;
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    /// Keeps what may be written, at a time that the test sets.
    #[derive(Clone)]
    struct Kept(Arc<(Pace, Mutex<State>)>);

    type State = (Instant, Vec<String>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let (pace, kept) = &*self.0;
            let mut kept = kept.lock().unwrap();
            if let Some(line) = pace.take(event, kept.0) {
                kept.1.push(line.message);
            }
        }
    }

    #[test]
    fn what_comes_too_often_is_counted_and_hides_nothing_else() {
        let start = Instant::now();
        let kept = Kept(Arc::new((Pace::default(), Mutex::new((start, Vec::new())))));
        let (pace, state) = &*kept.0;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), || {
            let often = || tracing::warn!("no descriptors");
            for _ in 0..1000 {
                often();
                tracing::error!("a record");
                tracing::info!(target: "mailsluice::mail", "recipient refused");
            }
            tracing::warn!("something else");
            assert!(pace.over(start + WHILE / 2, false).is_empty(), "its minute goes on");
            let said: Vec<_> = pace.over(start + WHILE, false).into_iter().map(|line| line.text(false)).collect();
            assert!(matches!(said.as_slice(), [line] if line.ends_with("lines=900 like=\"no descriptors\"\n")), "{said:?}");
            state.lock().unwrap().0 = start + WHILE;
            often();
        });
        let count = |text: &str| state.lock().unwrap().1.iter().filter(|line| *line == text).count();
        assert_eq!([count("no descriptors"), count("a record"), count("recipient refused"), count("something else")], [101, 1000, 1000, 1]);
    }
}
