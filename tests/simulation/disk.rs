//! A disk in memory that can lose its power: what was written and not synced is lost, kept, or kept in part, as the seed has it.

use super::Random;
use mailsluice::store::{Disk, FileStat, Lock, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A change of one file that is not synced.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// A change of the directory that is not synced.
#[derive(Clone, Debug)]
enum Entry {
    Named(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending: Vec<Entry>,
    next_file: u64,
    /// Changes and syncs so far.
    operations: u64,
    /// The power goes at this operation; it and whatever comes behind fail.
    cut_at: Option<u64>,
    /// Operations in this range fail, and the disk goes on.
    failing: std::ops::Range<u64>,
}

impl World {
    /// Every change and every sync passes here.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.failing.contains(&self.operations) || self.cut_at.is_some_and(|cut| self.operations >= cut) {
            return Err(io::Error::other("the simulated disk fails"));
        }
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        if self.cut_at.is_some_and(|cut| self.operations >= cut) { Err(io::Error::other("the simulated power is off")) } else { Ok(()) }
    }

    fn file(&mut self, id: u64) -> &mut File {
        self.files.entry(id).or_default()
    }

    fn named(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make(&mut self, path: &Path) -> u64 {
        self.next_file += 1;
        let id = self.next_file;
        self.names.insert(path.to_owned(), id);
        self.pending.push(Entry::Named(path.to_owned(), id));
        self.file(id);
        id
    }
}

fn apply_entry(names: &mut BTreeMap<PathBuf, u64>, entry: &Entry) {
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

fn apply(octets: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => octets.resize(*length, 0),
        Change::Write(offset, data) => {
            if octets.len() < offset + data.len() {
                octets.resize(offset + data.len(), 0);
            }
            octets[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedDisk(Arc<Mutex<World>>);

impl SimulatedDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn operations(&self) -> u64 {
        self.world().operations
    }

    /// The power goes at the given operation from now.
    pub(super) fn cut_after(&self, operations: u64) {
        let mut world = self.world();
        world.cut_at = Some(world.operations + 1 + operations);
    }

    /// Whether it has gone.
    pub(super) fn is_cut(&self) -> bool {
        let world = self.world();
        world.cut_at.is_some_and(|at| world.operations >= at)
    }

    /// Operations fail from then on, so many of them.
    pub(super) fn fail_after(&self, operations: u64, times: u64) {
        let mut world = self.world();
        let first = world.operations + 1 + operations;
        world.failing = first..first + times;
    }

    pub(super) fn heal(&self) {
        self.world().failing = 0..0;
    }

    /// The disk as it is found when the power is back.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Self {
        let world = self.world();
        let mut names = world.durable_names.clone();
        // Changes of a directory reach the disk in their order, up to some point.
        let kept = random.below(world.pending.len() as u64 + 1) as usize;
        for entry in &world.pending[..kept] {
            apply_entry(&mut names, entry);
        }
        let mut found = World { next_file: world.next_file, ..World::default() };
        for (path, id) in names {
            let octets = survivors(&world.files[&id], random);
            found.files.insert(id, File { seen: octets.clone(), durable: octets, pending: Vec::new() });
            found.names.insert(path.clone(), id);
            found.durable_names.insert(path, id);
        }
        Self(Arc::new(Mutex::new(found)))
    }

    /// Whether a text stands anywhere in the files that have a name.
    pub(super) fn holds(&self, text: &str) -> bool {
        let world = self.world();
        world
            .names
            .values()
            .any(|id| memchr::memmem::find(&world.files[id].seen.to_ascii_lowercase(), text.to_ascii_lowercase().as_bytes()).is_some())
    }
}

/// Of what was not synced any part may be there, in whole sectors: writes are not ordered among each other.
fn survivors(file: &File, random: &mut Random) -> Vec<u8> {
    let mut octets = file.durable.clone();
    let luck = random.below(4);
    for change in &file.pending {
        match (luck, change) {
            (0, _) => {}
            (1, change) => apply(&mut octets, change),
            (_, Change::Length(length)) => {
                // A length that shrinks may be lost; one that grows is there or is not.
                if random.below(2) == 0 {
                    octets.resize(*length, 0);
                }
            }
            (_, Change::Write(offset, data)) => {
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if random.below(2) == 0 {
                        apply(&mut octets, &Change::Write(offset + number * SECTOR, sector.to_vec()));
                    }
                }
            }
        }
    }
    octets
}

#[derive(Debug)]
struct OpenFile {
    disk: SimulatedDisk,
    id: u64,
}

impl OpenFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        let file = world.file(self.id);
        apply(&mut file.seen, &change);
        file.pending.push(change);
        Ok(())
    }
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.world();
        world.alive()?;
        Ok(world.file(self.id).seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut world = self.disk.world();
        world.alive()?;
        let offset = offset as usize;
        let octets = world.file(self.id).seen.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(octets);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize))
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        let file = world.file(self.id);
        file.durable.clone_from(&file.seen);
        file.pending.clear();
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let mut world = self.world();
        let id = match world.named(path) {
            Ok(id) => id,
            Err(_) => {
                world.operate()?;
                world.make(path)
            }
        };
        world.alive()?;
        Ok(Box::new(OpenFile { disk: self.clone(), id }))
    }
    fn can_write(&self, path: &Path) -> io::Result<()> {
        let world = self.world();
        world.alive()?;
        world.named(path).map(drop)
    }
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let mut world = self.world();
        world.alive()?;
        let id = world.named(path)?;
        let length = world.file(id).seen.len() as u64;
        Ok(FileStat { length, backed: length, identity: (0, id), modified: std::time::SystemTime::now() })
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.world();
        world.alive()?;
        let id = world.named(path)?;
        Ok(world.file(id).seen.clone())
    }
    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        let id = world.make(path);
        *world.file(id) = File { seen: octets.to_vec(), durable: octets.to_vec(), pending: Vec::new() };
        world.durable_names = world.names.clone();
        world.pending.clear();
        Ok(())
    }
    fn reserve(&self, path: &Path, _length: u64) -> io::Result<()> {
        self.world().make(path);
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.named(from)?;
        let entry = Entry::Renamed(from.to_owned(), to.to_owned());
        apply_entry(&mut world.names, &entry);
        world.pending.push(entry);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.alive()?;
        world.named(path)?;
        world.operate()?;
        let entry = Entry::Removed(path.to_owned());
        apply_entry(&mut world.names, &entry);
        world.pending.push(entry);
        Ok(())
    }
    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.durable_names = world.names.clone();
        world.pending.clear();
        Ok(())
    }
    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        self.world().alive()
    }
    fn list(&self, _directory: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.world();
        world.alive()?;
        Ok(world.names.keys().cloned().collect())
    }
    fn free_space(&self, _directory: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
    fn lock(&self, _path: &Path) -> io::Result<Option<Lock>> {
        self.world().alive()?;
        Ok(Some(Box::new(())))
    }
}
