//! What the store asks of the simulated disk, as Linux answers it.

use super::disk::{Entry, SimulatedDisk, World, eio};
use mailsluice::store::{Disk, DurableFile, FileStat, Lock, Machine, StorageBackend};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// An open description.
#[derive(Debug)]
pub(super) struct OpenFile {
    disk: SimulatedDisk,
    id: u64,
    /// The error that it has been told of last.
    told: Mutex<u64>,
}

impl OpenFile {
    fn new(disk: &SimulatedDisk, world: &mut World, id: u64) -> Self {
        let told = world.inode(id).opened();
        Self { disk: disk.clone(), id, told: Mutex::new(told) }
    }

    fn length(&self) -> io::Result<u64> {
        let mut world = self.disk.world();
        world.alive()?;
        Ok(world.inode(self.id).seen().len() as u64)
    }

    fn read_at(&self, at: u64, out: &mut [u8], may_panic: bool) -> io::Result<()> {
        let mut world = SimulatedDisk::succeed(self.disk.operate_as(may_panic)?, 8)?;
        let at = at as usize;
        let octets = world.inode(self.id).seen().get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(octets);
        Ok(())
    }

    /// How much of a write finds a place.
    fn fitting(world: &mut World, id: u64, at: usize, length: usize) -> usize {
        let there = world.inode(id).seen().len();
        if !world.is_full() || at + length <= there {
            return length;
        }
        // A short one.
        let room = world.random.below(length as u64 / 512 + 1) as usize * 512;
        room.min(length)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.disk.world().inode(self.id).descriptions -= 1;
    }
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        self.length()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out, false)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = SimulatedDisk::succeed(self.disk.operate_as(false)?, 8)?;
        world.inode(self.id).set_length(len as usize);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut world = SimulatedDisk::succeed(self.disk.operate_as(false)?, 8)?;
        let fitting = Self::fitting(&mut world, self.id, offset as usize, data.len());
        world.inode(self.id).write(offset as usize, &data[..fitting]);
        if fitting < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.operate_as(false)?;
        // Where the power goes with it, what gets to the disk is decided when the power is back.
        world.alive()?;
        let fails = world.fails();
        let mut told = self.told.lock().unwrap();
        let World { inodes, random, .. } = &mut *world;
        if inodes.get_mut(&self.id).unwrap().sync(fails, &mut told, random) { Ok(()) } else { Err(eio()) }
    }
}

impl DurableFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Self::length(self)
    }
    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(at, out, true)
    }
    fn write(&mut self, at: u64, pages: &[u8]) -> io::Result<()> {
        let mut world = self.disk.operate()?;
        let fails = world.fails() || world.is_cut;
        let fitting = Self::fitting(&mut world, self.id, at as usize, pages.len());
        let past_cache = world.past_cache;
        let World { inodes, random, .. } = &mut *world;
        inodes.get_mut(&self.id).unwrap().write_durably(at as usize, &pages[..fitting], past_cache, fails, random);
        match (fails, fitting < pages.len()) {
            (true, _) => Err(eio()),
            (_, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl SimulatedDisk {
    pub(super) fn open_file(&self, path: &Path, make: bool) -> io::Result<OpenFile> {
        let there = {
            let world = self.world();
            world.alive()?;
            world.named(path)
        };
        if let Ok(id) = there {
            return Ok(OpenFile::new(self, &mut self.world(), id));
        }
        if !make {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut world = self.try_to(2)?;
        if world.is_full() && world.random.below(2) == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.next_inode += 1;
        let id = world.next_inode;
        world.change(Entry::Named(path.to_owned(), id));
        Ok(OpenFile::new(self, &mut world, id))
    }
}

impl Machine for SimulatedDisk {
    fn now(&self) -> Instant {
        self.turns.now()
    }
    fn clock_us(&self) -> i64 {
        self.turns.clock_us()
    }
    fn random(&self) -> io::Result<[u8; 32]> {
        self.turns.random()
    }
    fn pause(&self, span: Duration) {
        self.turns.pause(span);
    }
    fn begins(&self, thread: &'static str) {
        self.turns.begins(thread);
    }
    fn ends(&self) {
        self.turns.ends();
    }
    fn await_turn(&self, until: Instant, is_there: &dyn Fn() -> bool) {
        self.turns.await_turn(until, is_there);
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.open_file(path, true)?))
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.open_file(path, false)?))
    }
    fn open_durable(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(self.open_file(path, true)?))
    }
    fn can_write(&self, path: &Path) -> io::Result<()> {
        let world = self.world();
        world.alive()?;
        world.named(path).map(drop)
    }
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_micros(self.turns.clock_us().max(0) as u64);
        let mut world = Self::succeed(self.world(), 16)?;
        let id = world.named(path)?;
        let length = world.inode(id).seen().len() as u64;
        Ok(FileStat { length, backed: length, identity: (0, id), modified })
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.try_to(4)?;
        let id = world.named(path)?;
        Ok(world.inode(id).seen().to_vec())
    }
    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        let part = PathBuf::from(format!("{}.part", path.display()));
        let file = self.open_file(&part, true)?;
        file.set_len(0)?;
        StorageBackend::write(&file, 0, octets)?;
        file.sync_data()?;
        self.rename(&part, path)?;
        self.sync_directory(path)
    }
    fn reserve(&self, path: &Path, _length: u64) -> io::Result<()> {
        // Nobody reads it.
        self.open_file(path, true)?.sync_data()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.try_to(2)?;
        world.named(from)?;
        world.change(Entry::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.try_to(2)?;
        let id = world.named(from)?;
        world.change(Entry::Named(to.to_owned(), id));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.world().named(path)?;
        let mut world = self.try_to(2)?;
        world.change(Entry::Removed(path.to_owned()));
        Ok(())
    }
    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut world = self.try_to(1)?;
        world.durable_names = world.names.clone();
        world.pending.clear();
        Ok(())
    }
    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        self.world().alive()
    }
    fn list(&self, _directory: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.try_to(4)?;
        Ok(world.names.keys().cloned().collect())
    }
    fn free_space(&self, _directory: &Path) -> io::Result<u64> {
        let world = self.world();
        world.alive()?;
        Ok(if world.is_full() { 0 } else { 1 << 40 })
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        Ok(Some(Box::new(self.open_file(path, true)?)))
    }
}
