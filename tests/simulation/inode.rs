//! One file as Linux keeps it: what the disk has, and what the page cache shows. A page that could not be written counts as clean from then on:
//! readers see it until it is evicted, the disk never gets it, and each open description hears of it once.

use super::Random;
use std::collections::BTreeSet;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    disk: Vec<u8>,
    seen: Vec<u8>,
    /// Pages that are to be written, in whatever order.
    dirty: BTreeSet<usize>,
    /// Pages that count as clean and that the disk has otherwise.
    stale: BTreeSet<usize>,
    length_is_dirty: bool,
    /// Failed writes so far, and whether anybody has been told of the last one.
    errors: u64,
    is_told: bool,
    pub(super) descriptions: u64,
}

impl Inode {
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// What an open description remembers: an error that nobody has been told of is told to whoever opens the file.
    pub(super) fn opened(&mut self) -> u64 {
        self.descriptions += 1;
        if self.is_told || self.errors == 0 { self.errors } else { u64::MAX }
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.dirty.retain(|page| page * PAGE < length);
        self.stale.retain(|page| page * PAGE < length);
        self.length_is_dirty = true;
    }

    pub(super) fn write(&mut self, at: usize, octets: &[u8]) {
        let end = at + octets.len();
        if self.seen.len() < end {
            self.set_length(end);
        }
        self.seen[at..end].copy_from_slice(octets);
        self.dirty.extend(at / PAGE..end.div_ceil(PAGE));
    }

    /// Octets of the page cache that get to the disk.
    fn put(&mut self, from: usize, to: usize) {
        let to = to.min(self.seen.len());
        if from < to {
            if self.disk.len() < to {
                self.disk.resize(to, 0);
            }
            self.disk[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    fn put_page(&mut self, page: usize) {
        self.put(page * PAGE, (page + 1) * PAGE);
        self.stale.remove(&page);
    }

    /// Some of the sectors of a page.
    fn put_some_of(&mut self, page: usize, random: &mut Random) {
        for sector in (page * PAGE..(page + 1) * PAGE).step_by(SECTOR) {
            if random.below(2) == 0 {
                self.put(sector, sector + SECTOR);
            }
        }
        self.stale.insert(page);
    }

    /// The kernel writes some pages when it likes to; it may fail at that.
    pub(super) fn write_back(&mut self, fails: bool, random: &mut Random) {
        for page in std::mem::take(&mut self.dirty) {
            match (random.below(2), fails) {
                (0, _) => _ = self.dirty.insert(page),
                (_, true) => {
                    self.stale.insert(page);
                    self.fail();
                }
                (_, false) => self.put_page(page),
            }
        }
    }

    fn fail(&mut self) {
        self.errors += 1;
        self.is_told = false;
    }

    /// Whether all that was written is on the disk, as far as a description that remembers `told` is told.
    pub(super) fn sync(&mut self, fails: bool, told: &mut u64, random: &mut Random) -> bool {
        for page in std::mem::take(&mut self.dirty) {
            if fails {
                self.put_some_of(page, random);
            } else {
                self.put_page(page);
            }
        }
        if fails {
            self.fail();
        }
        if self.length_is_dirty && (!fails || random.below(2) == 0) {
            self.disk.resize(self.seen.len(), 0);
        }
        self.length_is_dirty = false;
        let is_good = *told == self.errors;
        *told = self.errors;
        self.is_told = true;
        is_good
    }

    /// A write that is durable when it returns. One that fails leaves any of its sectors on the disk; past the page cache nothing else is seen.
    pub(super) fn write_durably(&mut self, at: usize, octets: &[u8], past_cache: bool, fails: bool, random: &mut Random) {
        self.write(at, octets);
        let end = at + octets.len();
        for page in at / PAGE..end.div_ceil(PAGE) {
            self.dirty.remove(&page);
            if fails {
                self.put_some_of(page, random)
            } else {
                self.put_page(page)
            }
            if past_cache {
                self.evict_page(page);
            }
        }
        self.length_is_dirty = false;
        if past_cache {
            self.seen.resize(self.disk.len(), 0);
        }
    }

    fn evict_page(&mut self, page: usize) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.seen.len()));
        let there = to.min(self.disk.len()).max(from);
        if from < there {
            self.seen[from..there].copy_from_slice(&self.disk[from..there]);
        }
        if there < to {
            self.seen[there..to].fill(0);
        }
    }

    /// The page cache lets go of what counts as clean; of the whole file, errors and all, where nobody has it open.
    pub(super) fn evict(&mut self) {
        for page in std::mem::take(&mut self.stale) {
            if !self.dirty.contains(&page) {
                self.evict_page(page);
            }
        }
        if self.descriptions == 0 && self.dirty.is_empty() {
            self.is_told = true;
            if !self.length_is_dirty {
                self.seen.resize(self.disk.len(), 0);
            }
        }
    }

    /// As it is found when the power is back: of what was not synced any part may be there.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Self {
        let mut left = self.clone();
        if left.length_is_dirty && random.below(2) == 0 {
            left.disk.resize(left.seen.len(), 0);
        }
        let luck = random.below(3);
        for page in std::mem::take(&mut left.dirty) {
            match luck {
                0 => {}
                1 => left.put_page(page),
                _ => left.put_some_of(page, random),
            }
        }
        Self { seen: left.disk.clone(), disk: left.disk, ..Self::default() }
    }

    /// As the next process finds it.
    pub(super) fn after_kill(&self) -> Self {
        Self { descriptions: 0, ..self.clone() }
    }

    /// One bit of what the disk has changes.
    pub(super) fn rot(&mut self, random: &mut Random) {
        let at = random.below(self.disk.len() as u64) as usize;
        self.disk[at] ^= 1 << random.below(8);
        self.seen.clone_from(&self.disk);
    }

    /// Whether a text in lower case stands in it, on the disk or for readers.
    pub(super) fn holds(&self, text: &str) -> bool {
        [&self.disk, &self.seen].iter().any(|octets| memchr::memmem::find(&octets.to_ascii_lowercase(), text.as_bytes()).is_some())
    }

    pub(super) fn length_on_disk(&self) -> usize {
        self.disk.len()
    }
}
