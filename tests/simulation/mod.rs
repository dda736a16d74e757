//! Parts of the daemon on simulated machines. A seed is the reproduction: `MAILSLUICE_SEED=17` runs that one alone, `MAILSLUICE_SEEDS=100000`
//! that many, `MAILSLUICE_SEEDS=2000..4000` those.

mod disk;
mod inode;
mod kernel;
mod known;
mod store;
mod turns;

/// A small generator of numbers (SplitMix64); the same for the same seed.
#[derive(Debug, Default)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Printed where one seed is looked at.
pub(crate) fn tell(what: impl FnOnce() -> String) {
    if std::env::var_os("MAILSLUICE_SEED").is_some() {
        eprintln!("{}: {}", std::thread::current().name().unwrap_or("test"), what());
    }
}

/// Runs a simulation for each seed, and for those that failed once, on all processors; says which seeds failed.
pub(crate) fn for_each_seed(ordinary: u64, failed_once: &[u64], simulation: impl Fn(u64) + Sync) {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let range = |text: &str| text.split_once("..").map_or_else(|| 0..number(text), |(first, end)| number(first)..number(end));
    let seeds: Vec<u64> = match (std::env::var("MAILSLUICE_SEED"), std::env::var("MAILSLUICE_SEEDS")) {
        (Ok(seed), _) => vec![number(&seed)],
        (Err(_), Ok(seeds)) => range(&seeds).collect(),
        (Err(_), Err(_)) => failed_once.iter().copied().chain(0..ordinary).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(&seed) = seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) else { return };
                    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulation(seed)));
                    if run.is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that failed (run one with MAILSLUICE_SEED): {failed:?}");
}
