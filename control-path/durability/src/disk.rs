//! A disk that can lose power and be full.

use fastrand::Rng;
use flowlane_store::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// A disk in memory with a volatile write cache: what was not synced may be lost, in any part and order. A copy is the same
/// disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the running system reads.
    seen: Vec<u8>,
    /// What has certainly reached the medium.
    durable: Vec<u8>,
    /// What was done since the last sync.
    cached: Vec<Operation>,
    /// Whether it says that it has synced, and has not.
    lies: bool,
    /// How many more writes succeed before all fail.
    good_for: Option<u32>,
}

#[derive(Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Resize(usize),
}

/// Disks write whole sectors, as a rule.
const SECTOR: usize = 512;

impl Disk {
    /// A disk that holds these octets.
    pub fn with(image: Vec<u8>) -> Self {
        let state = State { seen: image.clone(), durable: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What the disk holds, its cache included.
    pub fn image(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    /// Lets `count` more writes (or syncs) succeed; the disk is full, or without power, from then on.
    pub fn fail_after(&self, count: u32) {
        self.state().good_for = Some(count);
    }

    /// Whether the writes of [`Disk::fail_after`] are used up.
    pub fn has_failed(&self) -> bool {
        self.state().good_for == Some(0)
    }

    /// Makes it say from now on that it has synced when it has not: to see that this is found out.
    pub fn ignore_syncs(&self) {
        self.state().lies = true;
    }

    /// Makes all writes succeed again.
    pub fn heal(&self) {
        self.state().good_for = None;
    }

    /// What may be left after a power cut: all that was synced, and of the rest a random part. Of what was written since
    /// the last sync each sector may be there or not, whatever was written after it, and one may be there in part.
    pub fn after_power_cut(&self, random: &mut Rng) -> Self {
        let state = self.state();
        let mut image = state.durable.clone();
        let kept = random.f64();
        for operation in &state.cached {
            match operation {
                Operation::Resize(len) if random.f64() < kept => image.resize(*len, 0),
                Operation::Resize(_) => (),
                Operation::Write(offset, data) => {
                    for (sector, data) in (*offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
                        match random.u32(..64) {
                            0 => put(&mut image, sector, data.get(..random.usize(..=data.len())).unwrap_or(data)),
                            _ if random.f64() < kept => put(&mut image, sector, data),
                            _ => (),
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
        let len = len as usize;
        let mut state = self.change()?;
        state.seen.resize(len, 0);
        state.cached.push(Operation::Resize(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change()?;
        if state.lies {
            return Ok(());
        }
        let State { durable, cached, .. } = &mut *state;
        for operation in cached.drain(..) {
            match operation {
                Operation::Resize(len) => durable.resize(len, 0),
                Operation::Write(offset, data) => put(durable, offset, &data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.change()?;
        put(&mut state.seen, offset as usize, data);
        state.cached.push(Operation::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_every_power_cut() {
        let mut random = Rng::with_seed(1);
        let disk = Disk::default();
        disk.write(0, &[1; 2_000]).expect("written");
        disk.sync_data().expect("synced");
        disk.write(1_024, &[2; 1_024]).expect("written");
        let left: Vec<_> = (0..200).map(|_| disk.after_power_cut(&mut random).image()).collect();
        assert!(left.iter().all(|image| image[..1_024] == [1; 1_024]));
        assert!(left.iter().any(|image| image[1_024..] == [1; 976]), "all of the cache may be lost");
        assert!(left.iter().any(|image| image[1_024..] == [2; 1_024]), "or nothing of it");
        assert!(left.iter().any(|image| image[1_030] == 1 && image[1_536] == 2), "or the sector written first");
        assert!(left.iter().any(|image| image[1_024] == 2 && image[1_535] == 1), "or a part of a sector");
    }

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_healed() {
        let disk = Disk::with(vec![0; 100]);
        disk.fail_after(1);
        disk.write(0, &[1; 100]).expect("one more");
        assert!(disk.has_failed());
        assert_eq!(disk.write(0, &[2; 100]).expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.set_len(151).expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.image(), [1; 100]);
        disk.heal();
        disk.set_len(151).expect("there is room again");
    }
}
