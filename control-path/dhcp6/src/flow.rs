//! The vendor option that says what a flow is for; `docs/dhcpv6.md` has its table.

use crate::option::{TooLong, emit_raw};
use crate::reader::{ParseError, Problem, Reader};
use flowlane_allot::{Field, FlowSpec};
use std::net::IpAddr;

/// The enterprise number of Flowlane's vendor option.
///
/// It is **not registered** with IANA. Numbers are given out one after the other from 1, so that one this large
/// will not come to mean somebody else; the number for documentation (32473, RFC 5612) is not for use on networks.
pub const ENTERPRISE: u32 = 0xf10a_0001;

/// The longest name of a flow, in octets of UTF-8.
pub const MAX_NAME: usize = 64;

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
}

impl FlowOption {
    /// The option for a flow. Of a name longer than [`MAX_NAME`] octets, the characters that fit.
    pub fn new(spec: &FlowSpec) -> Self {
        let name = spec.name.as_deref().map(|name| name[..name.floor_char_boundary(MAX_NAME)].to_owned());
        Self { destination: spec.destination, rate: spec.rate, field: Some(spec.field), name, other: Vec::new() }
    }

    /// What the flow is for: what `inner` says (the option in the IA_LL), else what `outer` says (the option in the
    /// message), else the default.
    pub fn spec(inner: Option<&Self>, outer: Option<&Self>) -> FlowSpec {
        FlowSpec {
            destination: first(inner, outer, |flow| flow.destination),
            rate: first(inner, outer, |flow| flow.rate),
            field: first(inner, outer, |flow| flow.field).unwrap_or_default(),
            name: first(inner, outer, |flow| flow.name.clone()),
            ..FlowSpec::default()
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
