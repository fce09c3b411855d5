//! A disk that can fail and lose power.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// A disk in memory with a volatile write cache: what was not synced may be lost, in any part and order.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the running system reads.
    seen: Vec<u8>,
    /// What has certainly reached the medium.
    durable: Vec<u8>,
    /// What was done since the last sync.
    cached: Vec<Operation>,
    /// How many more writes succeed before all fail.
    good_for: Option<u32>,
}

#[derive(Clone, Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Resize(usize),
}

/// Disks write whole sectors.
const SECTOR: usize = 512;

impl Disk {
    pub(super) fn with(image: Vec<u8>) -> Self {
        let state = State { seen: image.clone(), durable: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What the disk holds, its cache included.
    pub(super) fn image(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    /// Lets `count` more writes (or syncs) succeed; the disk is full, or gone, from then on.
    pub(super) fn fail_after(&self, count: u32) {
        self.state().good_for = Some(count);
    }

    /// Makes all writes succeed again.
    pub(super) fn heal(&self) {
        self.state().good_for = None;
    }

    /// What may be left after a power loss: all that was synced, and of the rest the sectors that `survives` picks.
    pub(super) fn after_power_loss(&self, mut survives: impl FnMut() -> bool) -> Self {
        let state = self.state();
        let mut image = state.durable.clone();
        for operation in &state.cached {
            match operation {
                Operation::Resize(len) if survives() => image.resize(*len, 0),
                Operation::Resize(_) => (),
                Operation::Write(offset, data) => {
                    for (sector, data) in (*offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
                        if survives() {
                            put(&mut image, sector, data);
                        }
                    }
                }
            }
        }
        Self::with(image)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic holds the lock")
    }

    /// The state for a change, while the disk is good.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.good_for {
            Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            Some(count) => *count -= 1,
            None => (),
        }
        Ok(state)
    }
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, offset) = (self.state(), offset as usize);
        let data = state.seen.get(offset..offset.saturating_add(out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.change()?;
        state.seen.resize(len as usize, 0);
        state.cached.push(Operation::Resize(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change()?;
        state.durable = state.seen.clone();
        state.cached.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.change()?;
        put(&mut state.seen, offset as usize, data);
        state.cached.push(Operation::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}
