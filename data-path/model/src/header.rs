//! What changes in an IP header: the time to live, the DSCP, and the checksum of IPv4.

use crate::{Restore, packet::Packet};

/// Why the time to live was not decremented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The header is cut short, or makes no sense.
    Malformed,
    /// The packet may not be forwarded any more.
    Expired,
}

/// Decrements the time to live (RFC 1812 section 5.3.1) or the hop limit (RFC 8200 section 3) of an IP packet. What is not
/// IP has none, and is left as it is.
pub(crate) fn decrement(octets: &mut [u8], packet: Packet) -> Result<(), Spent> {
    let place = match packet {
        Packet::V4(_) => 8,
        Packet::V6(_) => 7,
        Packet::Other => return Ok(()),
        Packet::Cut => return Err(Spent::Malformed),
    };
    let (start, _) = packet.header_place(octets).ok_or(Spent::Malformed)?;
    if octets[start + place] <= 1 {
        return Err(Spent::Expired);
    }
    match packet {
        Packet::V4(start) => edit_v4(octets, start, |header| header[place] -= 1),
        _ => octets[start + place] -= 1,
    }
    Ok(())
}

/// Does to the DSCP what the flow asks for.
pub(crate) fn restore(octets: &mut [u8], packet: Packet, restore: Restore) {
    let Some(before) = dscp(octets, packet) else { return };
    let after = match restore {
        Restore::Keep => before,
        Restore::Clear(mask) => before & !mask,
        Restore::Set(dscp) => dscp,
    };
    set_dscp(octets, packet, after);
}

/// The DSCP (RFC 2474), 0 to 63, of what says by its first four bits that it is the IP that the EtherType promises.
pub(crate) fn dscp(octets: &[u8], packet: Packet) -> Option<u8> {
    match packet {
        Packet::V4(start) => match octets.get(start..start + 2)? {
            [0x40..=0x4f, class] => Some(class / 4),
            _ => None,
        },
        Packet::V6(start) => match octets.get(start..start + 2)? {
            [first @ 0x60..=0x6f, second] => Some((first % 16) * 4 + second / 64),
            _ => None,
        },
        Packet::Other | Packet::Cut => None,
    }
}

/// Changes the DSCP. Whether that could be: of an IPv4 header that is cut short nothing is changed, for its checksum would
/// have to be as well.
pub(crate) fn set_dscp(octets: &mut [u8], packet: Packet, dscp: u8) -> bool {
    match packet {
        Packet::V4(start) => {
            edit_v4(octets, start, |header| header[1] = dscp * 4 + header[1] % 4);
            octets.len() >= start + 20
        }
        Packet::V6(start) => {
            octets[start] = octets[start] / 16 * 16 + dscp / 4;
            octets[start + 1] = dscp % 4 * 64 + octets[start + 1] % 64;
            true
        }
        Packet::Other | Packet::Cut => false,
    }
}

/// Changes an IPv4 header. The checksum is right afterwards if it was right before, and otherwise as wrong as before: a
/// switch does not repair what was broken (RFC 1624). A header that stays the same keeps its checksum as it stands.
///
/// Options count as zero: they do not change, and neither does what they add to the checksum.
fn edit_v4(octets: &mut [u8], start: usize, edit: impl FnOnce(&mut [u8])) {
    let Some(header) = octets.get_mut(start..start + 20) else { return };
    let before = header.to_vec();
    edit(header);
    if header != before {
        let wrong_by = stored(&before) + ONES - checksum(&before);
        let sum = (checksum(header) + wrong_by) % ONES;
        header[10] = (sum / 256) as u8;
        header[11] = (sum % 256) as u8;
    }
}

/// Sixteen ones: in one's complement, where sums are reckoned modulo this number, it is zero as well.
const ONES: u32 = 0xffff;

fn stored(header: &[u8]) -> u32 {
    u32::from(header[10]) * 256 + u32::from(header[11])
}

/// The right checksum of a header (RFC 1071), modulo [`ONES`]: less than that.
fn checksum(header: &[u8]) -> u32 {
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let sum: u32 = words.sum::<u32>() - stored(header);
    (ONES - sum % ONES) % ONES
}
