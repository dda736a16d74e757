//! Threads that take turns: one runs at a time, and the seed says which is next. Time passes with what is done, and where all wait for
//! something it goes on to the first of their deadlines: so a seed plays the same again, and nothing is waited for.

use super::Random;
use mailsluice::store::Machine;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// 2027, and so it stays.
const FIRST_US: i64 = 1_800_000_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// What a thread waits for.
#[derive(Clone, Copy)]
enum Turn {
    /// To go on.
    Ready,
    /// For something, until a time; and whether it was there when it was looked at last.
    Waits { until: Duration, is_in_vain: bool },
}

struct State {
    begun: Instant,
    passed: Duration,
    /// That the clock shows too much.
    clock_off_us: i64,
    was_set: bool,
    threads: BTreeMap<String, Turn>,
    current: String,
    random: Random,
}

impl State {
    fn wake(&mut self) {
        for turn in self.threads.values_mut() {
            if let Turn::Waits { is_in_vain, .. } = turn {
                *is_in_vain = false;
            }
        }
    }

    /// Whose turn it is.
    fn pick(&mut self) {
        let first = self.threads.values().map(|turn| match turn {
            Turn::Waits { until, is_in_vain: true } => *until,
            _ => Duration::ZERO,
        });
        let Some(first) = first.min() else { return };
        self.passed = self.passed.max(first);
        assert!(self.passed < DAY, "the threads wait for each other");
        let can_go_on = |turn: &Turn| !matches!(turn, Turn::Waits { until, is_in_vain: true } if *until > self.passed);
        let able: Vec<_> = self.threads.iter().filter(|(_, turn)| can_go_on(turn)).map(|(name, _)| name.clone()).collect();
        self.current.clone_from(&able[self.random.below(able.len() as u64) as usize]);
    }
}

#[derive(Clone)]
pub(super) struct Turns(Arc<(Mutex<State>, Condvar)>);

impl std::fmt::Debug for Turns {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Turns")
    }
}

/// The store names its threads; the other one is the test's.
fn me() -> String {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if name.starts_with("store-") { name } else { "test".to_owned() }
}

impl Turns {
    pub(super) fn new(random: &mut Random) -> Self {
        let random = Random(random.next());
        let threads = BTreeMap::from([("test".to_owned(), Turn::Ready)]);
        let begun = Instant::now();
        let state = State { begun, passed: Duration::ZERO, clock_off_us: 0, was_set: false, threads, current: "test".to_owned(), random };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_mine<'a>(&'a self, state: MutexGuard<'a, State>, me: &str) -> MutexGuard<'a, State> {
        self.0.1.notify_all();
        self.0.1.wait_while(state, |state| state.current != me).unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is done that takes a moment; another thread may go on instead.
    pub(super) fn step(&self) {
        let me = me();
        let mut state = self.state();
        let took = Duration::from_micros(1 + state.random.below(200));
        state.passed += took;
        if state.random.below(4) == 0 {
            state.wake();
            state.threads.insert(me.clone(), Turn::Ready);
            state.pick();
            drop(self.until_mine(state, &me));
        }
    }

    /// The clock is set.
    pub(super) fn jump(&self, by_us: i64) {
        let mut state = self.state();
        state.clock_off_us += by_us;
        state.was_set = true;
    }

    pub(super) fn was_set(&self) -> bool {
        self.state().was_set
    }

    /// The test looks at something again and again.
    pub(super) fn until(&self, most: Duration, is_there: impl Fn() -> bool) -> bool {
        self.await_turn(self.now() + most, &is_there);
        is_there()
    }
}

impl Machine for Turns {
    fn now(&self) -> Instant {
        let state = self.state();
        state.begun + state.passed
    }

    fn clock_us(&self) -> i64 {
        let state = self.state();
        FIRST_US + state.passed.as_micros() as i64 + state.clock_off_us
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        let mut state = self.state();
        Ok(std::array::from_fn(|_| state.random.below(256) as u8))
    }

    fn pause(&self, span: Duration) {
        self.await_turn(self.now() + span, &|| false);
    }

    fn begins(&self, thread: &'static str) {
        self.state().threads.insert(thread.to_owned(), Turn::Ready);
    }

    fn ends(&self) {
        let mut state = self.state();
        state.threads.remove(&me());
        state.wake();
        state.pick();
        self.0.1.notify_all();
    }

    fn await_turn(&self, until: Instant, is_there: &dyn Fn() -> bool) {
        let me = me();
        let mut state = self.until_mine(self.state(), &me);
        state.wake();
        let until = until.saturating_duration_since(state.begun);
        loop {
            // Whatever it looks at, no other thread runs meanwhile.
            drop(state);
            let is_there = is_there();
            state = self.state();
            if is_there || state.passed >= until {
                state.threads.insert(me, Turn::Ready);
                return;
            }
            state.threads.insert(me.clone(), Turn::Waits { until, is_in_vain: true });
            state.pick();
            state = self.until_mine(state, &me);
        }
    }
}
