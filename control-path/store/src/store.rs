//! The lease store: a redb file.

use crate::error::At;
use crate::row::{self, RowError};
use crate::{Moment, StoreError};
use flowlane_allot::{Change, Lease, LeaseState};
use flowlane_wire::{Block, Mac, SlotIndex};
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The leases by their first slot.
const LEASES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("leases");
/// One row, under [`META_KEY`]: what holds for the whole store.
const META: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("meta");
const META_KEY: u32 = 0;
/// Enough for the inner pages of a million leases.
const CACHE: usize = 64 << 20;

/// The leases of one block in a file, open for writing. Only one process has it open at a time.
pub struct Store {
    path: PathBuf,
    reopen: Opener,
    /// None after a failure, until the next commit: redb refuses all work after a failed write.
    db: Option<Database>,
    block: Block,
    /// What to write first, because a failed commit may have reached the disk all the same: what was acknowledged
    /// last for each slot that it named.
    revert: BTreeMap<SlotIndex, Option<Lease>>,
}

/// How to open the store's file: given by the path, but for tests of failing disks.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// What was in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// All leases, active or in quarantine, by slot; their times are on the boot-time clock of the present boot. Each ends
    /// when the last promise to its client can end: as [`Lease::reserved`] says.
    pub leases: Vec<Lease>,
    /// The sequence number where the allotter goes on; none in a new store.
    pub next: Option<u64>,
    /// Whether the store is new.
    pub created: bool,
    /// When it was last written: in another boot, or by another wall clock, perhaps.
    pub written: Moment,
}

/// What holds for the whole store.
#[derive(Serialize, Deserialize)]
struct Meta {
    /// The block: first address, length of the prefix in bits, slots.
    block: (Mac, u32, u32),
    next: Option<u64>,
    /// How many leases there are.
    rows: u64,
    /// When the store was last written; the leases' times are on the clock of this boot.
    written: Moment,
}

impl Store {
    /// Opens the store at `path` for the leases of `block`, and reads all of it; makes a new one (mode 0600, its
    /// folder 0700) where there is none.
    ///
    /// After a reboot the leases' times are translated to the present boot's clock, and written so: what was left of them
    /// when the store was last written begins with the boot. So they last longer by the time in between, and none ends
    /// early, whatever the wall clock says.
    ///
    /// # Errors
    /// A [`StoreError`]; the file is then as it was.
    pub fn open(path: &Path, block: Block, now: &Moment) -> Result<(Self, Restored), StoreError> {
        let there = path.try_exists().map_err(|error| StoreError::io(path, error))?;
        let created = !there && create(path, block, now)?;
        let file = path.to_owned();
        let opener = move || {
            let file = OpenOptions::new().read(true).write(true).open(&file)?;
            if file.metadata()?.len() == 0 {
                // redb would take it for a new store. A store is never empty: `create` sees to it.
                return Err(DatabaseError::Storage(redb::StorageError::Corrupted("the file is empty".into())));
            }
            builder().create_with_backend(FileBackend::new(file)?)
        };
        let (store, restored) = Self::start(path, Box::new(opener), block, now)?;
        Ok((store, Restored { created, ..restored }))
    }

    /// As [`Store::open`], on storage of the caller's own instead of a file: for disks that fail when a test wants it.
    /// Storage without an octet becomes a new store. `name` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn on_storage<S: StorageBackend>(
        name: &Path,
        storage: impl Fn() -> S + Send + Sync + 'static,
        block: Block,
        now: &Moment,
    ) -> Result<(Self, Restored), StoreError> {
        let created = storage().len().map_err(|error| StoreError::io(name, error))? == 0;
        if created {
            let db = builder().create_with_backend(storage()).at(name)?;
            write(name, &db, std::iter::empty(), block, None, now)?;
            db.close().at(name)?;
        }
        let opener = move || builder().create_with_backend(storage());
        let (store, restored) = Self::start(name, Box::new(opener), block, now)?;
        Ok((store, Restored { created, ..restored }))
    }

    /// Makes a batch of changes durable, with the allotter's `next`: returns after all of it reached the disk. Put the
    /// changes of many requests into one call: it costs one fsync, however many there are.
    ///
    /// # Errors
    /// A [`StoreError`]; the store then holds what it held before, and the caller takes back the changes
    /// ([`flowlane_allot::Allotter::undo`]). The store stays usable: the next call tries again from scratch.
    pub fn commit(&mut self, changes: &[Change], next: u64, now: &Moment) -> Result<(), StoreError> {
        let result = self.database().and_then(|db| {
            let rows = self.revert.iter().map(|(slot, lease)| (*slot, lease.as_ref()));
            let rows = rows.chain(changes.iter().map(|change| (change.slot, change.after.as_ref())));
            // What fails is dropped in there, too: closing a database writes.
            contain(&self.path, || write(&self.path, &db, rows, self.block, Some(next), now).map(|()| db))
        });
        match result {
            Ok(db) => {
                self.db = Some(db);
                self.revert.clear();
                Ok(())
            }
            Err(error) => {
                for change in changes {
                    self.revert.entry(change.slot).or_insert_with(|| change.before.clone());
                }
                Err(error)
            }
        }
    }

    /// Reads all leases again, active or in quarantine, by slot.
    ///
    /// # Errors
    /// A [`StoreError`]; the store stays usable.
    pub fn leases(&mut self) -> Result<Vec<Lease>, StoreError> {
        let db = self.database()?;
        let (path, block) = (&self.path, self.block);
        // What has failed to be read is dropped, not used again.
        let (leases, db) = contain(path, || Ok((read(path, &db, block)?.1, db)))?;
        self.db = Some(db);
        Ok(leases)
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn start(path: &Path, reopen: Opener, block: Block, now: &Moment) -> Result<(Self, Restored), StoreError> {
        let (db, leases, meta) = contain(path, || {
            let db = reopen().at(path)?;
            let (meta, mut leases) = read(path, &db, block)?;
            if !meta.written.is_boot_of(now) {
                leases.iter_mut().for_each(|lease| translate(lease, &meta.written, now));
                let rows = leases.iter().map(|lease| (block.slot_of(lease.first), Some(lease)));
                write(path, &db, rows, block, meta.next, now)?;
            }
            Ok((db, leases, meta))
        })?;
        let store = Self { path: path.into(), reopen, db: Some(db), block, revert: BTreeMap::new() };
        Ok((store, Restored { leases, next: meta.next, created: false, written: meta.written }))
    }

    /// The open database, taken out of the store: it goes back in only after a commit that succeeded.
    fn database(&mut self) -> Result<Database, StoreError> {
        match self.db.take() {
            Some(db) => Ok(db),
            None => contain(&self.path, || (self.reopen)().at(&self.path)),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).field("block", &self.block).finish_non_exhaustive()
    }
}

/// Makes a new, empty store. It gets its name when it is complete, so that a crash leaves a whole store or none.
/// Returns whether it is the one that has the name now.
fn create(path: &Path, block: Block, now: &Moment) -> Result<bool, StoreError> {
    let failed = |error| StoreError::io(path, error);
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // A temporary file has mode 0600.
    let file = tempfile::Builder::new().prefix(".leases-").tempfile_in(folder).map_err(failed)?;
    let backend = FileBackend::new(file.reopen().map_err(failed)?).at(path)?;
    let db = builder().create_with_backend(backend).at(path)?;
    write(path, &db, std::iter::empty(), block, None, now)?;
    db.close().at(path)?;
    match file.persist_noclobber(path) {
        // Another process was faster: its store is as good.
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error.error)),
        // The name is durable with the folder.
        Ok(_) => File::open(folder).and_then(|folder| folder.sync_all()).map(|()| true).map_err(failed),
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// Runs what reads the file. redb checks what it reads, yet asserts where it believes that only itself can have
/// written: a damaged file must not take the switch down. What has panicked is dropped, not used again.
fn contain<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::corrupt(path, text.unwrap_or("its structure contradicts itself")))
    })
}

/// Reads all of a store, and checks that it is whole and for this block.
fn read(path: &Path, db: &Database, block: Block) -> Result<(Meta, Vec<Lease>), StoreError> {
    let transaction = db.begin_read().at(path)?;
    let meta = transaction.open_table(META).at(path)?;
    let meta = meta.get(META_KEY).at(path)?;
    let meta = meta.ok_or_else(|| StoreError::corrupt(path, "it does not say what it is"))?;
    let meta: Meta = row::decode(META_KEY, meta.value()).map_err(|error| row_error(path, META_KEY, &error))?;
    if meta.block != identity(block) {
        let (prefix, len, slots) = meta.block;
        let stored = format!("{prefix}/{len} of {slots} slots");
        return Err(StoreError::OtherBlock { path: path.into(), stored, configured: name(block) });
    }
    let table = transaction.open_table(LEASES).at(path)?;
    let mut leases = Vec::new();
    for entry in table.iter().at(path)? {
        let (slot, value) = entry.at(path)?;
        let slot = slot.value();
        let lease: Lease = row::decode(slot, value.value()).map_err(|error| row_error(path, slot, &error))?;
        if block.slot_of(lease.first) != SlotIndex(slot) {
            return Err(StoreError::corrupt(path, format!("the lease of slot {slot} is another slot's")));
        }
        leases.push(Lease { expires: lease.reserved, ..lease });
    }
    if leases.len() as u64 != meta.rows {
        return Err(StoreError::corrupt(path, format!("{} leases of {} are there", leases.len(), meta.rows)));
    }
    Ok((meta, leases))
}

/// Writes rows and the meta row in one durable transaction.
fn write<'a>(
    path: &Path,
    db: &Database,
    rows: impl Iterator<Item = (SlotIndex, Option<&'a Lease>)>,
    block: Block,
    next: Option<u64>,
    now: &Moment,
) -> Result<(), StoreError> {
    let transaction = db.begin_write().at(path)?;
    {
        let mut table = transaction.open_table(LEASES).at(path)?;
        for (slot, lease) in rows {
            match lease {
                Some(lease) => table.insert(slot.0, encode(path, slot.0, lease)?.as_slice()),
                None => table.remove(slot.0),
            }
            .at(path)?;
        }
        let rows = table.len().at(path)?;
        let meta = Meta { block: identity(block), next, rows, written: now.clone() };
        let mut table = transaction.open_table(META).at(path)?;
        let row = encode(path, META_KEY, &meta)?;
        table.insert(META_KEY, row.as_slice()).at(path)?;
    }
    transaction.commit().at(path)
}

fn encode(path: &Path, key: u32, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    row::encode(key, value).map_err(|error| StoreError::io(path, std::io::Error::other(error)))
}

fn row_error(path: &Path, key: u32, error: &RowError) -> StoreError {
    match error {
        RowError::Damaged => StoreError::corrupt(path, format!("row {key} has a wrong checksum")),
        RowError::Newer(version) => StoreError::Newer { path: path.into(), version: *version, known: row::VERSION },
        RowError::Older(version) => StoreError::Older { path: path.into(), version: *version, known: row::VERSION },
    }
}

/// Puts a lease's times on the present boot's clock.
fn translate(lease: &mut Lease, written: &Moment, now: &Moment) {
    lease.reserved = written.translate(lease.reserved, now);
    lease.expires = lease.reserved;
    if let LeaseState::Quarantined { until } | LeaseState::Closed { until } = &mut lease.state {
        *until = written.translate(*until, now);
    }
}

fn identity(block: Block) -> (Mac, u32, u32) {
    (block.prefix(), block.prefix_len(), block.slots())
}

fn name(block: Block) -> String {
    format!("{block} of {} slots", block.slots())
}

#[cfg(test)]
mod tests;
