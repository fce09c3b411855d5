//! The one place that writes the tables.
//!
//! The control path decides, the data path reads; this crate joins the two. [`Tables`] is the memory that both see: slots,
//! ports and counters, mapped from the kernel's BPF maps or from a file. [`Kernel`] loads the programs, attaches them to
//! ports, pins them, and adopts what a predecessor has pinned. [`Runs`] does the same for a host that puts packets of its
//! programs into flows.

pub mod bpffs;
mod destinations;
mod error;
mod jiffies;
mod kernel;
mod loader;
mod mark;
mod memory;
mod object;
mod punts;
mod runs;
mod tables;
mod tuples;

pub use destinations::Destinations;
pub use error::ProgramError;
pub use kernel::{Attachment, Kernel, Mode};
pub use loader::{KernelOptions, OBJECT};
pub use mark::Marking;
pub use memory::Mapped;
pub use punts::{Punt, Punts};
pub use runs::{HOST_OBJECT, Held, HeldPackets, Runs};
pub use tables::{Counts, Tables};
pub use tuples::Tuples;
