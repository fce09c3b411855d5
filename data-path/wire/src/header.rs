//! Where the fields of a frame stand. Offsets are in octets; numbers on the wire are big-endian.

/// Ethernet II: destination, source, EtherType.
pub mod ethernet {
    /// Destination address, 6 octets.
    pub const DESTINATION: usize = 0;
    /// Source address, 6 octets.
    pub const SOURCE: usize = 6;
    /// EtherType, 2 octets, or the first VLAN tag.
    pub const ETHERTYPE: usize = 12;
    /// The header without tags; a shorter frame is malformed.
    pub const LEN: usize = 14;
    /// IPv4, RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// IPv6, RFC 2464.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag, IEEE 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// One VLAN tag, either kind.
    pub const TAG_LEN: usize = 4;
}

/// IPv4, RFC 791 section 3.1; offsets from the start of the IP header.
pub mod ipv4 {
    /// Time to live, 1 octet.
    pub const TTL: usize = 8;
    /// Payload protocol, 1 octet.
    pub const PROTOCOL: usize = 9;
    /// Header checksum, 2 octets.
    pub const CHECKSUM: usize = 10;
    /// Destination address, 4 octets.
    pub const DESTINATION: usize = 16;
    /// The header without options.
    pub const LEN: usize = 20;
}

/// IPv6, RFC 8200 section 3; offsets from the start of the IP header.
pub mod ipv6 {
    /// First next-header value, 1 octet.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit, 1 octet.
    pub const HOP_LIMIT: usize = 7;
    /// Destination address, 16 octets.
    pub const DESTINATION: usize = 24;
    /// The fixed header.
    pub const LEN: usize = 40;
}

/// Protocol numbers of the payload.
pub mod protocol {
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
}
