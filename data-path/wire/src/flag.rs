//! The virtual-circuit flag in the DSCP (claims 23 to 28): by what it is known, and what becomes of it.

/// By what the virtual-circuit flag is known: a packet is flagged if `dscp & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flag {
    /// The bits of the DSCP that are looked at, 1 to 63.
    pub mask: u8,
    /// What they are in a flagged packet.
    pub value: u8,
}

impl Flag {
    /// Both low bits of the DSCP are set: pool 2 of RFC 2474 section 6, for experimental and local use.
    pub const DEFAULT: Self = Self { mask: 3, value: 3 };

    /// The word as it stands in the table of ports; never 0 where the mask is not.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        (self.mask as u64) << 8 | self.value as u64
    }

    /// The flag that a word means; nothing where the mask is 0.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        let (mask, value) = ((word >> 8) as u8 & 0x3f, word as u8 & 0x3f);
        if mask == 0 { None } else { Some(Self { mask, value }) }
    }

    /// Whether a packet with this DSCP (0 to 63) is flagged.
    #[inline(always)]
    pub const fn is_in(self, dscp: u8) -> bool {
        dscp & self.mask == self.value
    }

    /// The DSCP with the flag added.
    #[inline(always)]
    pub const fn add_to(self, dscp: u8) -> u8 {
        dscp & !self.mask | self.value
    }
}

/// What is done to the DSCP of a flow's packets before they are sent: the far edge takes the flag off again.
///
/// In a word: bits 0 to 5 are a DSCP or a mask; bit 8 sets the one, bit 9 clears the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Restore {
    /// Nothing.
    #[default]
    Keep,
    /// These bits are cleared.
    Clear(u8),
    /// The DSCP becomes this, 0 to 63.
    Set(u8),
}

impl Restore {
    const SET: u32 = 1 << 8;
    const CLEAR: u32 = 1 << 9;

    /// The word as it stands in the slot.
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        match self {
            Self::Keep => 0,
            Self::Set(dscp) => Self::SET | (dscp & 0x3f) as u32,
            Self::Clear(mask) => Self::CLEAR | (mask & 0x3f) as u32,
        }
    }

    /// What a word of the slot means.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        let value = word as u8 & 0x3f;
        if word & Self::SET != 0 {
            Self::Set(value)
        } else if word & Self::CLEAR != 0 {
            Self::Clear(value)
        } else {
            Self::Keep
        }
    }

    /// The DSCP as it is sent.
    #[inline(always)]
    pub const fn apply(self, dscp: u8) -> u8 {
        match self {
            Self::Keep => dscp,
            Self::Clear(mask) => dscp & !mask,
            Self::Set(dscp) => dscp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_survive(mask in 1u8..64, value in 0u8..64) {
            let flag = Flag { mask, value };
            prop_assert_eq!(Flag::from_word(flag.to_word()), Some(flag));
            for restore in [Restore::Keep, Restore::Set(value), Restore::Clear(mask)] {
                prop_assert_eq!(Restore::from_word(restore.to_word()), restore);
            }
        }
    }

    #[test]
    fn a_flag_is_added_and_taken_off() {
        let best_effort = Flag::DEFAULT.add_to(0);
        assert_eq!(best_effort, 3);
        assert!(Flag::DEFAULT.is_in(best_effort) && !Flag::DEFAULT.is_in(46) && Flag::DEFAULT.is_in(47));
        assert_eq!(Restore::Clear(3).apply(best_effort), 0);
        assert_eq!(Restore::Set(46).apply(47), 46);
        assert_eq!(Restore::Keep.apply(47), 47);
        assert_eq!(Flag::from_word(0), None);
    }
}
