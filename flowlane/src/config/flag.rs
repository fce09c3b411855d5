//! What a port does with the virtual-circuit flag (claims 23 to 28).

use super::{ConfigError, PortFile, Source, seconds};
use flowlane_wire::{Flag, Restore};
use serde::{Deserialize, Serialize};
use std::fmt;
use toml::Spanned;

/// What is done with the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlagRole {
    /// Flagged packets that come in by the port are given a flow (claim 24).
    Read,
    /// The flag is added to the packets that come in by the port (claim 23).
    Add,
}

/// The flag of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagConfig {
    /// What is done with it.
    pub role: FlagRole,
    /// By what it is known.
    pub flag: Flag,
    /// What flows of flagged packets are given; of no use where the flag is added.
    pub policy: FlaggedPolicy,
}

impl fmt::Display for FlagConfig {
    /// As the configuration says it: `read xxxx11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            FlagRole::Read => "read",
            FlagRole::Add => "add",
        };
        let bit = |place: u8| match (self.flag.mask >> place & 1, self.flag.value >> place & 1) {
            (0, _) => 'x',
            (_, 0) => '0',
            (_, _) => '1',
        };
        write!(f, "{role} {}", (0..6).rev().map(bit).collect::<String>())
    }
}

/// What the flows of flagged packets that come in by a port are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlaggedPolicy {
    /// The most flows of this kind that the port has at a time.
    pub limit: u32,
    /// The rate of each, in bits per second; none is unmetered.
    pub rate: Option<u64>,
    /// A flow that has forwarded nothing for so many seconds is released.
    pub idle: u32,
    /// What is done to the DSCP at the far edge.
    pub restore: Restore,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlaggedFile {
    limit: Option<Spanned<u32>>,
    rate: Option<Spanned<toml::Value>>,
    idle: Option<Spanned<String>>,
    restore: Option<Spanned<toml::Value>>,
}

const LIMIT: u32 = 1_024;
const IDLE: u32 = 300;

/// Reads a flag as six characters, the most significant bit of the DSCP first: `0` and `1` are what a bit of a flagged
/// packet is, `x` a bit that is not looked at. At least one bit is looked at.
pub fn flag_dscp(text: &str) -> Option<Flag> {
    if text.len() != 6 {
        return None;
    }
    let (mut mask, mut value) = (0, 0);
    for character in text.chars() {
        let (looked_at, set) = match character {
            '0' => (1, 0),
            '1' => (1, 1),
            'x' | 'X' => (0, 0),
            _ => return None,
        };
        (mask, value) = (mask << 1 | looked_at, value << 1 | set);
    }
    (mask != 0).then_some(Flag { mask, value })
}

impl Source<'_> {
    /// The flag of a port, if it has to do with it.
    pub(super) fn flag(&self, port: &PortFile) -> Result<Option<FlagConfig>, ConfigError> {
        let Some(role) = port.flag else {
            let useless = [port.flag_dscp.as_ref().map(Spanned::span), port.flagged.as_ref().map(Spanned::span)];
            return match useless.into_iter().flatten().next() {
                Some(at) => {
                    Err(self.wrong(at, "the port does not look for the flag", "say flag = \"read\" or \"add\""))
                }
                None => Ok(None),
            };
        };
        if let Some(flagged) = port.flagged.as_ref().filter(|_| role == FlagRole::Add) {
            let message = "a port that adds the flag gives no flows";
            return Err(self.wrong(flagged.span(), message, "this is for flag = \"read\""));
        }
        let flag = port.flag_dscp.as_ref().map_or(Ok(Flag::DEFAULT), |text| {
            let message = || format!("{:?} is no flag", text.get_ref());
            let hint = "6 characters of 0, 1 and x, not all x, such as \"xxxx11\"";
            flag_dscp(text.get_ref()).ok_or_else(|| self.wrong(text.span(), message(), hint))
        })?;
        let default = FlaggedFile::default();
        let file = port.flagged.as_ref().map_or(&default, Spanned::get_ref);
        Ok(Some(FlagConfig { role, flag, policy: self.flagged_policy(file, flag)? }))
    }

    fn flagged_policy(&self, file: &FlaggedFile, flag: Flag) -> Result<FlaggedPolicy, ConfigError> {
        let limit = file.limit.as_ref().map_or(LIMIT, |limit| *limit.get_ref());
        let idle = file.idle.as_ref().map_or(Ok(IDLE), |text| {
            let valid = seconds(text.get_ref()).filter(|idle| (1..u32::MAX).contains(idle));
            let message = || format!("{:?} is no time after which a flow is idle", text.get_ref());
            valid.ok_or_else(|| self.wrong(text.span(), message(), "such as \"90s\" or \"5m\""))
        })?;
        let restore = file.restore.as_ref().map_or(Ok(Restore::Clear(flag.mask)), |value| {
            let message = || format!("{} is nothing that the DSCP can become", value.get_ref());
            let hint = "\"clear\", \"keep\", or a DSCP from 0 to 63";
            restore(value.get_ref(), flag).ok_or_else(|| self.wrong(value.span(), message(), hint))
        })?;
        Ok(FlaggedPolicy { limit, rate: file.rate.as_ref().map(|rate| self.rate(rate)).transpose()?, idle, restore })
    }
}

/// Reads what is done to the DSCP at the far edge of a flow; `flag` is what "clear" clears.
pub(super) fn restore(value: &toml::Value, flag: Flag) -> Option<Restore> {
    match value {
        toml::Value::String(text) if text == "clear" => Some(Restore::Clear(flag.mask)),
        toml::Value::String(text) if text == "keep" => Some(Restore::Keep),
        toml::Value::Integer(dscp) => u8::try_from(*dscp).ok().filter(|dscp| *dscp < 64).map(Restore::Set),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use flowlane_wire::PortId;

    fn port(settings: &str) -> Result<Option<FlagConfig>, (usize, String)> {
        match Config::parse("test.toml", &format!("[[port]]\ninterface = \"p1\"\n{settings}")) {
            Ok(config) => Ok(config.ports[&PortId(1)].flag),
            Err(ConfigError::Wrong { line, message, .. }) => Err((line, message)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_port_leaves_the_flag_alone_unless_it_is_told() {
        assert_eq!(port(""), Ok(None));
        let read = port("flag = \"read\"").expect("valid").expect("a flag");
        assert_eq!((read.role, read.flag), (FlagRole::Read, Flag { mask: 3, value: 3 }));
        assert_eq!(read.to_string(), "read xxxx11");
        let policy = FlaggedPolicy { limit: 1_024, rate: None, idle: 300, restore: Restore::Clear(3) };
        assert_eq!(read.policy, policy);
    }

    #[test]
    fn a_flag_is_read_from_the_most_significant_bit_on() {
        assert_eq!(flag_dscp("xxxx11"), Some(Flag::DEFAULT));
        assert_eq!(flag_dscp("1x0x1x"), Some(Flag { mask: 0b10_1010, value: 0b10_0010 }));
        let add = port("flag = \"add\"\nflag_dscp = \"1x0x1x\"").expect("valid").expect("a flag");
        assert_eq!(add.to_string(), "add 1x0x1x");
        for wrong in ["", "xxxxxx", "xxxx1", "xxxx111", "xxxx1y", "äxx1"] {
            assert_eq!(flag_dscp(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_policy_says_what_flagged_flows_are_given() {
        let text =
            "flag = \"read\"\nflag_dscp = \"1xxxxx\"\n[port.flagged]\nlimit = 7\nrate = \"10M\"\nidle = \"2s\"\n";
        let of = |restore: &str| port(&format!("{text}{restore}")).expect("valid").expect("a flag").policy;
        let policy = FlaggedPolicy { limit: 7, rate: Some(10_000_000), idle: 2, restore: Restore::Clear(32) };
        assert_eq!(of(""), policy);
        assert_eq!(of("restore = \"keep\"").restore, Restore::Keep);
        assert_eq!(of("restore = 46").restore, Restore::Set(46));
    }

    #[test]
    fn errors_point_at_their_line() {
        let line_of = |settings: &str| port(settings).expect_err("wrong").0;
        assert_eq!(line_of("flag = \"maybe\""), 3);
        assert_eq!(line_of("flag_dscp = \"xxxx11\""), 3, "without a flag");
        assert_eq!(line_of("flag = \"read\"\nflag_dscp = \"xxxxxx\""), 4);
        assert_eq!(line_of("flag = \"add\"\n[port.flagged]\nlimit = 1"), 4);
        assert_eq!(line_of("flag = \"read\"\n[port.flagged]\nrestore = 64"), 5);
        assert_eq!(line_of("flag = \"read\"\n[port.flagged]\nidle = \"0s\""), 5);
        assert_eq!(line_of("flag = \"read\"\n[port.flagged]\nrate = \"fast\""), 5);
    }
}
