//! Reading a file: the one way to what redb keeps in it. Logs nothing.

use crate::store::disk::Backend;
use crate::store::error::{Fault, guarded};
use arc_swap::ArcSwap;
use redb::{AccessGuard, Builder, Key, Range, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _, StorageBackend, Value};
use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

/// What redb may keep in memory of one file that is read: the system's page cache has the rest.
const CACHE_OCTETS: usize = 0;

/// From where to where is read.
pub(super) type Between<K> = (Bound<K>, Bound<K>);

#[derive(Clone, Copy)]
pub(super) enum Order {
    Rising,
    Falling,
}

/// A file that is open to be read. redb reads nothing more behind an error, whoever met it and however soon it passed; so what fails is
/// tried once more with redb begun anew, of the same open file: its name may be another one's by now. What fails then is so.
pub(super) struct Reading {
    pub(super) file: Arc<dyn StorageBackend>,
    database: ArcSwap<ReadOnlyDatabase>,
}

impl Reading {
    /// Opens a file, and reads.
    pub(super) fn open<T>(
        file: Box<dyn StorageBackend>,
        work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<(Self, T), Fault> {
        let file = Arc::from(file);
        let (database, found) = begin(&file, work)?;
        Ok((Self { file, database: ArcSwap::from_pointee(database) }, found))
    }

    pub(super) fn read<T>(&self, mut work: impl FnMut(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Fault> {
        let database = self.database.load_full();
        guarded(|| read(&database, &mut work)).or_else(|_| {
            // Nobody else meets an error in it meanwhile.
            let (database, found) = begin(&self.file, &mut work)?;
            self.database.store(Arc::new(database));
            Ok(found)
        })
    }

    /// Entries of a table, each when it is asked for. Where reading fails it goes on behind the last one; a key out of its order is the end.
    pub(super) fn entries<K: Key + 'static, V: Value + 'static, Q: Copy + PartialOrd, T, R, E>(
        self: &Arc<Self>,
        order: Order,
        mut rest: Between<Q>,
        range: R,
        entry: E,
    ) -> impl Iterator<Item = Result<(Q, T), Fault>> + use<K, V, Q, T, R, E>
    where
        R: Fn(&ReadTransaction, &Between<Q>) -> Result<Range<'static, K, V>, redb::Error>,
        E: Fn(&AccessGuard<'static, K>, &AccessGuard<'static, V>) -> (Q, T),
    {
        let step = move |entries: &mut Range<'static, K, V>| -> Result<Option<(Q, T)>, redb::Error> {
            let next = match order {
                Order::Rising => entries.next(),
                Order::Falling => entries.next_back(),
            };
            Ok(next.transpose()?.map(|(key, value)| entry(&key, &value)))
        };
        let reading = Arc::clone(self);
        let (mut entries, mut has_failed) = (None, false);
        std::iter::from_fn(move || {
            if has_failed {
                return None;
            }
            let next = match entries.as_mut().map(|entries| guarded(|| Ok(step(entries)?))) {
                Some(Ok(next)) => Ok(next),
                Some(Err(_)) | None => {
                    let begun = reading.read(|txn| {
                        let mut entries = range(txn, &rest)?;
                        let next = step(&mut entries)?;
                        Ok((entries, next))
                    });
                    begun.map(|(begun, next)| {
                        entries = Some(begun);
                        next
                    })
                }
            };
            // In a damaged file keys may stand anywhere: some come twice and some not at all, and whoever went on might never end.
            let next = next.and_then(|next| match next {
                Some((key, _)) if !rest.contains(&key) => Err(Fault::Damaged("a key out of its order".to_owned())),
                in_order => Ok(in_order),
            });
            has_failed = next.is_err();
            if let Ok(Some((key, _))) = &next {
                match order {
                    Order::Rising => rest.0 = Bound::Excluded(*key),
                    Order::Falling => rest.1 = Bound::Excluded(*key),
                }
            }
            next.transpose()
        })
    }
}

fn read<T>(database: &ReadOnlyDatabase, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Fault> {
    let txn = database.begin_read()?;
    Ok(work(&txn)?)
}

/// Has redb open a file, and reads.
fn begin<T>(
    file: &Arc<dyn StorageBackend>,
    work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
) -> Result<(ReadOnlyDatabase, T), Fault> {
    let backend = Backend::new(Arc::clone(file));
    backend.told(|| {
        let database = Builder::new().set_cache_size(CACHE_OCTETS).open_read_only_with_backend(backend.clone())?;
        let found = read(&database, work)?;
        Ok((database, found))
    })
}
