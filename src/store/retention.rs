//! What leaves the store by age and by size, at a steady pace, and what is done on a disk that is nearly full. Runs in the writer,
//! a slice at a time. Logs nothing but the ballast's going and coming; errors put the store out of use until it can be opened again.
//!
//! redb doubles its file whenever it is full and never makes it smaller, so `max_size` is held by keeping the live octets below
//! what the file can hold without growing past it. Disk space for expired records is used again at once; their octets leave the file
//! with the next rewrite (`forget.rs`).

use super::commit::Writer;
use super::error::Fault;
use super::id::{first_of, milliseconds};
use super::schema::RECORDS;
use super::shared::now_ms;
use super::{encoding, schema::State};
use std::time::{Duration, Instant};

/// Records that one transaction removes at most: as many as the batch before it brought, or the store would outgrow its bounds under
/// load, and no fewer than the first of these, never more than the second.
const SLICE: usize = 128;
const SLICE_MOST: usize = 512;
/// Below this much free space nothing is taken, so that a commit does not fail behind the endpoint's 2xx; twice as much ends it.
const LOW_OCTETS: u64 = 4 << 20;
pub(super) const LOW: &str = "less than 4 MiB are free in the store's file system";
const BALLAST_OCTETS: u64 = 8 << 20;

/// What an empty store takes, and live octets up to which the copies of two transactions, each of most index pages, weigh in.
const EMPTY: u64 = 256 << 10;
const SMALL: u64 = 16 << 20;

/// Octets of file that so many live octets take at most: pages that are not full, inner pages, transactions' copies.
pub(super) fn file_octets(live: u64) -> u64 {
    (live.saturating_mul(7) / 4).saturating_add(live.min(SMALL) / 2 * 3).saturating_add(EMPTY)
}

/// Live octets that fit into so many octets of file.
fn live_octets(file: u64) -> u64 {
    let file_of_small = file_octets(SMALL);
    if file <= file_of_small {
        file.saturating_sub(EMPTY).saturating_mul(4) / 13
    } else {
        SMALL + (file - file_of_small).saturating_mul(4) / 7
    }
}

/// Live octets that a file may have under `max_size`, when it is `length` long now.
pub(super) fn live_limit(max_size: u64, length: u64) -> u64 {
    let mut reachable = length.max(1);
    while reachable.saturating_mul(2) <= max_size {
        reachable = reachable.saturating_mul(2);
    }
    while reachable > max_size {
        reachable /= 2;
    }
    live_octets(reachable)
}

impl Writer {
    /// Removes a slice of what has to go; goes on at once while there is more.
    pub(super) fn expire(&mut self) -> Result<(), Fault> {
        let settings = self.shared.settings.load();
        let (retention, max_size) = (settings.retention, settings.max_size);
        let over = self.over(max_size);
        let by_size = over > 0;
        if !by_size && self.pass.is_none() && Instant::now() < self.rest_until {
            return Ok(());
        }
        let due = if by_size { self.oldest(over)? } else { self.expired(retention)? };
        self.rest_after_a_pass_in_vain(!due.is_empty());
        if due.is_empty() {
            if by_size {
                // Nothing is left that could go.
                self.pass = None;
            }
            return Ok(());
        }
        self.removed = true;
        self.write(|tables| {
            for id in due {
                tables.remove(id)?;
            }
            note_stale(&mut tables.state);
            Ok(())
        })?;
        if by_size {
            self.pass = Some(0);
        }
        Ok(())
    }

    /// Where ids were once far ahead of their dates (a clock that was set back), a pass looks at many records that stay: it may take a
    /// twentieth of the time, not all of it.
    fn rest_after_a_pass_in_vain(&mut self, found: bool) {
        let now = Instant::now();
        if found {
            self.in_vain_since = None;
        } else if self.pass.is_some() {
            self.in_vain_since.get_or_insert(now);
        } else if let Some(since) = self.in_vain_since.take() {
            self.rest_until = now + now.duration_since(since) * 20;
        }
    }

    /// Live octets above what `max_size` allows.
    fn over(&self, max_size: u64) -> u64 {
        self.state.live_octets.saturating_sub(live_limit(max_size, self.stat.length))
    }

    /// Too large: not to be left for the next tick.
    pub(super) fn too_large(&self) -> bool {
        self.over(self.shared.settings.load().max_size) > 0
    }

    /// The oldest records, about as many as hold so many octets.
    fn oldest(&self, octets: u64) -> Result<Vec<u128>, Fault> {
        let page = self.page(0, SLICE_MOST)?;
        let mut sum = 0u64;
        Ok(page
            .into_iter()
            .take_while(|(_, length, _)| {
                let wanted = sum < octets;
                sum = sum.saturating_add(*length);
                wanted
            })
            .map(|(id, ..)| id)
            .collect())
    }

    /// Records whose date is past, in ids from where the pass stands. Dates follow ids but for the store's lead.
    fn expired(&mut self, retention: Duration) -> Result<Vec<u128>, Fault> {
        let retention_us = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let cutoff_us = jiff::Timestamp::now().as_microsecond().saturating_sub(retention_us);
        let lead_ms = i64::try_from(self.state.lead_ms).unwrap_or(i64::MAX);
        let end = first_of((cutoff_us / 1000).saturating_add(lead_ms).saturating_add(2));
        let slice = self.last_batch.clamp(SLICE, SLICE_MOST);
        let page = self.page(self.pass.unwrap_or(0), slice)?;
        let last = page.last().map(|(id, ..)| *id);
        // A damaged record has no date; its id's time must do.
        let is_due = |id: u128, date_us: Option<i64>| match date_us {
            Some(date_us) => date_us < cutoff_us,
            None => i64::try_from(milliseconds(id)).unwrap_or(i64::MAX) < cutoff_us / 1000,
        };
        self.pass = last.filter(|last| page.len() == slice && *last < end);
        Ok(page.into_iter().filter(|(id, _, date_us)| *id < end && is_due(*id, *date_us)).map(|(id, ..)| id).collect())
    }

    /// Id, octets and date of the oldest records from an id on.
    fn page(&self, from: u128, most: usize) -> Result<Vec<(u128, u64, Option<i64>)>, Fault> {
        self.shared.look(|txn| {
            let table = txn.open_table(RECORDS)?;
            let mut page = Vec::with_capacity(most);
            for item in table.range(from..)?.take(most) {
                let (id, octets) = item?;
                let date = encoding::decode(id.value(), octets.value()).ok().map(|record| record.date.as_microsecond());
                page.push((id.value(), octets.value().len() as u64, date));
            }
            Ok(page)
        })
    }

    fn free_space(&self) -> Result<u64, Fault> {
        Ok(self.shared.files.disk.free_space(self.shared.files.directory())?)
    }

    /// Whether another commit will find its place.
    pub(super) fn room(&self) -> Result<(), Fault> {
        if self.has_room_inside() || self.free_space()? >= LOW_OCTETS { Ok(()) } else { Err(Fault::Full(LOW.to_owned())) }
    }

    /// Whether what the journal has, at most a mebibyte, will find its place in redb.
    pub(super) fn can_settle(&self) -> bool {
        self.free_space().is_ok_and(|free| free >= LOW_OCTETS / 2)
    }

    /// The file has free pages of its own that already have their place on the disk.
    fn has_room_inside(&self) -> bool {
        self.stat.backed >= self.stat.length && file_octets(self.state.live_octets).saturating_add(LOW_OCTETS) <= self.stat.length
    }

    /// On the way out of trouble: what has expired goes, with the ballast's space if need be, and a commit is tried.
    pub(super) fn make_room(&mut self) -> Result<(), Fault> {
        let enough = |writer: &Self| Ok::<_, Fault>(writer.has_room_inside() || writer.free_space()? >= 2 * LOW_OCTETS);
        if !enough(self)? {
            self.give_up_ballast()?;
            self.pass = Some(0);
            while self.pass.is_some() {
                self.expire()?;
            }
            self.stat = self.shared.files.stat()?;
            if !enough(self)? {
                return Err(Fault::Full(LOW.to_owned()));
            }
        }
        self.write(|_| Ok(()))
    }

    /// Only when something has expired: deleting needs space as well (copy on write), and nothing else is worth the ballast.
    fn give_up_ballast(&mut self) -> Result<(), Fault> {
        let retention = self.shared.settings.load().retention;
        self.pass = None;
        let due = !self.expired(retention)?.is_empty();
        self.pass = None;
        if due {
            self.shared.files.give_up_ballast("to let expired records go")?;
        }
        Ok(())
    }

    /// Puts the ballast back when there is plenty of space.
    pub(super) fn keep_ballast(&self) {
        let files = &self.shared.files;
        let missing = files.disk.stat(&files.ballast()).is_err();
        if missing && self.free_space().is_ok_and(|free| free >= 4 * BALLAST_OCTETS) {
            match files.disk.reserve(&files.ballast(), BALLAST_OCTETS) {
                Ok(()) => tracing::info!(file = %files.ballast().display(), octets = BALLAST_OCTETS, "ballast laid in"),
                Err(error) => tracing::warn!(file = %files.ballast().display(), %error, "no ballast could be laid in"),
            }
        }
    }
}

/// From now on there are octets in the file that have to leave it.
pub(super) fn note_stale(state: &mut State) {
    if state.stale_since_ms == 0 {
        state.stale_since_ms = now_ms();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_limit_keeps_a_doubling_file_below_the_maximum() {
        const MIB: u64 = 1 << 20;
        // Length now, maximum, and the greatest length that doubling reaches below it.
        for (length, max_size, reachable) in [
            (MIB, 64 * MIB, 64 * MIB),
            (3 * MIB, 64 * MIB, 48 * MIB),
            (48 * MIB, 64 * MIB, 48 * MIB),
            (80 * MIB, 64 * MIB, 40 * MIB),
            (0, 8, 8),
            (5, 0, 0),
        ] {
            assert_eq!(live_limit(max_size, length), live_octets(reachable));
        }
        for live in [0, 1000, SMALL, SMALL + 1, 1 << 30, 1 << 40] {
            let back = live_octets(file_octets(live));
            assert!(back <= live + 1 && back + 4 >= live, "{live} {back}");
        }
    }
}
