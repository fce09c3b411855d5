//! DHCP unique identifiers, RFC 9915 section 11.

use core::fmt;
use flowlane_allot::ClientId;
use uuid::Uuid;

/// Who a client or a server is, for ever: opaque octets that are only ever compared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duid(Vec<u8>);

/// The octets are too few or too many for a DUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a DUID of {0} octets: use a type of 2 octets and an identifier of 1 to 128 (RFC 9915 section 11.1)")]
pub struct DuidError(pub usize);

/// DUID-UUID, RFC 6355: the only type that asks neither for an Ethernet address of one's own nor for a clock.
const TYPE_UUID: u16 = 4;

impl Duid {
    /// A DUID as it stands on the wire: its type, 2 octets, and its identifier.
    ///
    /// # Errors
    /// [`DuidError`] if it has fewer than 3 or more than 130 octets.
    pub fn new(octets: impl Into<Vec<u8>>) -> Result<Self, DuidError> {
        let octets = octets.into();
        if (3..=130).contains(&octets.len()) { Ok(Self(octets)) } else { Err(DuidError(octets.len())) }
    }

    /// The DUID-UUID (type 4) of a UUID.
    pub fn from_uuid(uuid: [u8; 16]) -> Self {
        Self([&TYPE_UUID.to_be_bytes(), uuid.as_slice()].concat())
    }

    /// The DUID-UUID of an interface of a machine: the same after a restart, another one on another interface.
    ///
    /// The UUID is of version 5 (RFC 9562), so that the machine's identifier, which is meant to stay on the machine
    /// (machine-id(5)), does not show on the network.
    pub fn from_machine(machine_id: [u8; 16], interface: &[u8]) -> Self {
        Self::from_uuid(Uuid::new_v5(&Uuid::from_bytes(machine_id), interface).into_bytes())
    }

    /// The octets as they stand on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Duid> for ClientId {
    fn from(duid: &Duid) -> Self {
        Self(duid.0.clone())
    }
}

impl fmt::Display for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duid_of_2_or_131_octets_is_refused() {
        assert_eq!(Duid::new([0, 4]), Err(DuidError(2)));
        assert_eq!(Duid::new([0; 131]), Err(DuidError(131)));
        assert!(Duid::new([0; 3]).is_ok() && Duid::new([0; 130]).is_ok());
    }

    #[test]
    fn a_machine_has_the_same_duid_each_time_and_another_on_each_interface() {
        let machine = *b"0123456789abcdef";
        let duid = Duid::from_machine(machine, b"eth0");
        assert_eq!(duid, Duid::from_machine(machine, b"eth0"));
        assert_ne!(duid, Duid::from_machine(machine, b"eth1"));
        assert_ne!(duid, Duid::from_machine(*b"0123456789abcdeg", b"eth0"));
        assert_eq!(duid.as_bytes().len(), 18);
        assert_eq!(duid.as_bytes()[..2], [0, 4]);
        // Version 5, variant of RFC 9562 section 4.1.
        assert_eq!((duid.as_bytes()[8] >> 4, duid.as_bytes()[10] >> 6), (5, 2));
    }
}
