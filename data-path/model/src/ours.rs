//! Whose frame it is: the flow address in it, or the one that its flag asks for.

use crate::{Arrival, Mac, Outcome, Switch, flag};
use flowlane_tables::End;

/// A frame of a flow of this switch.
pub(crate) struct Ours {
    /// The flow address that decides where the frame goes.
    pub(crate) flow: Mac,
    /// The flow address that is the frame's source, where another one is its destination.
    pub(crate) source: Option<Mac>,
}

/// The destination decides if it is a flow address of this switch (claims 3 and 10), else the source (claims 2 and 7),
/// else the virtual-circuit flag. A frame that has none of them is none of ours.
pub(crate) fn claim(switch: &Switch, arrival: &Arrival, outcome: &mut Outcome) -> Result<Ours, End> {
    let (destination, source) = addresses(&arrival.octets).ok_or(End::Truncated)?;
    let ours = |address: &Mac| switch.block.contains(*address);
    let source = Some(source).filter(ours);
    if ours(&destination) {
        return Ok(Ours { flow: destination, source });
    }
    let flow = match source {
        Some(source) => source,
        None => flag::flow(switch, arrival, destination, outcome)?,
    };
    Ok(Ours { flow, source: None })
}

/// Destination and source. A frame without a whole Ethernet header has none.
fn addresses(octets: &[u8]) -> Option<(Mac, Mac)> {
    let header = octets.get(..14)?;
    Some((header[..6].try_into().ok()?, header[6..12].try_into().ok()?))
}
