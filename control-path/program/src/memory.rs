//! Tables in memory that others see as well.

use crate::ProgramError;
use flowlane_tables::{ENDS, Group, PortEntry, RunFlow, RunScopes, Slot, Word};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::{
    fs::OpenOptions,
    num::NonZeroUsize,
    ops::Deref,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    ptr::NonNull,
};

/// What a table consists of: all bit patterns are valid, and shared access goes through [`Word`] only.
///
/// # Safety
/// Both must hold.
pub unsafe trait Entry: Sync {
    /// The table's name in errors.
    const WHAT: &'static str;
}

// SAFETY: slots, port entries and counters consist of words.
unsafe impl Entry for Slot {
    const WHAT: &'static str = "slot";
}
// SAFETY: as above.
unsafe impl Entry for PortEntry {
    const WHAT: &'static str = "port";
}
// SAFETY: as above; a group consists of words too.
unsafe impl Entry for Group {
    const WHAT: &'static str = "group";
}
// SAFETY: as above.
unsafe impl Entry for [Word; ENDS] {
    const WHAT: &'static str = "counter";
}

// SAFETY: as above.
unsafe impl Entry for [Word; 2] {
    const WHAT: &'static str = "destination";
}

// SAFETY: as above; both consist of words too.
unsafe impl Entry for RunFlow {
    const WHAT: &'static str = "run";
}
// SAFETY: as above.
unsafe impl Entry for RunScopes {
    const WHAT: &'static str = "scope";
}

/// A table mapped into this process: a slice that others may change at any time, a word at a time.
#[derive(Debug)]
pub struct Mapped<T: Entry> {
    start: NonNull<T>,
    entries: usize,
}

// SAFETY: `T` is `Sync`, and the mapping belongs to no thread.
unsafe impl<T: Entry> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Entry> Sync for Mapped<T> {}

impl<T: Entry> Mapped<T> {
    /// Maps the first `entries` of the memory behind `fd`: a BPF array map, or a file that is long enough.
    pub fn shared(fd: impl AsFd, entries: usize) -> Result<Self, ProgramError> {
        let bytes = Self::bytes(entries);
        // SAFETY: a new mapping at an address that the kernel chooses. Its length is never zero.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) };
        Self::checked(start, entries)
    }

    /// Maps fresh memory of this process's own, in huge pages where the kernel has them to give: each entry of a large
    /// table is far from the one before, and would have to be found through the page tables.
    pub fn private(entries: usize) -> Result<Self, ProgramError> {
        let bytes = Self::bytes(entries);
        // SAFETY: as in `shared`.
        let start =
            unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) };
        let mapped = Self::checked(start, entries)?;
        // SAFETY: the mapping just made. The advice changes no octet, and the kernel may not take it.
        let _ = unsafe { madvise(mapped.start.cast(), bytes.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(mapped)
    }

    /// Fetches an entry into the cache.
    #[inline(always)]
    pub fn prefetch(entry: &T) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; the processor has had it since before it was of 64 bits.
            unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *entry).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = entry;
    }

    /// Maps a file, which is created with zeroes where it does not exist, and so outlives this process.
    pub fn file(path: &Path, entries: usize) -> Result<Self, ProgramError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(ProgramError::file(path))?;
        file.set_len(Self::bytes(entries).get() as u64).map_err(ProgramError::file(path))?;
        Self::shared(&file, entries)
    }

    fn bytes(entries: usize) -> NonZeroUsize {
        NonZeroUsize::new(entries * size_of::<T>()).unwrap_or(NonZeroUsize::MIN)
    }

    fn checked(start: nix::Result<NonNull<std::ffi::c_void>>, entries: usize) -> Result<Self, ProgramError> {
        let failed = |errno: nix::Error| ProgramError::Map {
            what: T::WHAT,
            bytes: Self::bytes(entries).get(),
            source: errno.into(),
        };
        Ok(Self { start: start.map_err(failed)?.cast(), entries })
    }
}

impl<T: Entry> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has room for the entries, starts at a page and so is aligned, lives as long as `self`, and
        // every bit pattern is valid; `Entry` says that sharing is sound.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.entries) }
    }
}

impl<T: Entry> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), Self::bytes(self.entries).get()) };
    }
}
