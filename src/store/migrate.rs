//! A store of before 0.2, one redb file and one journal, taken over: its records become files, slice by slice, and the old file goes
//! last. Cut off, it begins again. Logs that it happens.

use super::disk::Backend;
use super::encoding::{self, Reader, Unreadable};
use super::error::Fault;
use super::file::{Fate, Part, Plan, StoreFile, build};
use super::folder::{Files, Listing, Span};
use super::index::IndexKey;
use super::journal::frame_records;
use super::memory::{Batch, Entry};
use super::open::patiently;
use super::{Step, Tuning};
use crate::record::Record;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::io;
use std::sync::Arc;

const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The last version of one file; to 2 there was no journal.
const VERSION: u32 = 4;
const MAGIC: [u8; 8] = *b"msjrnl01";
const PAGE: usize = 4096;
const HEAD: usize = 8 + 8 + 4 + 4 + 16;
const CACHE_OCTETS: usize = 64 << 20;
const MARGIN: u64 = 1 << 20;

/// Takes over what stands under the store's own name, if anything does.
pub(super) fn migrate(files: &Files, key: &IndexKey, tuning: &Tuning, listing: &Listing) -> Result<(), Fault> {
    let length = match files.disk.stat(&files.path) {
        Ok(stat) => stat.length,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return bring_in_journal(files, key, tuning),
        Err(error) => return Err(error.into()),
    };
    if length == 0 {
        files.set_aside(&files.path, "it is empty")?;
        return bring_in_journal(files, key, tuning);
    }
    if !listing.journals.is_empty() {
        // The present store is complete: what stands under its name was put there.
        return match patiently(files, &files.path, || with_old(files, |database| about(&database).map(drop))) {
            Err(Fault::Damaged(what)) => files.set_aside(&files.path, &what),
            Err(fault) => Err(fault),
            Ok(()) => Err(Fault::Io(format!(
                "{} is a store of an older version, and beside it stands the present one: move one of the two away",
                files.path.display()
            ))),
        };
    }
    match patiently(files, &files.path, || with_old(files, |database| take_over(files, key, tuning, listing, &database))) {
        Err(Fault::Damaged(what)) => {
            files.set_aside(&files.path, &what)?;
            bring_in_journal(files, key, tuning)?;
        }
        other => other?,
    }
    Ok(files.sync()?)
}

/// The old journal is whole, whatever became of its file: what it has is put behind what has been taken over by now. Cut off, it begins again.
fn bring_in_journal(files: &Files, key: &IndexKey, tuning: &Tuning) -> Result<(), Fault> {
    let records = journal(files, 0)?;
    if !records.is_empty() {
        let mut there = Vec::new();
        let spans = files.list()?.spans;
        for span in &spans {
            match patiently(files, &files.of(*span), || StoreFile::open(files, *span)) {
                // It is set aside later.
                Err(Fault::Damaged(_)) => {}
                file => there.push(file?),
            }
        }
        let newest_id = records.iter().map(|record| record.id.0).max().unwrap_or(0);
        let batch = Batch::new(spans.last().map_or(0, |span| span.last));
        let mut slices = Slices { files, key, tuning, newest_id, batch };
        for record in &records {
            let mut is_there = false;
            for file in &there {
                is_there |= file.get(record.id.0)?.is_some();
            }
            if !is_there {
                slices.put(record)?;
            }
        }
        slices.finish()?;
    }
    Ok(files.remove_if_there(&files.beside(".journal"))?)
}

/// What the old file says of itself.
struct About {
    newest_id: u128,
    /// The first epoch of the journal that is not in it.
    epoch: u64,
    /// Octets of its records.
    stored: u64,
}

fn take_over(files: &Files, key: &IndexKey, tuning: &Tuning, listing: &Listing, database: &Database) -> Result<(), Fault> {
    let about = about(database)?;
    // Records and their index; as the new files take them.
    let needed = about.stored.saturating_mul(2).saturating_add(MARGIN);
    let free = files.disk.free_space(files.directory())?;
    if free < needed {
        return Err(Fault::NoSpace { needed, free });
    }
    for span in &listing.spans {
        files.remove_if_there(&files.of(*span))?;
    }
    tracing::warn!(store = %files.path.display(), "taking over a store of an older version; mail waits until this is done");
    let from_journal = journal(files, about.epoch)?;
    let newest_id = from_journal.iter().map(|record| record.id.0).max().unwrap_or(0).max(about.newest_id);
    let txn = database.begin_read()?;
    let table = txn.open_table(RECORDS)?;
    let mut slices = Slices { files, key, tuning, newest_id, batch: Batch::new(0) };
    for item in table.iter()? {
        let (id, octets) = item?;
        match encoding::decode(id.value(), octets.value()) {
            Ok(record) => slices.put(&record)?,
            Err(Unreadable) => tracing::error!(record = %crate::record::RecordId(id.value()), "a damaged record was left behind"),
        }
    }
    for record in &from_journal {
        if table.get(record.id.0)?.is_none() {
            slices.put(record)?;
        }
    }
    slices.finish()?;
    files.remove_if_there(&files.beside(".journal"))?;
    files.disk.remove(&files.path)?;
    Ok(())
}

/// Something is done with the old file. What the disk fails at is no damage.
fn with_old(files: &Files, work: impl FnOnce(Database) -> Result<(), Fault>) -> Result<(), Fault> {
    let backend = Backend::new(files.disk.open(&files.path)?);
    backend.told(|| work(open(files, backend.clone())?))
}

fn open(files: &Files, backend: Backend) -> Result<Database, Fault> {
    let name = files.path.clone();
    let told = std::cell::Cell::new(-1i64);
    Builder::new()
        .set_cache_size(CACHE_OCTETS)
        .set_repair_callback(move |session| {
            #[expect(clippy::cast_possible_truncation, reason = "a float between 0 and 10")]
            let tenths = (session.progress() * 10.0) as i64;
            if tenths > told.replace(tenths) {
                tracing::warn!(store = %name.display(), percent = tenths * 10, "the store was not closed: checking it");
            }
        })
        .create_with_backend(backend)
        .map_err(Fault::from)
}

fn about(database: &Database) -> Result<About, Fault> {
    let txn = database.begin_read()?;
    let meta = txn.open_table(META)?;
    let value = |name| Ok::<_, Fault>(meta.get(name)?.map(|octets| octets.value().to_vec()));
    let version = value("format")?.and_then(|octets| octets.try_into().ok()).map(u32::from_le_bytes);
    match version {
        None => return Err(Fault::Damaged("records without a version".to_owned())),
        Some(version) if version > VERSION => return Err(Fault::Newer(version)),
        Some(_) => {}
    }
    let newest_id = value("state")?.and_then(|state| state.first_chunk().copied()).map_or(0, u128::from_le_bytes);
    let epoch = value("journal")?.and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_le_bytes);
    let table = txn.open_table(RECORDS)?;
    let stats = redb::ReadableTableMetadata::stats(&table)?;
    let last = table.last()?.map_or(0, |(id, _)| id.value());
    Ok(About { newest_id: newest_id.max(last), epoch, stored: stats.stored_bytes() })
}

/// Records on their way into files.
struct Slices<'a> {
    files: &'a Files,
    key: &'a IndexKey,
    tuning: &'a Tuning,
    newest_id: u128,
    batch: Batch,
}

impl Slices<'_> {
    fn put(&mut self, record: &Record) -> Result<(), Fault> {
        let commit = self.batch.through + 1;
        self.batch.take(Entry { id: record.id.0, commit, octets: encoding::encode(record).into() }, record, self.key);
        if self.batch.records.len() >= self.tuning.batch { self.build() } else { Ok(()) }
    }

    fn build(&mut self) -> Result<(), Fault> {
        let batch = Arc::new(std::mem::replace(&mut self.batch, Batch::new(0)));
        // An empty store leaves a number too: so it is known what the greatest id was.
        let span = Span { first: batch.after + 1, last: batch.through.max(batch.after + 1) };
        self.batch = Batch::new(span.last);
        let parts = [Part::Memory(batch)];
        let (files, key) = (self.files, self.key);
        let plan = Plan { files, key, span, newest_id: self.newest_id, parts: &parts, give_way: &|| {}, at_step: &|_| {} };
        build(&plan, &mut |_, _| Ok(Fate::Stays)).map_err(|fault| {
            // Of the new file: the old one is not to blame.
            if let Fault::Damaged(what) = fault { Fault::Io(what) } else { fault }
        })?;
        self.tuning.reach(Step::Rebuilding);
        Ok(())
    }

    fn finish(mut self) -> Result<(), Fault> {
        if self.batch.is_empty() && self.batch.after > 0 { Ok(()) } else { self.build() }
    }
}

/// What a kill left in the old journal, from an epoch on.
fn journal(files: &Files, first_epoch: u64) -> Result<Vec<Record>, Fault> {
    const MOST: u64 = 64 << 20;
    let path = files.beside(".journal");
    let octets = patiently(files, &path, || {
        let file = match files.disk.open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let mut octets = vec![0; usize::try_from(file.len()?.min(MOST)).unwrap_or(0)];
        file.read(0, &mut octets)?;
        Ok(octets)
    })?;
    let (mut rest, mut frames) = (octets.as_slice(), Vec::new());
    while !rest.is_empty() {
        let step = read_frame(rest).map_or(PAGE, |frame| {
            let octets = frame.octets;
            frames.push(frame);
            octets
        });
        rest = rest.get(step..).unwrap_or_default();
    }
    // Behind the frames of its last use stand those of uses before.
    let epoch = frames.iter().map(|frame| frame.epoch).max().unwrap_or(0);
    frames.retain(|frame| frame.epoch == epoch && epoch >= first_epoch);
    if frames.iter().zip(0..).any(|(frame, number)| frame.number != number) {
        tracing::error!(
            journal = %path.display(), "the journal is damaged: some of the last records, which were acknowledged, are missing. \
             Look at the disk (smartctl -a, dmesg)"
        );
    }
    Ok(frames.into_iter().flat_map(|frame| frame.records).collect())
}

/// One of the old journal's.
struct Frame {
    epoch: u64,
    number: u32,
    records: Vec<Record>,
    /// That it takes in the file.
    octets: usize,
}

fn read_frame(octets: &[u8]) -> Result<Frame, Unreadable> {
    let mut head = Reader(octets);
    if head.array()? != MAGIC {
        return Err(Unreadable);
    }
    let (epoch, number) = (u64::from_le_bytes(head.array()?), u32::from_le_bytes(head.array()?));
    let length = usize::try_from(u32::from_le_bytes(head.array()?)).map_err(|_| Unreadable)?;
    let (records, octets) = frame_records(octets, HEAD, length)?;
    let records = records.into_iter().map(|(id, record)| encoding::decode(id, record)).collect::<Result<_, _>>()?;
    Ok(Frame { epoch, number, records, octets })
}
