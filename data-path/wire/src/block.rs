//! Flow addresses: a switch's block of addresses, and the tag and slot inside each of them.

use crate::Mac;
use core::fmt;

/// A slot of a switch's flow table: the low bits of a flow address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SlotIndex(pub u32);

/// An Ethernet address that names one flow (claims 1 and 4): the address of a *virtual host*.
///
/// Only a [`Block`] makes one, so a host's own address can not stand where a flow address belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowAddress(Mac);

impl FlowAddress {
    /// The address as it stands in a frame.
    #[inline(always)]
    pub const fn mac(self) -> Mac {
        self.0
    }
}

impl fmt::Display for FlowAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FlowAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The addresses that one switch allots:
///
/// ```text
///     |<- prefix ->|<- tag ->|<- slot ->|      48 bits
/// ```
///
/// The prefix is the switch's own part of the pool, the slot is an index into its table, and the tag is the
/// generation of the slot: it differs each time the slot is given to another flow, so that a late frame of the
/// flow before can not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    prefix: u64,
    prefix_mask: u64,
    slot_mask: u32,
    slot_bits: u32,
    /// Prefix and mask as on the wire ([`Mac::to_wire`]).
    wire_prefix: u64,
    wire_mask: u64,
}

/// Why an address block can not be used. RFC 8948 section 1 and IEEE 802c explain the bits of the first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The group bit is set: hosts' TCP discards frames to such an address, and snooping bridges swallow them.
    Group,
    /// The local bit is not set: the addresses belong to a manufacturer.
    Universal,
    /// The prefix is shorter than one octet: the bits that say what an address is would vary.
    VaryingFirstOctet,
    /// The prefix length is over 48.
    PrefixLength,
    /// Bits behind the prefix length are set.
    HostBits,
    /// The block overlaps addresses that others hand out without asking; the text names them.
    Reserved(&'static str),
    /// Prefix and slot number leave no bit for the tag, or there are no slots at all.
    NoRoom,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group => f.write_str("the group bit is set (the first octet is odd): flow addresses are individual addresses"),
            Self::Universal => f.write_str("the local bit is not set in the first octet: those addresses belong to a manufacturer; use x2, such as a2"),
            Self::VaryingFirstOctet => f.write_str("the prefix is shorter than 8 bits: the first octet must be the same for all addresses"),
            Self::PrefixLength => f.write_str("the prefix length is over 48 bits"),
            Self::HostBits => f.write_str("bits behind the prefix length are set"),
            Self::Reserved(owner) => write!(f, "the block overlaps addresses used by {owner}"),
            Self::NoRoom => f.write_str("prefix and slots leave no room for the tag: use a shorter prefix or fewer slots"),
        }
    }
}

impl core::error::Error for BlockError {}

/// Address ranges that other software takes without asking: prefix, its length in bits, whose it is.
const RESERVED: [(u64, u32, &str); 3] = [
    (0x0242_0000_0000, 16, "Docker (02:42)"),
    (0x5254_0000_0000, 24, "QEMU (52:54:00)"),
    (0x3333_0000_0000, 16, "IPv6 multicast (33:33)"),
];

const fn mask_of(bits: u32) -> u64 {
    // The mask of the first `bits` of 48 bits.
    ((1u64 << 48) - 1) & !((1u64 << (48 - bits)) - 1)
}

impl Block {
    /// The block of all addresses that start with the first `prefix_len` bits of `prefix`, for a table of
    /// `slots` flows (rounded up to a power of two).
    ///
    /// # Errors
    /// A [`BlockError`] where the addresses are not the administrator's to give, or too few.
    pub fn new(prefix: Mac, prefix_len: u32, slots: u32) -> Result<Self, BlockError> {
        if prefix_len > 48 {
            return Err(BlockError::PrefixLength);
        }
        if prefix_len < 8 {
            return Err(BlockError::VaryingFirstOctet);
        }
        if prefix.is_group() {
            return Err(BlockError::Group);
        }
        if !prefix.is_local() {
            return Err(BlockError::Universal);
        }
        let (value, mask) = (prefix.to_u64(), mask_of(prefix_len));
        if value & !mask != 0 {
            return Err(BlockError::HostBits);
        }
        for (reserved, len, owner) in RESERVED {
            let common = mask & mask_of(len);
            if value & common == reserved & common {
                return Err(BlockError::Reserved(owner));
            }
        }
        let slot_bits = slots.checked_next_power_of_two().ok_or(BlockError::NoRoom)?.trailing_zeros();
        if slots == 0 || prefix_len + slot_bits >= 48 {
            return Err(BlockError::NoRoom);
        }
        let (wire_prefix, wire_mask) = (prefix.to_wire(), Mac::from_u64(mask).to_wire());
        Ok(Self {
            prefix: value,
            prefix_mask: mask,
            slot_mask: (1 << slot_bits) - 1,
            slot_bits,
            wire_prefix,
            wire_mask,
        })
    }

    /// The block as the words that the kernel program is given.
    pub const fn to_words(self) -> [u64; 5] {
        let slots = (self.slot_mask as u64) << 32 | self.slot_bits as u64;
        [self.prefix, self.prefix_mask, slots, self.wire_prefix, self.wire_mask]
    }

    /// The block that [`Block::to_words`] made the words of.
    #[inline(always)]
    pub const fn from_words([prefix, prefix_mask, slots, wire_prefix, wire_mask]: [u64; 5]) -> Self {
        Self { prefix, prefix_mask, slot_mask: (slots >> 32) as u32, slot_bits: slots as u32, wire_prefix, wire_mask }
    }

    /// Whether an address, as a number, is one of this block's.
    #[inline(always)]
    pub const fn contains(&self, address: u64) -> bool {
        address & self.prefix_mask == self.prefix
    }

    /// The same of the address in the low 48 bits of a word, as on the wire ([`Mac::to_wire`]).
    #[inline(always)]
    pub const fn contains_wire(&self, word: u64) -> bool {
        word & self.wire_mask == self.wire_prefix
    }

    /// The slot that an address of this block points to. Says nothing about whether the slot holds that flow.
    #[inline(always)]
    pub const fn slot_of(&self, address: u64) -> SlotIndex {
        SlotIndex(address as u32 & self.slot_mask)
    }

    /// The same of the address in the low 48 bits of a word, as on the wire.
    #[inline(always)]
    pub const fn slot_of_wire(&self, word: u64) -> SlotIndex {
        SlotIndex(((word >> 16) as u32).swap_bytes() & self.slot_mask)
    }

    /// The slot of a flow address.
    pub const fn slot(&self, address: FlowAddress) -> SlotIndex {
        self.slot_of(address.0.to_u64())
    }

    /// The tag of a flow address.
    pub const fn tag(&self, address: FlowAddress) -> u64 {
        (address.0.to_u64() & !self.prefix_mask) >> self.slot_bits
    }

    /// The flow address for a slot in its generation `tag`. Bits of either that do not fit are cut off.
    pub const fn address(&self, tag: u64, slot: SlotIndex) -> FlowAddress {
        let low = (tag << self.slot_bits) | (slot.0 & self.slot_mask) as u64;
        FlowAddress(Mac::from_u64(self.prefix | (low & !self.prefix_mask)))
    }

    /// The flow address that `mac` is, if it is one of this block's.
    pub const fn flow_address(&self, mac: Mac) -> Option<FlowAddress> {
        if self.contains(mac.to_u64()) { Some(FlowAddress(mac)) } else { None }
    }

    /// How many slots the block indexes.
    pub const fn slots(&self) -> u32 {
        self.slot_mask + 1
    }

    /// How many tags there are: a slot's address returns after as many reuses.
    pub const fn tags(&self) -> u64 {
        1 << (48 - self.prefix_len() - self.slot_bits)
    }

    /// The length of the prefix in bits.
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_mask.count_ones()
    }

    /// The first address of the block.
    pub const fn prefix(&self) -> Mac {
        Mac::from_u64(self.prefix)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix(), self.prefix_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(text: &str) -> Mac {
        text.parse().expect("an address")
    }

    #[test]
    fn blocks_that_are_not_the_administrators_to_give_are_refused() {
        let refused = |text, len| Block::new(mac(text), len, 1024).expect_err("refused");
        assert_eq!(refused("a3:f1:00:00:00:00", 16), BlockError::Group);
        assert_eq!(refused("a0:f1:00:00:00:00", 16), BlockError::Universal);
        assert_eq!(refused("a2:00:00:00:00:00", 7), BlockError::VaryingFirstOctet);
        assert_eq!(refused("a2:f1:00:00:00:00", 49), BlockError::PrefixLength);
        assert_eq!(refused("a2:f1:00:00:00:01", 16), BlockError::HostBits);
        assert_eq!(refused("a2:f1:00:00:00:00", 38), BlockError::NoRoom);
        assert!(matches!(refused("02:42:ac:00:00:00", 24), BlockError::Reserved(_)));
        assert!(matches!(refused("02:00:00:00:00:00", 8), BlockError::Reserved(_)));
        assert!(matches!(refused("52:54:00:00:00:00", 24), BlockError::Reserved(_)));
        assert_eq!(Block::new(mac("a2:f1:00:00:00:00"), 16, 0), Err(BlockError::NoRoom));
        assert_eq!(Block::new(mac("a2:f1:00:00:00:00"), 16, u32::MAX), Err(BlockError::NoRoom));
    }

    proptest! {
        #[test]
        fn tag_and_slot_survive_the_address(len in 8u32..36, slots in 1u32..4096, tag: u64, slot: u32) {
            let block = Block::new(Mac::from_u64(0xa2f1_0000_0000 & mask_of(len)), len, slots).expect("a good block");
            let (tag, slot) = (tag % block.tags(), SlotIndex(slot % block.slots()));
            let address = block.address(tag, slot);
            prop_assert_eq!(block.tag(address), tag);
            prop_assert_eq!(block.slot(address), slot);
            prop_assert_eq!(block.flow_address(address.mac()), Some(address));
            prop_assert!(!address.mac().is_group() && address.mac().is_local());
            prop_assert_eq!(Block::from_words(block.to_words()), block);
            prop_assert_eq!(block.slot_of_wire(address.mac().to_wire() | tag << 48), slot);
        }

        #[test]
        fn on_the_wire_the_same_addresses_are_of_the_block(octets: [u8; 6], near: bool, len in 8u32..40, after: u16) {
            let block = Block::new(Mac::from_u64(0xa2f1_0000_0000 & mask_of(len)), len, 16).expect("a good block");
            let mac = Mac(octets);
            let mac = if near { Mac::from_u64(block.prefix | mac.to_u64() & !block.prefix_mask) } else { mac };
            prop_assert_eq!(block.contains_wire(mac.to_wire() | u64::from(after) << 48), block.contains(mac.to_u64()));
        }

        #[test]
        fn two_tags_of_one_slot_never_make_the_same_address(tag in 0u64..4096, step in 1u64..4096, slot in 0u32..1 << 20) {
            let block = Block::new(mac("a2:f1:00:00:00:00"), 16, 1 << 20).expect("a good block");
            let again = (tag + step) % block.tags();
            prop_assume!(again != tag % block.tags());
            prop_assert_ne!(block.address(tag, SlotIndex(slot)), block.address(again, SlotIndex(slot)));
        }
    }
}
