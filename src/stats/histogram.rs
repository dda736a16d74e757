//! HDR histograms per stage and per route: a shard per recording thread, collected into windows by whoever reads.
//!
//! A thread records into its own shard. The shard's lock is the thread's own but for the two pointer moves with which a
//! reader takes the interval out, so recording never waits for a reader's arithmetic. The collector adds what it took to a
//! ring of six 10-second slots (the window `1m`) and to the histogram since the start (`total`); a slot that ended goes to a
//! ring of six of 10 minutes (`1h`), as pairs, since most of a histogram's counters are zero.
//! Durations beyond an hour count as an hour. Nothing here logs.

use hdrhistogram::{Counter as Count, Histogram};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Routes that have series and histograms of their own; the rest have one together.
pub(super) const ROUTES_MAX: usize = 1000;
/// 1 h in microseconds: the top of every histogram.
const HIGHEST_US: u64 = 3_600_000_000;
/// The contract's precision for stages.
const STAGE_DIGITS: u8 = 3;
/// A route's histograms take at most 13 KiB instead of 92, so that hundreds of routes stay affordable.
const ROUTE_DIGITS: u8 = 2;
pub(super) const SLOT: Duration = Duration::from_secs(10);
/// Slots in the window `1m`, and in `1h`; and of those in one of these.
const SLOTS: usize = 6;
const SLOTS_IN_LONG: u64 = 60;

/// A stage of the contract; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Total,
    Receive,
    Queue,
    Forward,
    Store,
    TlsHandshake,
    Session,
}

impl Stage {
    /// In the contract's order.
    pub const ALL: [Self; 7] = [Self::Total, Self::Receive, Self::Queue, Self::Forward, Self::Store, Self::TlsHandshake, Self::Session];

    /// The contract's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Receive => "receive",
            Self::Queue => "queue",
            Self::Forward => "forward",
            Self::Store => "store",
            Self::TlsHandshake => "tls_handshake",
            Self::Session => "session",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// Over which time a histogram looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last minute, sliding in steps of 10 s.
    Minute,
    /// The last hour, sliding in steps of 10 minutes.
    Hour,
    /// Since the daemon started.
    Total,
}

impl Window {
    /// The contract's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Total => "total",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Minute, Self::Hour, Self::Total].into_iter().find(|window| window.name() == name)
    }
}

/// A histogram with the exact sum of its durations.
#[derive(Clone)]
pub struct Durations<T: Count> {
    pub histogram: Histogram<T>,
    pub sum_us: u64,
}

/// Of a route without any.
impl Default for Durations<u64> {
    fn default() -> Self {
        Self::new(ROUTE_DIGITS)
    }
}

impl<T: Count> Durations<T> {
    /// For readers: over all that can be recorded, whatever has been.
    #[expect(clippy::expect_used, reason = "constant bounds and digits; a wrong constant fails every test")]
    pub(super) fn new(digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_US, digits).expect("valid bounds");
        Self { histogram, sum_us: 0 }
    }

    /// To be kept: as large as its longest duration needs. A quarter of the other, as a rule, and there are dozens.
    #[expect(clippy::expect_used, reason = "constant digits; a wrong constant fails every test")]
    fn growing(digits: u8) -> Self {
        Self { histogram: Histogram::new(digits).expect("valid digits"), sum_us: 0 }
    }

    pub(super) fn record(&mut self, us: u64) {
        let us = us.min(HIGHEST_US);
        self.record_n(us, T::one());
        self.sum_us = self.sum_us.saturating_add(us);
    }

    fn record_n(&mut self, us: u64, count: T) {
        let recorded = self.histogram.record_n(us, count);
        debug_assert!(recorded.is_ok(), "within the bounds, or growing");
    }

    /// Adds over counter widths, which `Histogram::add` does not; same digits on both sides.
    fn add<S: Count>(&mut self, other: &Durations<S>)
    where
        T: From<S>,
    {
        for step in other.histogram.iter_recorded() {
            self.record_n(step.value_iterated_to(), T::from(step.count_at_value()));
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    fn clear(&mut self) {
        if !self.histogram.is_empty() {
            self.histogram.reset();
        }
        self.sum_us = 0;
    }

    #[must_use]
    pub fn mean_us(&self) -> f64 {
        if self.histogram.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean of three digits")]
        let mean = self.sum_us as f64 / self.histogram.len() as f64;
        mean
    }
}

/// A histogram at rest: how often each value was counted, without the zeros in between.
#[derive(Default)]
struct Pairs {
    counts: BTreeMap<u64, u32>,
    sum_us: u64,
}

impl Pairs {
    fn add(&mut self, durations: &Durations<u32>) {
        for step in durations.histogram.iter_recorded() {
            let count = self.counts.entry(step.value_iterated_to()).or_default();
            *count = count.saturating_add(step.count_at_value());
        }
        self.sum_us = self.sum_us.saturating_add(durations.sum_us);
    }

    fn add_to(&self, sum: &mut Durations<u64>) {
        for (us, count) in &self.counts {
            sum.record_n(*us, u64::from(*count));
        }
        sum.sum_us = sum.sum_us.saturating_add(self.sum_us);
    }
}

/// The stages that a route has histograms of.
const ROUTE_STAGES: [Stage; 2] = [Stage::Total, Stage::Forward];

fn of_route(stage: Stage) -> Option<usize> {
    ROUTE_STAGES.iter().position(|one| *one == stage)
}

/// What one thread recorded since the last collection. Histograms are made at their first use.
#[derive(Default)]
struct Interval {
    stages: [Option<Box<Durations<u32>>>; Stage::ALL.len()],
    routes: [BTreeMap<Box<str>, Durations<u32>>; ROUTE_STAGES.len()],
}

impl Interval {
    fn record(&mut self, stage: Stage, us: u64) {
        if let Some(durations) = self.stages.get_mut(stage as usize) {
            durations.get_or_insert_with(|| Box::new(Durations::growing(STAGE_DIGITS))).record(us);
        }
    }

    fn record_of(&mut self, route: &str, stage: Stage, us: u64) {
        self.record(stage, us);
        let Some(routes) = of_route(stage).and_then(|at| self.routes.get_mut(at)) else { return };
        if let Some(durations) = routes.get_mut(route) {
            durations.record(us);
        } else {
            let mut durations = Durations::growing(ROUTE_DIGITS);
            durations.record(us);
            routes.insert(route.into(), durations);
        }
    }

    fn clear(&mut self) {
        self.stages.iter_mut().flatten().for_each(|stage| stage.clear());
        for routes in &mut self.routes {
            // A route that was idle for one interval gives its memory back, so that routes of old configurations do not stay.
            routes.retain(|_, route| !route.histogram.is_empty());
            routes.values_mut().for_each(Durations::clear);
        }
    }
}

type Shard = Mutex<Interval>;

/// Records durations for one thread; cheap, never waits for a reader.
pub struct Recorder {
    shard: Arc<Shard>,
}

impl Recorder {
    pub fn record(&self, stage: Stage, us: u64) {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner).record(stage, us);
    }

    /// A stage, and the same of one route where routes have it.
    pub fn record_of(&self, route: &str, stage: Stage, us: u64) {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner).record_of(route, stage, us);
    }
}

/// One kind of duration over all windows.
struct Windows {
    digits: u8,
    /// A slot without durations holds nothing.
    slots: [Option<Box<Durations<u32>>>; SLOTS],
    /// Of the hour, without the slot at hand.
    long_slots: [Pairs; SLOTS],
    total: Durations<u64>,
}

impl Windows {
    fn new(digits: u8) -> Self {
        Self { digits, slots: Default::default(), long_slots: Default::default(), total: Durations::growing(digits) }
    }

    fn add(&mut self, slot: usize, durations: &Durations<u32>) {
        if durations.histogram.is_empty() {
            return;
        }
        self.total.add(durations);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.get_or_insert_with(|| Box::new(Durations::growing(self.digits))).add(durations);
        }
    }

    /// The slot at hand ended, and `next` begins.
    fn advance(&mut self, next: u64) {
        let ended = next.saturating_sub(1);
        if let (Some(Some(slot)), Some(long)) = (self.slots.get(position(ended)), self.long_slots.get_mut(position(ended / SLOTS_IN_LONG)))
        {
            long.add(slot);
        }
        if let Some(oldest) = self.slots.get_mut(position(next)) {
            *oldest = None;
        }
        if let Some(oldest) = self.long_slots.get_mut(position(next / SLOTS_IN_LONG)).filter(|_| next.is_multiple_of(SLOTS_IN_LONG)) {
            *oldest = Pairs::default();
        }
    }

    fn read(&self, window: Window, slot: u64) -> Durations<u64> {
        let mut sum = Durations::new(self.digits);
        match window {
            Window::Total => sum.add(&self.total),
            Window::Minute => self.slots.iter().flatten().for_each(|slot| sum.add(slot)),
            Window::Hour => {
                self.long_slots.iter().for_each(|slot| slot.add_to(&mut sum));
                self.slots.get(position(slot)).into_iter().flatten().for_each(|slot| sum.add(slot));
            }
        }
        sum
    }
}

/// What readers share: all shards, all windows.
pub(super) struct Latency {
    started: Instant,
    shards: Mutex<Vec<(Arc<Shard>, Interval)>>,
    collected: Mutex<Collected>,
}

struct Collected {
    stages: [Windows; Stage::ALL.len()],
    routes: [BTreeMap<Box<str>, Windows>; ROUTE_STAGES.len()],
    /// Number of the current slot since the start.
    slot: u64,
}

impl Latency {
    pub(super) fn new(started: Instant) -> Self {
        let collected = Collected { stages: std::array::from_fn(|_| Windows::new(STAGE_DIGITS)), routes: Default::default(), slot: 0 };
        Self { started, shards: Mutex::default(), collected: Mutex::new(collected) }
    }

    pub(super) fn recorder(&self) -> Recorder {
        let shard = Arc::<Shard>::default();
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.push((Arc::clone(&shard), Interval::default()));
        Recorder { shard }
    }

    /// Takes in what all threads recorded, and moves the window on to `now`. `minute` is called at each whole minute since
    /// the start with that minute's durations per stage.
    pub(super) fn collect(&self, now: Instant, mut minute: impl FnMut(u64, &[Durations<u64>])) {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = now.saturating_duration_since(self.started).as_secs() / SLOT.as_secs();
        collected.advance(slot, &mut minute);
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain_mut(|(shard, spare)| {
            // The recording thread is gone when ours is the last handle; asked before the swap, so that nothing is missed.
            let alive = Arc::strong_count(shard) > 1;
            std::mem::swap(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner), spare);
            collected.add(spare);
            spare.clear();
            alive
        });
    }

    /// Those that stay away make room for others. What "" has of routes beyond the bound stays.
    pub(super) fn drop_routes(&self, gone: &HashSet<&str>) {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        for routes in &mut collected.routes {
            gone.iter().filter(|name| !name.is_empty()).for_each(|name| drop(routes.remove(*name)));
        }
    }

    pub(super) fn stage(&self, stage: Stage, window: Window) -> Durations<u64> {
        let collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = collected.stages.get(stage as usize);
        windows.map_or_else(|| Durations::new(STAGE_DIGITS), |windows| windows.read(window, collected.slot))
    }

    /// The routes with durations of that stage since the start.
    pub(super) fn routes_of(&self, stage: Stage) -> Vec<String> {
        let collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        of_route(stage).and_then(|at| collected.routes.get(at)).into_iter().flat_map(BTreeMap::keys).map(ToString::to_string).collect()
    }

    /// `None`: there are none of this stage, or of this route, which is one beyond the bound.
    pub(super) fn route(&self, route: &str, stage: Stage, window: Window) -> Option<Durations<u64>> {
        let collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = of_route(stage).and_then(|at| collected.routes.get(at))?;
        match routes.get(route) {
            Some(windows) => Some(windows.read(window, collected.slot)),
            None => (routes.len() < ROUTES_MAX).then(Durations::default),
        }
    }
}

impl Collected {
    fn advance(&mut self, slot: u64, minute: &mut impl FnMut(u64, &[Durations<u64>])) {
        let slots = SLOTS as u64;
        while self.slot < slot {
            let next = self.slot + 1;
            if next.is_multiple_of(slots) {
                let ended: Vec<_> = self.stages.iter().map(|windows| windows.read(Window::Minute, self.slot)).collect();
                minute(next / slots, &ended);
            }
            self.slot = next;
            let routes = self.routes.iter_mut().flat_map(BTreeMap::values_mut);
            self.stages.iter_mut().chain(routes).for_each(|windows| windows.advance(next));
        }
    }

    fn add(&mut self, interval: &Interval) {
        let slot = position(self.slot);
        for (windows, durations) in self.stages.iter_mut().zip(&interval.stages) {
            if let Some(durations) = durations {
                windows.add(slot, durations);
            }
        }
        for (routes, recorded) in self.routes.iter_mut().zip(&interval.routes) {
            for (route, durations) in recorded {
                // Those beyond the bound share one, under no name.
                let known = routes.len() < ROUTES_MAX || routes.contains_key(route);
                let route = if known { route.clone() } else { Box::default() };
                routes.entry(route).or_insert_with(|| Windows::new(ROUTE_DIGITS)).add(slot, durations);
            }
        }
    }
}

/// Where a slot lies in the ring.
fn position(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(latency: &Latency, stage: Stage) -> u64 {
        latency.stage(stage, Window::Minute).histogram.len()
    }

    #[test]
    fn a_minute_slides_and_the_total_stays() {
        let start = Instant::now();
        let latency = Latency::new(start);
        let recorder = latency.recorder();
        let mut minutes = Vec::new();
        for second in 0..200 {
            recorder.record(Stage::Total, 1000 + second);
            latency.collect(start + Duration::from_secs(second), |number, stages| minutes.push((number, stages[0].histogram.len())));
            assert!(minute(&latency, Stage::Total) <= 60, "second {second}");
        }
        assert!(minute(&latency, Stage::Total) > 50);
        assert_eq!(latency.stage(Stage::Total, Window::Total).histogram.len(), 200);
        assert_eq!(minutes, [(1, 60), (2, 60), (3, 60)]);
        latency.collect(start + Duration::from_secs(100_000), |_, _| ());
        assert_eq!(minute(&latency, Stage::Total), 0);
        assert_eq!(latency.stage(Stage::Total, Window::Total).histogram.len(), 200);
    }

    #[test]
    fn an_hour_slides_in_steps_of_ten_minutes() {
        let start = Instant::now();
        let latency = Latency::new(start);
        let recorder = latency.recorder();
        let (mut sum, minute) = (0, 60);
        for second in (0..3 * 3600).step_by(5) {
            recorder.record_of("a", Stage::Forward, 1000 + second);
            latency.collect(start + Duration::from_secs(second), |_, _| ());
            sum += 1000 + second;
            let hour = latency.stage(Stage::Forward, Window::Hour);
            if second < 50 * minute {
                assert_eq!((hour.histogram.len(), hour.sum_us), (second / 5 + 1, sum), "second {second}");
            } else if second >= 60 * minute {
                assert!((50 * 12..=60 * 12).contains(&hour.histogram.len()), "second {second}: {}", hour.histogram.len());
                assert!(hour.histogram.min() + 5 >= 1000 + second - 3600, "second {second}");
            }
            assert_eq!(latency.route("a", Stage::Forward, Window::Hour).unwrap().histogram.len(), hour.histogram.len());
        }
        latency.collect(start + Duration::from_secs(100_000), |_, _| ());
        assert_eq!(latency.stage(Stage::Forward, Window::Hour).histogram.len(), 0);
    }

    #[test]
    fn the_sum_is_exact_and_the_top_saturates() {
        let latency = Latency::new(Instant::now());
        let recorder = latency.recorder();
        for us in [1, 2, 1_234_567, u64::MAX] {
            recorder.record(Stage::Session, us);
        }
        latency.collect(Instant::now(), |_, _| ());
        let read = latency.stage(Stage::Session, Window::Minute);
        assert_eq!(read.sum_us, 1 + 2 + 1_234_567 + HIGHEST_US);
        assert_eq!(read.histogram.len(), 4);
        assert!(read.histogram.equivalent(read.histogram.max(), HIGHEST_US));
    }

    #[test]
    fn routes_have_their_own_and_count_towards_the_stage() {
        let latency = Latency::new(Instant::now());
        let recorder = latency.recorder();
        recorder.record_of("a", Stage::Forward, 1000);
        recorder.record_of("b", Stage::Forward, 2000);
        recorder.record_of("b", Stage::Forward, 2000);
        recorder.record_of("b", Stage::Total, 3000);
        latency.collect(Instant::now(), |_, _| ());
        let count = |route, stage, window| latency.route(route, stage, window).map(|read| read.histogram.len());
        assert_eq!(count("a", Stage::Forward, Window::Minute), Some(1));
        assert_eq!(count("b", Stage::Forward, Window::Total), Some(2));
        assert_eq!(count("b", Stage::Total, Window::Hour), Some(1));
        assert_eq!(count("none", Stage::Forward, Window::Total), Some(0));
        assert_eq!(count("b", Stage::Store, Window::Total), None);
        latency.drop_routes(&HashSet::from(["b", ""]));
        assert_eq!((count("a", Stage::Forward, Window::Total), count("b", Stage::Forward, Window::Total)), (Some(1), Some(0)));
        assert_eq!(minute(&latency, Stage::Forward), 3);
    }

    #[test]
    fn a_recorder_that_is_gone_leaves_its_durations_and_no_shard() {
        let latency = Latency::new(Instant::now());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let recorder = latency.recorder();
                std::thread::spawn(move || (0..10_000).for_each(|us| recorder.record(Stage::Queue, us)))
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            latency.collect(Instant::now(), |_, _| ());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        latency.collect(Instant::now(), |_, _| ());
        assert_eq!(minute(&latency, Stage::Queue), 40_000);
        assert!(latency.shards.lock().unwrap().is_empty());
    }

    #[test]
    fn names_of_the_contract() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
        }
        assert_eq!(Stage::from_name("tls-handshake"), None);
        for window in [Window::Minute, Window::Hour, Window::Total] {
            assert_eq!(Window::from_name(window.name()), Some(window));
        }
        assert_eq!(Window::from_name("5m"), None);
    }
}
