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
    /// DSCP (high 6 bits) and ECN, 1 octet, RFC 2474.
    pub const TRAFFIC_CLASS: usize = 1;
    /// Flags and fragment offset, 2 octets.
    pub const FRAGMENT: usize = 6;
    /// More fragments, and the fragment offset: all of them 0 in a packet that is whole.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// Source address, 4 octets.
    pub const SOURCE: usize = 12;
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
    /// Source address, 16 octets.
    pub const SOURCE: usize = 8;
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
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;
    /// IPv6 hop-by-hop options, RFC 8200 section 4.3.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header, RFC 8200 section 4.4.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header, RFC 8200 section 4.5.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header, RFC 4302.
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6 destination options, RFC 8200 section 4.6.
    pub const DESTINATION_OPTIONS: u8 = 60;
}
