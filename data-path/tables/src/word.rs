//! One 64-bit word that several processors, the kernel among them, read and write at the same time.
//!
//! Everywhere but in the kernel this is an atomic of the standard library. LLVM knows no relaxed atomic load for BPF and
//! the target has no read-modify-write methods; there, an aligned load of 64 bits is one instruction and never torn, and
//! the two instructions that are missing are had from the compiler.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

/// A shared word.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(#[cfg(not(target_arch = "bpf"))] AtomicU64, #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<u64>);

#[cfg(not(target_arch = "bpf"))]
impl Word {
    /// A word of that value.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Reads the word.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Reads the word; what was written before it was published is seen.
    #[inline(always)]
    pub fn load_published(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Writes the word.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Writes the word after everything that was written before.
    #[inline(always)]
    pub fn publish(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds to the word; nothing is lost when several add at a time.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Replaces `old` by `new` if the word still is `old`. Whether it was.
    #[inline(always)]
    pub fn swap(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(target_arch = "bpf")]
#[allow(missing_docs, reason = "the same as above")]
mod kernel {
    use super::Word;
    use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

    // SAFETY: a word is read and written by whole, aligned 64-bit instructions only.
    unsafe impl Sync for Word {}

    impl Word {
        pub const fn new(value: u64) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: the pointer comes from a reference.
            unsafe { self.0.get().read_volatile() }
        }

        #[inline(always)]
        pub fn load_published(&self) -> u64 {
            self.load()
        }

        #[inline(always)]
        pub fn store(&self, value: u64) {
            // SAFETY: the pointer comes from a reference.
            unsafe { self.0.get().write_volatile(value) }
        }

        #[inline(always)]
        pub fn publish(&self, value: u64) {
            self.store(value);
        }

        #[inline(always)]
        pub fn add(&self, amount: u64) {
            // SAFETY: the pointer comes from a reference, and is aligned.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.0.get(), amount) };
        }

        #[inline(always)]
        pub fn swap(&self, old: u64, new: u64) -> bool {
            const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
            // SAFETY: the pointer comes from a reference, and is aligned.
            unsafe { atomic_cxchg::<u64, { ORDER }, { ORDER }>(self.0.get(), old, new).1 }
        }
    }
}
