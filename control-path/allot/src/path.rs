//! The way of a flow through several switches, so far: what keeps a loop of routes from becoming a loop of leases.

use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A switch: its DHCPv6 server's UUID (RFC 6355), the same for as long as its state is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SwitchId(pub [u8; 16]);

/// Where a request for a flow has come by before it came here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PathSoFar {
    /// How many switches the flow may have still, this one included. At 0 it may have none.
    pub hop_limit: u8,
    /// The switches that the flow comes through before this one, the first first.
    pub crossed: Vec<SwitchId>,
}

impl PathSoFar {
    /// The most switches of a flow that starts at a host.
    pub const HOP_LIMIT: u8 = 16;
}

/// At the first switch.
impl Default for PathSoFar {
    fn default() -> Self {
        Self { hop_limit: Self::HOP_LIMIT, crossed: Vec::new() }
    }
}

impl fmt::Display for SwitchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SwitchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SwitchId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for SwitchId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 16]>::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let is_plain = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_plain.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        let number = number.ok_or_else(|| D::Error::custom("a switch has 32 hexadecimal digits"))?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::{Error, StrDeserializer};

    #[test]
    fn a_switch_is_read_from_its_32_digits_and_from_nothing_else() {
        let switch = SwitchId([0x0a, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x5f]);
        let text = "0abc000000000000000000000000005f";
        assert_eq!((switch.to_string().as_str(), format!("{switch:?}").as_str()), (text, text));
        let read = |text| SwitchId::deserialize(StrDeserializer::<Error>::new(text)).ok();
        assert_eq!(read(text), Some(switch));
        for wrong in ["", &text[1..], "0abc0000000000000000000000000005f", "+abc000000000000000000000000005f", "g"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
