//! The faults.

mod adoption;
mod damage;
mod disk;
mod ended;
mod interface;

use crate::{Error, Options, Row};

/// Something that may go wrong.
pub struct Fault {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is done, in a sentence.
    pub about: &'static str,
    /// On which executors it is tried.
    pub executors: &'static [&'static str],
    /// Whether it is only for [`crate::Extent::Long`], or where it is asked for by name.
    pub is_long: bool,
    /// Does it. The row says what was lost; an error, why that can not be said.
    inject: fn(&Options, Row) -> Result<Row, Error>,
}

/// All faults, in the order in which they are tried.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "kill-9",
        about: "the switch is killed at any instruction, also while it starts",
        executors: IN_KERNEL,
        is_long: false,
        inject: ended::killed,
    },
    Fault {
        name: "restart",
        about: "the switch is stopped by SIGTERM and started again",
        executors: IN_KERNEL,
        is_long: false,
        inject: ended::restarted,
    },
    Fault {
        name: "replace",
        about: "a switch takes over whose programs in the kernel are others, or that is another build (--other)",
        executors: IN_KERNEL,
        is_long: false,
        inject: ended::replaced,
    },
    Fault {
        name: "layout-up",
        about: "a switch takes over whose tables have a newer layout",
        executors: IN_KERNEL,
        is_long: false,
        inject: ended::upgraded,
    },
    Fault {
        name: "layout-down",
        about: "a switch takes over whose tables have an older layout",
        executors: IN_KERNEL,
        is_long: false,
        inject: ended::downgraded,
    },
    Fault {
        name: "process-killed",
        about: "the switch is killed, and it was the process that forwarded: frames are lost until its successor does",
        executors: &["af-packet"],
        is_long: false,
        inject: ended::killed_in_userspace,
    },
    Fault {
        name: "interface-removed",
        about: "the interface of a port is deleted and made again, while flows between other ports go on",
        executors: IN_KERNEL,
        is_long: false,
        inject: interface::removed,
    },
    Fault {
        name: "table-damaged",
        about: "somebody writes into the pinned tables; `table verify` finds it, and repairs it",
        executors: IN_KERNEL,
        is_long: false,
        inject: damage::repaired,
    },
    Fault {
        name: "power-cuts",
        about: "the power is cut in the middle of writes, which are lost or torn",
        executors: NO_FRAMES,
        is_long: false,
        inject: disk::power_cut,
    },
    Fault {
        name: "full-disk",
        about: "the disk is full for up to an hour",
        executors: NO_FRAMES,
        is_long: false,
        inject: disk::filled,
    },
    Fault {
        name: "flipped-bytes",
        about: "a bit of the store's file is flipped, at one octet after the other",
        executors: NO_FRAMES,
        is_long: false,
        inject: disk::flipped,
    },
    Fault {
        name: "clock-jump",
        about: "the wall clock is set, by up to ten years",
        executors: NO_FRAMES,
        is_long: false,
        inject: disk::clock_set,
    },
    Fault {
        name: "adoption",
        about: "a switch with a million flows is killed; its successor has adopted them within 5 s",
        executors: &["tc"],
        is_long: true,
        inject: adoption::adopted,
    },
];

/// Executors that go on without the process.
const IN_KERNEL: &[&str] = &["tc", "xdp"];
/// For what concerns leases alone.
const NO_FRAMES: &[&str] = &["-"];

impl Fault {
    /// The fault of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FAULTS.iter().find(|fault| fault.name == name)
    }

    /// Does it on one of its executors.
    pub fn inject(&self, options: &Options, executor: &'static str) -> Row {
        let row = Row::new(self.name, executor);
        (self.inject)(options, row).unwrap_or_else(|error| Row::failed(self.name, executor, &error))
    }
}
