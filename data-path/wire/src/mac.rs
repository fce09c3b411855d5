//! Ethernet (MAC) addresses, IEEE 802-2014 section 8.

use core::fmt;
use core::str::FromStr;

/// A 48-bit Ethernet address, first octet on the wire first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`, to every host.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address as a number: the first octet on the wire is the most significant of the low 48 bits.
    #[inline(always)]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address made of the low 48 bits of `value`; the high 16 are ignored.
    #[inline(always)]
    pub const fn from_u64(value: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// The address as its octets stand on the wire: the first is the least significant of the low 48 bits. That is what one load
    /// of eight octets has there, and needs no reordering to be compared or written.
    #[inline(always)]
    pub const fn to_wire(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The address that stands in the low 48 bits of `word` as on the wire; the high 16 are ignored.
    #[inline(always)]
    pub const fn from_wire(word: u64) -> Self {
        let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Whether the group (I/G) bit is set: the address names several hosts.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether the local (U/L) bit is set: the address was given by an administrator, not by a manufacturer.
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six octets of two hexadecimal digits, separated by colons or hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address: write six pairs of hexadecimal digits, such as a2:f1:00:00:00:2a")
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(ParseMacError),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serde::Serialize::serialize(&self.0, serializer)
        }
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Mac;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an Ethernet address such as a2:f1:00:00:00:2a")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mac, E> {
                text.parse().map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            <[u8; 6]>::deserialize(deserializer).map(Mac)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn an_address_with_too_few_too_many_or_odd_octets_is_refused() {
        for text in [
            "",
            "a2",
            "a2:f1:00:00:00",
            "a2:f1:00:00:00:2a:00",
            "a2:f1:00:00:00:2",
            "a2:f1:00:00:00:+a",
            "g2:f1:00:00:00:2a",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(ParseMacError), "{text:?}");
        }
    }

    #[test]
    fn the_first_octet_is_the_most_significant() {
        assert_eq!(Mac([0xa2, 0xf1, 0, 0, 0, 0x2a]).to_u64(), 0xa2f1_0000_002a);
    }

    proptest! {
        #[test]
        fn an_address_survives_text_and_number(octets: [u8; 6]) {
            let mac = Mac(octets);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(Mac::from_u64(mac.to_u64()), mac);
            prop_assert_eq!(Mac::from_wire(mac.to_wire()), mac);
            prop_assert_eq!(mac.to_wire() << 16, mac.to_u64().swap_bytes());
        }
    }
}
