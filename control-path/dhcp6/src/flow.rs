//! The vendor option that says what a flow is for; `docs/dhcpv6.md` has its table.

use crate::option::{TooLong, emit_raw};
use crate::reader::{ParseError, Problem, Reader};
use flowlane_allot::{Field, FlowSpec, PathSoFar, SwitchId};
use flowlane_wire::Restore;
use std::net::IpAddr;

/// The enterprise number of Flowlane's vendor option.
///
/// It is **not registered** with IANA. Numbers are given out one after the other from 1, so that one this large
/// will not come to mean somebody else; the number for documentation (32473, RFC 5612) is not for use on networks.
pub const ENTERPRISE: u32 = 0xf10a_0001;

/// The longest name of a flow, in octets of UTF-8.
pub const MAX_NAME: usize = 64;

/// The most switches that a request may have crossed: twice as many as a flow may have.
pub const MAX_CROSSED: usize = 2 * PathSoFar::HOP_LIMIT as usize;

/// What a flow is for, as far as one side says it: Vendor-specific Information (RFC 9915 section 21.17) of
/// [`ENTERPRISE`]. From a client it is a wish, from a server what was granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowOption {
    /// Sub-option 1, 4 or 16 octets: where the flow's packets go.
    pub destination: Option<IpAddr>,
    /// Sub-option 2, 8 octets: the rate in bits per second.
    pub rate: Option<u64>,
    /// Sub-option 3, 1 octet: which field carries the flow address; 0 is the destination, 1 the source.
    pub field: Option<Field>,
    /// Sub-option 4, up to [`MAX_NAME`] octets of UTF-8: a name for people.
    pub name: Option<String>,
    /// Sub-option 5, 1 octet: how many switches the flow may have still, the server's included.
    pub hop_limit: Option<u8>,
    /// Sub-option 6, 16 octets each, up to [`MAX_CROSSED`]: the switches that the request has come by, the first first.
    pub crossed: Option<Vec<SwitchId>>,
    /// Sub-option 7, 2 octets: what the last switch does to the DSCP; 0 keeps it, 1 clears bits, 2 sets it; then the bits
    /// or the DSCP, 0 to 63.
    pub restore: Option<Restore>,
    /// Sub-option 8, empty: the flow is of use only if the server's switch can forward to the destination now. From clients.
    pub only_with_a_way: bool,
    /// Sub-option 9, 1 octet: which of several equal next hops the flow takes, modulo their number.
    pub path: Option<u8>,
    /// Sub-option 10, 1 octet, from servers: how many next hops there are to choose from.
    pub paths: Option<u8>,
    /// Sub-options not understood.
    pub other: Vec<RawOption>,
}

/// An option or sub-option that is kept and not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption {
    /// Its code.
    pub code: u16,
    /// Its value.
    pub data: Vec<u8>,
}

mod sub_option {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const RATE: u16 = 2;
    pub(super) const FIELD: u16 = 3;
    pub(super) const NAME: u16 = 4;
    pub(super) const HOP_LIMIT: u16 = 5;
    pub(super) const CROSSED: u16 = 6;
    pub(super) const RESTORE: u16 = 7;
    pub(super) const ONLY_WITH_A_WAY: u16 = 8;
    pub(super) const PATH: u16 = 9;
    pub(super) const PATHS: u16 = 10;
}

impl FlowOption {
    /// The option for a flow. Of a name longer than [`MAX_NAME`] octets, the characters that fit. What is as without it is
    /// left out.
    pub fn new(spec: &FlowSpec) -> Self {
        let asked = Self { only_with_a_way: spec.only_with_a_way, ..Self::granted(spec) };
        if spec.so_far == PathSoFar::default() {
            return asked;
        }
        Self { hop_limit: Some(spec.so_far.hop_limit), crossed: Some(spec.so_far.crossed.clone()), ..asked }
    }

    /// The option that says what was granted: all of it but the condition, and where the request has come by.
    pub fn granted(spec: &FlowSpec) -> Self {
        let name = spec.name.as_deref().map(|name| name[..name.floor_char_boundary(MAX_NAME)].to_owned());
        Self {
            destination: spec.destination,
            rate: spec.rate,
            field: Some(spec.field),
            name,
            restore: Some(spec.restore).filter(|restore| *restore != Restore::Keep),
            path: spec.path,
            ..Self::default()
        }
    }

    /// What the flow is for: what `inner` says (the option in the IA_LL), else what `outer` says (the option in the
    /// message), else the default.
    pub fn spec(inner: Option<&Self>, outer: Option<&Self>) -> FlowSpec {
        FlowSpec {
            destination: first(inner, outer, |flow| flow.destination),
            rate: first(inner, outer, |flow| flow.rate),
            field: first(inner, outer, |flow| flow.field).unwrap_or_default(),
            name: first(inner, outer, |flow| flow.name.clone()),
            restore: first(inner, outer, |flow| flow.restore).unwrap_or_default(),
            receivers: None,
            path: first(inner, outer, |flow| flow.path),
            only_with_a_way: inner.into_iter().chain(outer).any(|flow| flow.only_with_a_way),
            so_far: PathSoFar {
                hop_limit: first(inner, outer, |flow| flow.hop_limit).unwrap_or(PathSoFar::HOP_LIMIT),
                crossed: first(inner, outer, |flow| flow.crossed.clone()).unwrap_or_default(),
            },
        }
    }

    /// The sub-options, up to the end of `value`.
    pub(crate) fn parse(value: &mut Reader<'_>) -> Result<Self, ParseError> {
        let mut flow = Self::default();
        while !value.is_empty() {
            let (code, mut value) = value.sub_option()?;
            let start = value;
            let again = match code {
                sub_option::DESTINATION => flow.destination.replace(parse_address(&mut value)?).is_some(),
                sub_option::RATE => flow.rate.replace(value.u64()?).is_some(),
                sub_option::FIELD => flow.field.replace(parse_field(&mut value)?).is_some(),
                sub_option::NAME => flow.name.replace(parse_name(&mut value)?).is_some(),
                sub_option::HOP_LIMIT => flow.hop_limit.replace(value.u8()?).is_some(),
                sub_option::CROSSED => flow.crossed.replace(parse_crossed(&mut value)?).is_some(),
                sub_option::RESTORE => flow.restore.replace(parse_restore(&mut value)?).is_some(),
                sub_option::ONLY_WITH_A_WAY => std::mem::replace(&mut flow.only_with_a_way, true),
                sub_option::PATH => flow.path.replace(value.u8()?).is_some(),
                sub_option::PATHS => flow.paths.replace(value.u8()?).is_some(),
                _ => {
                    flow.other.push(RawOption { code, data: value.take_rest().to_vec() });
                    false
                }
            };
            value.finish()?;
            if again {
                return Err(start.error(Problem::Duplicate));
            }
        }
        Ok(flow)
    }

    /// The option's value: enterprise number and sub-options.
    pub(crate) fn emit(&self) -> Result<Vec<u8>, TooLong> {
        let mut out = ENTERPRISE.to_be_bytes().to_vec();
        match self.destination {
            Some(IpAddr::V4(address)) => emit_raw(sub_option::DESTINATION, &address.octets(), &mut out)?,
            Some(IpAddr::V6(address)) => emit_raw(sub_option::DESTINATION, &address.octets(), &mut out)?,
            None => {}
        }
        if let Some(rate) = self.rate {
            emit_raw(sub_option::RATE, &rate.to_be_bytes(), &mut out)?;
        }
        if let Some(field) = self.field {
            emit_raw(sub_option::FIELD, &[u8::from(field == Field::Source)], &mut out)?;
        }
        if let Some(name) = &self.name {
            emit_raw(sub_option::NAME, name.as_bytes(), &mut out)?;
        }
        if let Some(hop_limit) = self.hop_limit {
            emit_raw(sub_option::HOP_LIMIT, &[hop_limit], &mut out)?;
        }
        if let Some(crossed) = &self.crossed {
            let octets: Vec<u8> = crossed.iter().flat_map(|switch| switch.0).collect();
            emit_raw(sub_option::CROSSED, &octets, &mut out)?;
        }
        if let Some(restore) = self.restore {
            emit_raw(sub_option::RESTORE, &octets_of(restore), &mut out)?;
        }
        if self.only_with_a_way {
            emit_raw(sub_option::ONLY_WITH_A_WAY, &[], &mut out)?;
        }
        if let Some(path) = self.path {
            emit_raw(sub_option::PATH, &[path], &mut out)?;
        }
        if let Some(paths) = self.paths {
            emit_raw(sub_option::PATHS, &[paths], &mut out)?;
        }
        for option in &self.other {
            emit_raw(option.code, &option.data, &mut out)?;
        }
        Ok(out)
    }
}

fn first<T>(
    inner: Option<&FlowOption>,
    outer: Option<&FlowOption>,
    part: impl Fn(&FlowOption) -> Option<T>,
) -> Option<T> {
    inner.and_then(&part).or_else(|| outer.and_then(&part))
}

fn parse_address(value: &mut Reader<'_>) -> Result<IpAddr, ParseError> {
    match value.len() {
        4 => Ok(IpAddr::from(value.array::<4>()?)),
        16 => Ok(IpAddr::from(value.array::<16>()?)),
        _ => Err(value.error(Problem::Value("an IP address has 4 or 16 octets"))),
    }
}

fn parse_field(value: &mut Reader<'_>) -> Result<Field, ParseError> {
    let start = *value;
    match value.u8()? {
        0 => Ok(Field::Destination),
        1 => Ok(Field::Source),
        _ => Err(start.error(Problem::Value("the field is 0 (destination) or 1 (source)"))),
    }
}

fn parse_name(value: &mut Reader<'_>) -> Result<String, ParseError> {
    let start = *value;
    let octets = value.take_rest();
    if octets.len() > MAX_NAME {
        return Err(start.error(Problem::Value("a name has at most 64 octets")));
    }
    core::str::from_utf8(octets).map(str::to_owned).map_err(|_| start.error(Problem::NotUtf8))
}

fn parse_crossed(value: &mut Reader<'_>) -> Result<Vec<SwitchId>, ParseError> {
    let start = *value;
    let mut crossed = Vec::new();
    while !value.is_empty() {
        crossed.push(SwitchId(value.array()?));
    }
    if crossed.len() > MAX_CROSSED {
        return Err(start.error(Problem::Value("a flow crosses at most 32 switches")));
    }
    Ok(crossed)
}

fn parse_restore(value: &mut Reader<'_>) -> Result<Restore, ParseError> {
    let start = *value;
    match (value.u8()?, value.u8()?) {
        (0, 0) => Ok(Restore::Keep),
        (1, mask @ 0..64) => Ok(Restore::Clear(mask)),
        (2, dscp @ 0..64) => Ok(Restore::Set(dscp)),
        _ => Err(start.error(Problem::Value("the DSCP is kept (0), cleared (1) or set (2), with a value of 0 to 63"))),
    }
}

fn octets_of(restore: Restore) -> [u8; 2] {
    match restore {
        Restore::Keep => [0, 0],
        Restore::Clear(mask) => [1, mask],
        Restore::Set(dscp) => [2, dscp],
    }
}
