//! Where each flow goes, as its first packet said: remembered for the time when the routes change.
//!
//! The data path does not need it, so it is not in the slots. It is in a file beside them, so that a successor can go on
//! to follow the routes of the flows that it adopts.

use crate::{Mapped, ProgramError};
use flowlane_tables::Word;
use flowlane_wire::SlotIndex;
use std::{
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

/// An IP destination for each slot.
#[derive(Debug)]
pub struct Destinations(Mapped<[Word; 2]>);

impl Destinations {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`ProgramError::File`] or [`ProgramError::Map`].
    pub fn open(path: &Path, slots: u32) -> Result<Self, ProgramError> {
        Mapped::file(path, slots as usize).map(Self)
    }

    /// The destination of the flow in a slot, if one was noted.
    pub fn get(&self, slot: SlotIndex) -> Option<IpAddr> {
        let [high, low] = self.0.get(slot.0 as usize)?;
        let bits = u128::from(high.load()) << 64 | u128::from(low.load());
        (bits != 0).then(|| Ipv6Addr::from_bits(bits).to_canonical())
    }

    /// Notes the destination of the flow in a slot, or that there is none.
    pub fn set(&self, slot: SlotIndex, destination: Option<IpAddr>) {
        let bits = match destination {
            None => 0,
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().to_bits(),
            Some(IpAddr::V6(v6)) => v6.to_bits(),
        };
        if let Some([high, low]) = self.0.get(slot.0 as usize) {
            high.store((bits >> 64) as u64);
            low.store(bits as u64);
        }
    }
}
