//! A disk in memory, with the faults that disks and kernels have: the power goes, or the process is killed; syncs and writes fail, and what was
//! to be written then is as `inode.rs` has it; the disk is full for a while; an operation does not return; the thread that asks for one dies.

use super::inode::Inode;
use super::turns::Turns;
use super::{Random, tell};
use nix::libc;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A change of the directory that is not synced.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Named(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

/// What befalls the disk at one of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It and whatever comes behind fail.
    Cut,
    /// So many operations fail.
    Fail(u64),
    /// For so many operations nothing finds a place.
    Full(u64),
    /// It does not return for so long.
    Hang(Duration),
    /// Nor does it ever: then the power goes.
    HangToTheEnd(Duration),
    /// The store's thread that asks for it dies.
    Panic,
    /// The clock is set, by so many microseconds.
    Clock(i64),
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) pending: Vec<Entry>,
    pub(super) next_inode: u64,
    /// So far.
    operations: u64,
    faults: Vec<(u64, Fault)>,
    struck: Vec<Fault>,
    pub(super) is_cut: bool,
    /// Nothing returns.
    hangs: bool,
    /// Up to these operations.
    failing_until: u64,
    full_until: u64,
    /// Durable writes go past the page cache.
    pub(super) past_cache: bool,
    pub(super) random: Random,
}

/// No simulation takes so long.
const FOR_EVER: Duration = Duration::from_secs(20_000);

fn off() -> io::Error {
    io::Error::other("the simulated power is off")
}

/// Errors that a disk answers with.
pub(super) fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl World {
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.is_cut { Err(off()) } else { Ok(()) }
    }

    pub(super) fn fails(&self) -> bool {
        self.operations <= self.failing_until
    }

    pub(super) fn is_full(&self) -> bool {
        self.operations <= self.full_until
    }

    /// What the kernel does when it likes to.
    fn pass_time(&mut self) {
        let Self { inodes, random, .. } = self;
        if random.below(8) > 0 {
            return;
        }
        let fails = self.operations <= self.failing_until;
        for inode in inodes.values_mut() {
            match random.below(8) {
                0 => inode.write_back(fails, random),
                1 => inode.evict(),
                _ => {}
            }
        }
    }

    pub(super) fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }

    pub(super) fn named(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, entry: Entry) {
        apply(&mut self.names, &entry);
        self.pending.push(entry);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, entry: &Entry) {
    match entry {
        Entry::Named(path, id) => {
            names.insert(path.clone(), *id);
        }
        Entry::Renamed(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        Entry::Removed(path) => {
            names.remove(path);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct SimulatedDisk {
    world: Arc<Mutex<World>>,
    pub(super) turns: Turns,
}

impl SimulatedDisk {
    pub(super) fn new(random: &mut Random) -> Self {
        let world = World { random: Random(random.next()), past_cache: random.below(2) == 0, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), turns: Turns::new(random) }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every operation that may reach the disk begins here; whether it fails is its own to ask.
    pub(super) fn operate(&self) -> io::Result<MutexGuard<'_, World>> {
        self.operate_as(true)
    }

    /// What dies inside redb may abort the process in redb's destructors, which no test outlives.
    pub(super) fn operate_as(&self, may_panic: bool) -> io::Result<MutexGuard<'_, World>> {
        self.turns.step();
        // A reader of the test's own is neither held up nor killed.
        let is_store = std::thread::current().name().is_some_and(|name| name.starts_with("store-"));
        if is_store {
            self.turns.until(FOR_EVER, || !self.world().hangs || self.world().is_cut);
        }
        let mut world = self.world();
        world.alive()?;
        world.operations += 1;
        world.pass_time();
        let now = world.operations;
        while let Some(due) = world.faults.iter().position(|(at, fault)| {
            let of_a_thread = matches!(fault, Fault::Panic | Fault::Hang(_) | Fault::HangToTheEnd(_));
            *at <= now && (is_store || !of_a_thread) && (may_panic || *fault != Fault::Panic)
        }) {
            let (_, fault) = world.faults.remove(due);
            world.struck.push(fault);
            tell(|| format!("operation {now}: {fault:?}"));
            match fault {
                Fault::Cut => world.is_cut = true,
                Fault::Fail(times) => world.failing_until = now + times - 1,
                Fault::Full(times) => world.full_until = now + times - 1,
                Fault::Hang(span) | Fault::HangToTheEnd(span) => {
                    drop(world);
                    self.turns.until(span, || self.world().is_cut);
                    world = self.world();
                    world.is_cut |= matches!(fault, Fault::HangToTheEnd(_));
                }
                Fault::Clock(by_us) => self.turns.jump(by_us),
                Fault::Panic => {
                    drop(world);
                    panic!("a simulated fault of the program");
                }
            }
        }
        Ok(world)
    }

    /// One that fails without a trace, or changes nothing where the power goes with it.
    pub(super) fn try_to(&self, likely: u64) -> io::Result<MutexGuard<'_, World>> {
        Self::succeed(self.operate()?, likely)
    }

    pub(super) fn succeed(mut world: MutexGuard<'_, World>, likely: u64) -> io::Result<MutexGuard<'_, World>> {
        world.alive()?;
        if world.fails() && world.random.below(likely) == 0 { Err(eio()) } else { Ok(world) }
    }

    pub(super) fn operations(&self) -> u64 {
        self.world().operations
    }

    /// Something happens at the given operation from now.
    pub(super) fn strike_after(&self, operations: u64, fault: Fault) {
        let mut world = self.world();
        let at = world.operations + 1 + operations;
        world.faults.push((at, fault));
    }

    /// Nothing returns until it is healed.
    pub(super) fn hang_up(&self) {
        self.world().hangs = true;
    }

    /// What has befallen it.
    pub(super) fn struck(&self) -> Vec<Fault> {
        self.world().struck.clone()
    }

    /// From now on it is as good as new, if it will ever be; what it has lost it has lost.
    pub(super) fn heal(&self) -> bool {
        let mut world = self.world();
        (world.failing_until, world.full_until) = (0, 0);
        world.faults.clear();
        world.hangs = false;
        !world.is_cut && !world.struck.iter().any(|fault| matches!(fault, Fault::HangToTheEnd(_)))
    }

    fn next(world: &World, random: &mut Random, names: BTreeMap<PathBuf, u64>, find: impl Fn(&Inode, &mut Random) -> Inode) -> World {
        let mut found =
            World { next_inode: world.next_inode, past_cache: world.past_cache, random: Random(random.next()), ..World::default() };
        for id in names.values().chain(world.durable_names.values()) {
            found.inodes.entry(*id).or_insert_with(|| find(&world.inodes[id], random));
        }
        (found.names, found.durable_names) = (names, world.durable_names.clone());
        found
    }

    /// The disk as it is found when the power is back.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Self {
        tell(|| "the power goes".to_owned());
        let mut world = self.world();
        world.is_cut = true;
        let mut names = world.durable_names.clone();
        // Changes of a directory reach the disk in their order, up to some point.
        let kept = random.below(world.pending.len() as u64 + 1) as usize;
        world.pending[..kept].iter().for_each(|entry| apply(&mut names, entry));
        let mut found = Self::next(&world, random, names, Inode::after_power_cut);
        found.durable_names = found.names.clone();
        Self { world: Arc::new(Mutex::new(found)), turns: self.turns.clone() }
    }

    /// The disk as the next process finds it: the page cache is what it was.
    pub(super) fn after_kill(&self, random: &mut Random) -> Self {
        tell(|| "killed".to_owned());
        let mut world = self.world();
        world.is_cut = true;
        let mut found = Self::next(&world, random, world.names.clone(), |inode, _| inode.after_kill());
        found.pending.clone_from(&world.pending);
        for entry in &world.pending {
            if let Entry::Named(_, id) = entry {
                found.inodes.entry(*id).or_insert_with(|| world.inodes[id].after_kill());
            }
        }
        Self { world: Arc::new(Mutex::new(found)), turns: self.turns.clone() }
    }

    /// Whether a text stands anywhere in the files that have a name, for readers or on the disk.
    pub(super) fn holding(&self, text: &str) -> Vec<PathBuf> {
        let (world, text) = (self.world(), text.to_ascii_lowercase());
        let named = world.names.iter().chain(&world.durable_names);
        named.filter(|(_, id)| world.inodes[id].holds(&text)).map(|(path, _)| path.clone()).collect()
    }

    /// One bit of a file changes while nobody looks: in which file.
    pub(super) fn rot(&self, random: &mut Random) -> PathBuf {
        let mut world = self.world();
        let files: Vec<_> = world.names.iter().map(|(path, id)| (path.clone(), *id)).collect();
        let files: Vec<_> = files.into_iter().filter(|(_, id)| world.inodes[id].length_on_disk() > 0).collect();
        let (path, id) = &files[random.below(files.len() as u64) as usize];
        world.inode(*id).rot(random);
        path.clone()
    }
}
