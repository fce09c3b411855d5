//! The flow addresses of flagged packets (claim 24), by their addresses and ports.

use crate::ProgramError;
use aya::maps::{HashMap as KernelMap, MapData, MapError};
use flowlane_tables::Tuple;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, RwLock},
};

/// A table from tuples to flow addresses, as numbers; [`flowlane_tables::PASS`] is a tuple that gets no flow.
///
/// Userspace reads its own copy; what is written goes to the kernel's as well, where the kernel runs the pipeline.
#[derive(Default)]
pub struct Tuples {
    known: RwLock<HashMap<Tuple, u64>>,
    kernel: Option<Mutex<KernelTuples>>,
}

type KernelTuples = KernelMap<MapData, [u8; 40], u64>;

impl Tuples {
    /// The kernel's table, with what a predecessor has left in it.
    pub(crate) fn in_kernel(kernel: KernelTuples) -> Result<Self, ProgramError> {
        Ok(Self { known: RwLock::new(read(&kernel)?), kernel: Some(Mutex::new(kernel)) })
    }

    /// What a tuple has.
    #[inline]
    pub fn get(&self, tuple: &Tuple) -> Option<u64> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(tuple).copied()
    }

    /// All entries, in no order.
    pub fn all(&self) -> Vec<(Tuple, u64)> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(tuple, address)| (*tuple, *address))
            .collect()
    }

    /// All entries that the kernel's programs find, where the kernel runs the pipeline; else [`Tuples::all`]. Somebody else may
    /// have changed them.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel's table can not be read.
    pub fn in_data_path(&self) -> Result<Vec<(Tuple, u64)>, ProgramError> {
        match &self.kernel {
            Some(kernel) => Ok(read(&kernel.lock().unwrap_or_else(PoisonError::into_inner))?.into_iter().collect()),
            None => Ok(self.all()),
        }
    }

    /// Takes the kernel's entries for one's own, whoever has written them.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel's table can not be read.
    pub fn read_again(&self) -> Result<(), ProgramError> {
        let entries = self.in_data_path()?.into_iter().collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    /// Gives a tuple a flow address, or [`flowlane_tables::PASS`].
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the table is full: it has as many entries as the switch has slots.
    pub fn set(&self, tuple: Tuple, address: u64) -> Result<(), ProgramError> {
        if let Some(kernel) = &self.kernel {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            kernel.insert(tuple.to_octets(), address, 0).map_err(access)?;
        }
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(tuple, address);
        Ok(())
    }

    /// Takes a tuple's flow address away.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel fails.
    pub fn remove(&self, tuple: &Tuple) -> Result<(), ProgramError> {
        let known = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(tuple);
        let (Some(_), Some(kernel)) = (known, &self.kernel) else { return Ok(()) };
        match kernel.lock().unwrap_or_else(PoisonError::into_inner).remove(&tuple.to_octets()) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(source) => Err(access(source)),
        }
    }
}

fn read(kernel: &KernelTuples) -> Result<HashMap<Tuple, u64>, ProgramError> {
    let entries = kernel.iter().map(|entry| entry.map(|(key, address)| (Tuple::from_octets(&key), address)));
    entries.collect::<Result<_, MapError>>().map_err(access)
}

fn access(source: MapError) -> ProgramError {
    ProgramError::MapAccess { name: "tuples", source }
}
