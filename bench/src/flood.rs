//! A flood: what a hostile host sends, as fast as one processor makes it.

use crate::{
    Error,
    ends::Ends,
    frame::{INGRESS, SOURCE, Traffic},
};
use flowlane_lab::Link;
use flowlane_wire::{Flag, Mac};

/// The first of the addresses that are drawn from.
const FIRST: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 0]);
/// Numbers that frames are drawn from: three octets of an address.
const NUMBERS: u32 = 1 << 24;
const FRAME_BYTES: u32 = 64;

/// Frames of 64 octets, made by a program in the kernel and sent by an interface. Each has a random number.
pub struct Flood {
    generator: Ends,
    seed: u32,
}

impl Flood {
    /// Frames to random addresses of `a2:f1:00:00:00:00/24`.
    ///
    /// # Errors
    /// [`Error`] where the kernel refuses the generator, as without root.
    pub fn of_addresses(source: &Link) -> Result<Self, Error> {
        Self::of(source, &Traffic { first: FIRST, flows: NUMBERS, ..Traffic::unchanged(1) })
    }

    /// Flagged UDP packets to random IPv4 destinations in 10.0.0.0/8, with no flow address.
    ///
    /// # Errors
    /// As [`Flood::of_addresses`].
    pub fn of_tuples(source: &Link) -> Result<Self, Error> {
        let (destination, traffic_class) = (Some(INGRESS), Flag::DEFAULT.add_to(0) << 2);
        let plain = Traffic::unchanged(1);
        Self::of(source, &Traffic { flows: NUMBERS, destination, source: Some(SOURCE), traffic_class, ..plain })
    }

    /// Sends so many frames, and says how many went.
    ///
    /// # Errors
    /// [`Error`] where the kernel does not run the generator.
    pub fn send(&mut self, frames: u32) -> Result<u64, Error> {
        self.seed = self.seed.wrapping_add(0x9e37_79b9) | 1;
        self.generator.flood(frames, FRAME_BYTES, self.seed)
    }

    fn of(source: &Link, traffic: &Traffic) -> Result<Self, Error> {
        Ok(Self { generator: Ends::into_cable(traffic, source)?, seed: 1 })
    }
}
