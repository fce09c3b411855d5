//! Which packets of a host the virtual-circuit flag is added to (claim 23).

use crate::Tuple;
use flowlane_wire::Flag;

/// How many rules there can be.
pub const MARK_RULES: u32 = 16;

/// A rule: packets that agree with all of it get the flag. An entry of the table of rules, which ends with the first that is
/// all 0; 48 octets without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MarkRule {
    /// Which bits of the IP destination are compared, as in [`Tuple::destination`].
    pub mask: [u8; 16],
    /// What they are.
    pub prefix: [u8; 16],
    /// The [`Flag`] as a word; 0 is no rule.
    pub flag: u64,
    /// 4 or 6; 0 is any.
    pub version: u8,
    /// The protocol behind all IPv6 extension headers; 0 is any.
    pub protocol: u8,
    /// The destination port, network byte order; 0 is any. Fragments have none.
    pub port: [u8; 2],
    /// Nothing.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<MarkRule>() == 48);

impl MarkRule {
    /// The flag that is added, if this is a rule.
    #[inline(always)]
    pub const fn flag(&self) -> Option<Flag> {
        Flag::from_word(self.flag)
    }

    /// Whether a packet gets the flag.
    #[inline(always)]
    pub fn matches(&self, tuple: &Tuple) -> bool {
        let [mask, prefix, destination] = [&self.mask, &self.prefix, &tuple.destination].map(halves);
        (self.version == 0 || self.version == tuple.version)
            && (self.protocol == 0 || self.protocol == tuple.protocol)
            && (self.port == [0, 0] || self.port == tuple.destination_port)
            && destination[0] & mask[0] == prefix[0]
            && destination[1] & mask[1] == prefix[1]
    }

    /// The rule in 48 octets, as it stands in the table.
    pub fn to_octets(&self) -> [u8; 48] {
        let mut octets = [0; 48];
        octets[..16].copy_from_slice(&self.mask);
        octets[16..32].copy_from_slice(&self.prefix);
        octets[32..40].copy_from_slice(&self.flag.to_ne_bytes());
        (octets[40], octets[41]) = (self.version, self.protocol);
        octets[42..44].copy_from_slice(&self.port);
        octets
    }
}

/// Sixteen octets as two numbers: whichever way round, for they are only compared.
#[inline(always)]
fn halves(octets: &[u8; 16]) -> [u64; 2] {
    let &[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple() -> Tuple {
        let mut destination = [0; 16];
        destination[..4].copy_from_slice(&[10, 2, 3, 4]);
        Tuple { destination, version: 4, protocol: 17, destination_port: [0, 53], ..Tuple::default() }
    }

    fn prefix(octets: [u8; 4], mask: [u8; 4]) -> MarkRule {
        let mut rule = MarkRule { version: 4, flag: Flag::DEFAULT.to_word(), ..MarkRule::default() };
        rule.prefix[..4].copy_from_slice(&octets);
        rule.mask[..4].copy_from_slice(&mask);
        rule
    }

    #[test]
    fn a_rule_wants_all_that_it_names() {
        let any = MarkRule { flag: Flag::DEFAULT.to_word(), ..MarkRule::default() };
        assert!(any.matches(&tuple()) && any.flag() == Some(Flag::DEFAULT));
        assert!(prefix([10, 2, 0, 0], [255, 255, 0, 0]).matches(&tuple()));
        assert!(!prefix([10, 3, 0, 0], [255, 255, 0, 0]).matches(&tuple()));
        assert!(!MarkRule { version: 6, ..any }.matches(&tuple()));
        assert!(MarkRule { protocol: 17, port: [0, 53], ..any }.matches(&tuple()));
        assert!(!MarkRule { protocol: 6, port: [0, 53], ..any }.matches(&tuple()));
        assert!(!MarkRule { protocol: 17, port: [53, 0], ..any }.matches(&tuple()));
        assert_eq!(MarkRule::default().flag(), None);
    }
}
