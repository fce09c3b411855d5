//! The claims: what the product shows, each by cases of its own.

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub id: u8,
    /// What is claimed, in short.
    pub sentence: &'static str,
}

const fn claim(id: u8, sentence: &'static str) -> Claim {
    Claim { id, sentence }
}

/// All of them. Those from 10 to 15 are missing from the application's page that survives, and are reconstructed from the
/// granted texts.
pub const CLAIMS: [Claim; 28] = [
    claim(1, "A host asks for a flow address and is sent one; a packet arrives that carries it."),
    claim(2, "It carries it as its source address."),
    claim(3, "It carries it as its destination address."),
    claim(4, "The flow address is that of a virtual host."),
    claim(5, "The packet's destination is a virtual host."),
    claim(6, "The packet's source is a virtual host."),
    claim(7, "The flow address is the Ethernet source address."),
    claim(8, "The Ethernet source is a real host, so the flow address is the destination."),
    claim(9, "The Ethernet source is a virtual host."),
    claim(10, "The flow address is the Ethernet destination address."),
    claim(11, "The Ethernet destination is a real host, so the flow address is the source."),
    claim(12, "The Ethernet destination is a virtual host."),
    claim(13, "A first packet: the second host is found by the IP destination and stored with the first."),
    claim(14, "The second host is virtual: the next switch's flow address."),
    claim(15, "The first host is real: plain traffic enters a flow, or passes."),
    claim(16, "The second host is real: the last switch hands the packet to the receiver."),
    claim(17, "The packet is sent with the first host as its source and the second as its destination."),
    claim(18, "Later packets: the second host is read from the table."),
    claim(19, "A packet that arrives on another port than the flow's is rejected."),
    claim(20, "Multicast: one copy for each receiver, from the first host."),
    claim(21, "A receiver may be real."),
    claim(22, "A receiver may be virtual."),
    claim(23, "The virtual-circuit flag is added to a packet."),
    claim(24, "The flag is read, and an address of the packet is replaced."),
    claim(25, "The source address is replaced."),
    claim(26, "The destination address is replaced."),
    claim(27, "By a real host's address."),
    claim(28, "By a virtual host's address."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_in_order_and_every_sentence_ends() {
        for (place, claim) in CLAIMS.iter().enumerate() {
            assert_eq!(usize::from(claim.id), place + 1);
            assert!(claim.sentence.ends_with('.'), "{}", claim.id);
        }
    }
}
