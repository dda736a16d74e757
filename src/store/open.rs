//! Opening: the files of a store, its secrets, a damaged file set aside, an older one migrated.
//!
//! | file | what |
//! |---|---|
//! | `records.redb` (as configured) | the records |
//! | `….journal` | the last records, before redb has them |
//! | `….lock` | held while the daemon runs |
//! | `….id-secret`, `….index-key` | 32 random octets each, made once |
//! | `….ballast` | zeros, given up on a full disk so that the last records find their place and expired ones can go |
//! | `….new` | a rewrite that is under way; removed at the next start if it was cut off |
//! | `….unreadable-<time>` | a store that would not open; removed by `forget` or after `retention` |
//!
//! Logs a repair, a migration and, as an error, a store that was set aside.

use super::disk::{Backend, Disk, FileStat, Lock, directory_of};
use super::encoding;
use super::error::{Fault, guarded};
use super::journal::{self, Journal, Left};
use super::schema::{
    BY_LAST, FORMAT, INDEX, INDEX_KEY, IndexKey, JOURNAL, SEGMENTS, STATE, STORE_VERSION, State, UNDELIVERED, WITHOUT_JOURNAL,
};
use super::shared::now_ms;
use super::tables::Tables;
use super::tail::Tail;
use super::{Step, Tuning};
use crate::record::Record;
use redb::{Builder, Database, TableDefinition};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What redb may keep in memory of the store, and of the new file of a rewrite.
pub(super) const CACHE_OCTETS: usize = 64 << 20;
/// Records in one transaction of a migration.
const SLICE: usize = 1000;
/// What version 2 kept for each Webhook-Id.
const MESSAGES: TableDefinition<'_, &[u8; 16], &[u8; 5]> = TableDefinition::new("messages");

/// The names of a store's files, and the disk they are on.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
}

impl Files {
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    pub(super) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    pub(super) fn rewritten(&self) -> PathBuf {
        self.beside(".new")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.beside(".journal")
    }

    pub(super) fn ballast(&self) -> PathBuf {
        self.beside(".ballast")
    }

    pub(super) fn stat(&self) -> io::Result<FileStat> {
        self.disk.stat(&self.path)
    }

    pub(super) fn lock(&self) -> Result<Lock, Fault> {
        self.disk.create_directory(self.directory())?;
        self.disk.lock(&self.beside(".lock"))?.ok_or(Fault::Locked)
    }

    pub(super) fn remove_if_there(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What a rewrite or the writing of a small file left behind when it was cut off.
    pub(super) fn remove_leftovers(&self) -> io::Result<()> {
        for suffix in [".new", ".id-secret.part", ".index-key.part"] {
            self.remove_if_there(&self.beside(suffix))?;
        }
        Ok(())
    }

    /// Stores that were set aside.
    pub(super) fn set_aside(&self) -> io::Result<Vec<PathBuf>> {
        let prefix = self.beside(".unreadable-");
        let is_one = |path: &PathBuf| path.as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes());
        // `list` joins the directory to each name, so both sides are written the same way.
        let directory = self.path.parent().unwrap_or(Path::new(""));
        Ok(self
            .disk
            .list(self.directory())?
            .into_iter()
            .filter_map(|path| path.file_name().map(|name| directory.join(name)))
            .filter(is_one)
            .collect())
    }

    /// Whether there was any.
    pub(super) fn give_up_ballast(&self, why: &str) -> io::Result<bool> {
        let ballast = self.ballast();
        match self.disk.remove(&ballast) {
            Ok(()) => {
                tracing::warn!(file = %ballast.display(), "the store's disk is full: its ballast was given up {why}");
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A secret of 32 octets, made at its first use.
    pub(super) fn secret(&self, suffix: &str) -> Result<[u8; 32], Fault> {
        let path = self.beside(suffix);
        match self.disk.read(&path) {
            Ok(octets) => {
                let text =
                    format!("{} does not hold 32 octets; put it back from a backup or remove it, and another one is made", path.display());
                octets.try_into().map_err(|_| Fault::Io(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = random()?;
                self.disk.write(&path, &secret)?;
                Ok(secret)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a secret back that was removed under a running daemon.
    pub(super) fn keep_secret(&self, suffix: &str, secret: &[u8; 32]) -> io::Result<()> {
        let path = self.beside(suffix);
        match self.disk.stat(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.write(&path, secret),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// 32 octets that nobody can guess.
pub(super) fn random() -> Result<[u8; 32], Fault> {
    let mut octets = [0; 32];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| Fault::Io("no random octets from the system".to_owned()))?;
    Ok(octets)
}

/// An open store.
pub(super) struct Opened {
    pub(super) readable: Readable,
    pub(super) journal: Journal,
    /// Set if the disk has no space for what the journal has: that stays there, and what redb has is to be read.
    pub(super) full: Option<Fault>,
}

/// What redb has.
pub(super) struct Readable {
    pub(super) database: Database,
    pub(super) state: State,
    pub(super) tail: Tail,
    pub(super) records: u64,
    pub(super) undelivered: u64,
    pub(super) stat: FileStat,
}

impl Readable {
    fn new(files: &Files, database: Database, prepared: Prepared) -> Result<Self, Fault> {
        let Prepared { state, tail, records, undelivered, .. } = prepared;
        Ok(Self { database, state, tail, records, undelivered, stat: files.stat()? })
    }
}

/// Opens the store's file or makes it, and brings into it what the journal holds, and the records `behind`, which a writer had only
/// there; a file that cannot be read is set aside and a new one begun.
pub(super) fn open(files: &Files, key: IndexKey, tuning: &Tuning, behind: &[&Record]) -> Result<Opened, Fault> {
    match open_file(files, key, tuning, behind) {
        Err(Fault::Damaged(what)) => {
            set_aside(files, &what)?;
            open_file(files, key, tuning, behind)
        }
        // What only the journal has must find its place before anything that has expired can go.
        Err(Fault::Full(_)) if files.give_up_ballast("to bring in the last records")? => open(files, key, tuning, behind),
        Err(full @ Fault::Full(_)) => match open_to_read(files, key, tuning) {
            Ok((readable, journal)) => Ok(Opened { readable, journal, full: Some(full) }),
            Err(_) => Err(full),
        },
        other => other,
    }
}

/// Renames the store's file; loudly, since its records are out of reach from now on.
pub(super) fn set_aside(files: &Files, what: &str) -> Result<(), Fault> {
    let now = jiff::Timestamp::now();
    let aside = files.beside(&format!(".unreadable-{}", now.strftime("%Y%m%dT%H%M%S.%6fZ")));
    files.disk.rename(&files.path, &aside)?;
    files.disk.sync_directory(files.directory())?;
    tracing::error!(
        store = %files.path.display(), set_aside = %aside.display(), reason = what,
        "the record store cannot be read: it was set aside and a new one begun. The file still holds records: copy it away if you \
         want to look into it, since the next `forget` removes it, and the end of `retention` as well"
    );
    Ok(())
}

fn open_file(files: &Files, key: IndexKey, tuning: &Tuning, behind: &[&Record]) -> Result<Opened, Fault> {
    guarded(|| {
        let new = !matches!(files.stat(), Ok(stat) if stat.length > 0);
        let database = database(files, &files.path)?;
        if new {
            // The name itself must survive a power cut.
            files.disk.sync_directory(files.directory())?;
        }
        let prepared = prepare(&database, key, tuning)?;
        let (mut journal, left) = Journal::open(files, tuning)?;
        journal.raise(prepared.journal);
        let prepared = bring_in(&database, key, tuning, prepared, &left, behind)?;
        Ok(Opened { readable: Readable::new(files, database, prepared)?, journal, full: None })
    })
}

fn open_to_read(files: &Files, key: IndexKey, tuning: &Tuning) -> Result<(Readable, Journal), Fault> {
    guarded(|| {
        let database = database(files, &files.path)?;
        let prepared = prepare(&database, key, tuning)?;
        let (journal, _) = Journal::open(files, tuning)?;
        Ok((Readable::new(files, database, prepared)?, journal))
    })
}

/// Brings in what a kill or a fault left in the journal.
fn bring_in(
    database: &Database,
    key: IndexKey,
    tuning: &Tuning,
    mut prepared: Prepared,
    left: &Left,
    behind: &[&Record],
) -> Result<Prepared, Fault> {
    let from_journal = left.since(prepared.journal);
    if from_journal.is_empty() && behind.is_empty() {
        return Ok(prepared);
    }
    let records: BTreeMap<_, _> = behind.iter().copied().chain(from_journal).map(|record| (record.id.0, record)).collect();
    let txn = database.begin_write().map_err(redb::Error::from)?;
    let state = State { newest_id: prepared.state.newest_id.max(left.newest_id), ..prepared.state };
    let mut tables = Tables::open(&txn, key, &prepared.tail, state)?;
    tables.advance(tuning.segment)?;
    let mut missing = Vec::new();
    for (id, record) in records {
        if tables.record(id)?.is_none() {
            missing.push(record);
        }
    }
    tables.insert(missing.iter().copied())?;
    prepared.journal = prepared.journal.max(left.epoch.saturating_add(1));
    tables.set_meta(JOURNAL, &prepared.journal.to_le_bytes())?;
    (prepared.records, prepared.undelivered) = (tables.records()?, tables.undelivered()?);
    let outcomes = tables.finish()?;
    txn.commit().map_err(redb::Error::from)?;
    prepared.state = outcomes.state;
    prepared.tail.apply(&outcomes.tail_changes);
    if !missing.is_empty() {
        tracing::info!(records = missing.len(), "the last records were brought from the journal into the store");
    }
    Ok(prepared)
}

/// A redb database in a file, made if it is missing.
pub(super) fn database(files: &Files, path: &Path) -> Result<Database, Fault> {
    let backend = Backend(files.disk.open(path)?);
    let name = path.to_owned();
    let told = std::cell::Cell::new(-1i64);
    Builder::new()
        .set_cache_size(CACHE_OCTETS)
        .set_repair_callback(move |session| {
            // Whole tenths; the progress is between 0 and 1.
            #[expect(clippy::cast_possible_truncation, reason = "a float between 0 and 10")]
            let tenths = (session.progress() * 10.0) as i64;
            if tenths > told.replace(tenths) {
                tracing::warn!(store = %name.display(), percent = tenths * 10, "the store was not closed: checking it");
            }
            extend_start();
        })
        .create_with_backend(backend)
        .map_err(|error| Fault::from(redb::Error::from(error)))
}

/// Asks systemd for patience with a start that has a whole store to read.
fn extend_start() {
    const MICROSECONDS: u32 = 60_000_000;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(MICROSECONDS)]) {
        tracing::debug!(%error, "systemd could not be asked for more time");
    }
}

/// What is known of a store when its tables are there.
struct Prepared {
    state: State,
    tail: Tail,
    /// The first epoch of the journal that is not in it.
    journal: u64,
    records: u64,
    undelivered: u64,
}

/// Makes the tables, or brings them to the present version.
fn prepare(database: &Database, key: IndexKey, tuning: &Tuning) -> Result<Prepared, Fault> {
    let txn = database.begin_write().map_err(redb::Error::from)?;
    let nothing = Tail::default();
    let mut tables = Tables::open(&txn, key, &nothing, State::default())?;
    let mut format = tables.meta(FORMAT)?;
    let records = tables.records()?;
    let undelivered = tables.undelivered()?;
    let state = tables.meta(STATE)?.and_then(|octets| State::decode(&octets).ok());
    let same_key = tables.meta(INDEX_KEY)?.is_some_and(|check| check == key.check());
    let tail = state.as_ref().map(|state| tables.load_tail(state)).transpose()?.unwrap_or_default();
    let journal = journal::first_epoch(tables.meta(JOURNAL)?.as_deref());
    if format.as_deref() == Some(&WITHOUT_JOURNAL.to_le_bytes()) {
        // From here on a version that knows no journal must not open it: it would not see the last records after a kill.
        tables.set_meta(FORMAT, &STORE_VERSION.to_le_bytes())?;
        format = Some(STORE_VERSION.to_le_bytes().to_vec());
        drop(tables);
        txn.commit().map_err(redb::Error::from)?;
    } else {
        drop(tables);
        txn.abort().map_err(redb::Error::from)?;
    }

    let is_new = format.is_none();
    let version = match format {
        None if records == 0 => STORE_VERSION,
        None => return Err(Fault::Damaged("records without a version".to_owned())),
        Some(octets) => u32::from_le_bytes(octets.try_into().map_err(|_| Fault::Damaged("a version that is no number".to_owned()))?),
    };
    match state {
        _ if version > STORE_VERSION => Err(Fault::Newer(version)),
        Some(state) if version == STORE_VERSION && same_key => Ok(Prepared { state, tail, journal, records, undelivered }),
        Some(_) | None => {
            let reason = match state {
                _ if version < STORE_VERSION => "it is of an older version",
                Some(_) => "its index key is another one",
                None => "it has no summary",
            };
            if records > 0 {
                tracing::warn!(records, version, reason, "bringing the store up to date; mail waits until this is done");
            }
            // What has expired may still stand in the file, and since when nobody knows any more.
            let stale_since_ms = if is_new { 0 } else { now_ms() };
            Ok(Prepared { journal, ..rebuild(database, key, tuning, stale_since_ms)? })
        }
    }
}

/// Re-encodes every record and makes the index and the summary anew, in slices. Cut off at any point, it starts again: the
/// summary is taken away first and written last.
fn rebuild(database: &Database, key: IndexKey, tuning: &Tuning, stale_since_ms: u64) -> Result<Prepared, Fault> {
    let newest_id = forget_index(database, key)?;
    let mut tail = Tail::default();
    let mut state = State { newest_id, stale_since_ms, ..State::default() };
    let mut start = Some(0);
    while let Some(from) = start {
        let txn = database.begin_write().map_err(redb::Error::from)?;
        let mut tables = Tables::open(&txn, key, &tail, state)?;
        tables.advance(tuning.segment)?;
        let page = tables.oldest(from, SLICE)?;
        start = if page.len() < SLICE { None } else { page.last().and_then(|(id, _)| id.checked_add(1)) };
        for (id, record) in page {
            match record {
                Ok(record) => tables.count_again(&record)?,
                Err(encoding::Unreadable) => tracing::error!(record = %crate::record::RecordId(id), "a damaged record was found"),
            }
        }
        let outcomes = tables.step();
        txn.commit().map_err(redb::Error::from)?;
        state = outcomes.state;
        tail.apply(&outcomes.tail_changes);
        if start.is_some() {
            tuning.reach(Step::Rebuilding);
        }
        extend_start();
    }
    let txn = database.begin_write().map_err(redb::Error::from)?;
    let mut tables = Tables::open(&txn, key, &tail, state)?;
    tables.set_meta(FORMAT, &STORE_VERSION.to_le_bytes())?;
    tables.set_meta(INDEX_KEY, &key.check())?;
    let (records, undelivered) = (tables.records()?, tables.undelivered()?);
    tables.finish()?;
    txn.commit().map_err(redb::Error::from)?;
    Ok(Prepared { state, tail, journal: 0, records, undelivered })
}

/// Takes away what is made of the records. The newest id ever given is kept if it can still be read.
fn forget_index(database: &Database, key: IndexKey) -> Result<u128, Fault> {
    let txn = database.begin_write().map_err(redb::Error::from)?;
    let nothing = Tail::default();
    let mut tables = Tables::open(&txn, key, &nothing, State::default())?;
    let newest = tables.meta(STATE)?.and_then(|octets| State::newest_id(&octets).ok()).unwrap_or(0);
    let newest = newest.max(tables.newest()?);
    tables.remove_meta(STATE)?;
    drop(tables);
    txn.delete_table(INDEX).map_err(redb::Error::from)?;
    txn.delete_table(SEGMENTS).map_err(redb::Error::from)?;
    txn.delete_table(MESSAGES).map_err(redb::Error::from)?;
    txn.delete_table(UNDELIVERED).map_err(redb::Error::from)?;
    txn.delete_table(BY_LAST).map_err(redb::Error::from)?;
    txn.commit().map_err(redb::Error::from)?;
    Ok(newest)
}
