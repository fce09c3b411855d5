//! The virtual-circuit flag (claims 23 to 28): what waits for a flow, and whose packet a flagged one is.

use core::net::IpAddr;
use flowlane_wire::PortId;

/// How many flagged frames of one port may wait for a flow of their own.
pub const ASKING_LIMIT: u64 = 256;

/// What the table of tuples holds for packets that get no flow and are left to the Linux stack or bridge.
pub const PASS: u64 = 0;

/// Whose packet a flagged one is: ingress port, addresses, protocol and ports. The key of the table of tuples, 40 octets
/// without padding.
///
/// Ports are 0 where there are none to be read: in all fragments, the first included, so that those of a datagram stay
/// together, and for protocols without ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Tuple {
    /// IP source; an IPv4 address stands in the first four octets.
    pub source: [u8; 16],
    /// IP destination, likewise.
    pub destination: [u8; 16],
    /// Source port, network byte order.
    pub source_port: [u8; 2],
    /// Destination port, network byte order.
    pub destination_port: [u8; 2],
    /// The protocol behind all IPv6 extension headers that were understood.
    pub protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// The number of the port that the packet came in by, network byte order.
    pub ingress: [u8; 2],
}

const _: () = assert!(size_of::<Tuple>() == 40);

impl Tuple {
    /// The port that the packet came in by.
    pub const fn port(&self) -> PortId {
        PortId(u16::from_be_bytes(self.ingress))
    }

    /// The IP destination.
    pub fn destination(&self) -> IpAddr {
        self.address(&self.destination)
    }

    /// The IP source.
    pub fn source(&self) -> IpAddr {
        self.address(&self.source)
    }

    fn address(&self, octets: &[u8; 16]) -> IpAddr {
        match *octets {
            [a, b, c, d, ..] if self.version == 4 => IpAddr::from([a, b, c, d]),
            _ => IpAddr::from(*octets),
        }
    }

    /// The tuple in 40 octets, as it stands in the table.
    pub fn to_octets(&self) -> [u8; 40] {
        let mut octets = [0; 40];
        octets[..16].copy_from_slice(&self.source);
        octets[16..32].copy_from_slice(&self.destination);
        octets[32..34].copy_from_slice(&self.source_port);
        octets[34..36].copy_from_slice(&self.destination_port);
        octets[36] = self.protocol;
        octets[37] = self.version;
        octets[38..].copy_from_slice(&self.ingress);
        octets
    }

    /// The tuple that [`Tuple::to_octets`] made the octets of.
    pub fn from_octets(octets: &[u8; 40]) -> Self {
        fn take<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
            octets.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
        }
        Self {
            source: take(octets, 0),
            destination: take(octets, 16),
            source_port: take(octets, 32),
            destination_port: take(octets, 34),
            protocol: octets[36],
            version: octets[37],
            ingress: take(octets, 38),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tuple_survives_its_octets(octets in proptest::array::uniform32(0u8..), tail in proptest::array::uniform8(0u8..)) {
            let mut all = [0; 40];
            all[..32].copy_from_slice(&octets);
            all[32..].copy_from_slice(&tail);
            prop_assert_eq!(Tuple::from_octets(&all).to_octets(), all);
        }
    }
}
