//! Options, RFC 9915 section 21, RFC 8947 section 11, RFC 8948 section 5: `code, length, value`, all big-endian.

use crate::duid::Duid;
use crate::flow::{ENTERPRISE, FlowOption, RawOption};
use crate::reader::{ParseError, Problem, Reader};
use core::mem::discriminant;
use flowlane_wire::Mac;

/// Option codes, as IANA registered them.
pub mod code {
    /// RFC 9915 section 21.2.
    pub const CLIENT_ID: u16 = 1;
    /// RFC 9915 section 21.3.
    pub const SERVER_ID: u16 = 2;
    /// RFC 9915 section 21.7.
    pub const OPTION_REQUEST: u16 = 6;
    /// RFC 9915 section 21.8.
    pub const PREFERENCE: u16 = 7;
    /// RFC 9915 section 21.9.
    pub const ELAPSED_TIME: u16 = 8;
    /// RFC 9915 section 21.13.
    pub const STATUS_CODE: u16 = 13;
    /// RFC 9915 section 21.14.
    pub const RAPID_COMMIT: u16 = 14;
    /// Vendor-specific Information, RFC 9915 section 21.17.
    pub const VENDOR: u16 = 17;
    /// RFC 9915 section 21.24.
    pub const SOL_MAX_RT: u16 = 82;
    /// RFC 8947 section 11.1.
    pub const IA_LL: u16 = 138;
    /// RFC 8947 section 11.2.
    pub const LLADDR: u16 = 139;
    /// SLAP quadrants, RFC 8948 section 5.1.
    pub const QUAD: u16 = 140;

    /// The name of an option, for people.
    pub const fn name(code: u16) -> Option<&'static str> {
        Some(match code {
            CLIENT_ID => "Client Identifier",
            SERVER_ID => "Server Identifier",
            OPTION_REQUEST => "Option Request",
            PREFERENCE => "Preference",
            ELAPSED_TIME => "Elapsed Time",
            STATUS_CODE => "Status Code",
            RAPID_COMMIT => "Rapid Commit",
            VENDOR => "Vendor-specific Information",
            SOL_MAX_RT => "SOL_MAX_RT",
            IA_LL => "IA_LL",
            LLADDR => "LLADDR",
            QUAD => "QUAD",
            _ => return None,
        })
    }
}

/// An option of a message, or of an option that contains others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhcpOption {
    /// Who the client is.
    ClientId(Duid),
    /// Who the server is.
    ServerId(Duid),
    /// The codes of options that the client would like to get.
    OptionRequest(Vec<u16>),
    /// How much a server wants to be chosen: 255 is at once.
    Preference(u8),
    /// How long the client has been at this exchange, in hundredths of a second; 0xffff is that or more.
    ElapsedTime(u16),
    /// How it went: of the whole message, or of the IA_LL that it is in.
    StatusCode(Status),
    /// Two messages instead of four.
    RapidCommit,
    /// What the flow is for: the vendor option of [`ENTERPRISE`]. In an IA_LL it goes before one in the message.
    Flow(FlowOption),
    /// The longest time between two Solicits, in seconds; good values are 60 to 86,400.
    SolMaxRt(u32),
    /// A lease, asked or granted.
    IaLl(IaLl),
    /// A block of addresses in an IA_LL.
    LlAddr(LlAddr),
    /// Which quadrants of local addresses the client wants, in an IA_LL.
    Quad(Vec<QuadrantPreference>),
    /// Any other option, kept and not understood.
    Unknown(RawOption),
}

/// Identity Association for Link-Layer Addresses, RFC 8947 section 11.1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IaLl {
    /// The client's number for the lease.
    pub iaid: u32,
    /// Seconds until the client renews; 0 from a client.
    pub t1: u32,
    /// Seconds until the client rebinds; 0 from a client.
    pub t2: u32,
    /// LLADDR, Status Code, QUAD, vendor options.
    pub options: Vec<DhcpOption>,
}

impl IaLl {
    /// The blocks of addresses.
    pub fn blocks(&self) -> impl Iterator<Item = &LlAddr> {
        self.options.iter().filter_map(|option| match option {
            DhcpOption::LlAddr(block) => Some(block),
            _ => None,
        })
    }

    /// The status, if one is given; without one it is Success (RFC 9915 section 21.13).
    pub fn status(&self) -> Option<&Status> {
        status_of(&self.options)
    }

    /// What the flow is for, as far as this IA_LL says it.
    pub fn flow(&self) -> Option<&FlowOption> {
        flow_of(&self.options)
    }
}

/// A block of link-layer addresses, RFC 8947 section 11.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlAddr {
    /// The kind of address: 1 is Ethernet, 6 is IEEE 802.
    pub link_type: u16,
    /// The first address, in the length that its kind has; all zero from a client means any.
    pub address: Vec<u8>,
    /// How many addresses follow the first.
    pub extra: u32,
    /// How long the addresses may still be used, in seconds; 0 from a client.
    pub valid_lifetime: u32,
    /// Options of the block. No such option is defined yet.
    pub options: Vec<RawOption>,
}

impl LlAddr {
    /// `extra + 1` Ethernet addresses.
    pub fn ethernet(first: Mac, extra: u32, valid_lifetime: u32) -> Self {
        Self { link_type: 1, address: first.0.to_vec(), extra, valid_lifetime, options: Vec::new() }
    }

    /// The first address, if the block is of 48-bit addresses.
    pub fn mac(&self) -> Option<Mac> {
        let octets = self.address.as_slice().try_into().ok()?;
        matches!(self.link_type, 1 | 6).then_some(Mac(octets))
    }
}

/// How an exchange went, RFC 9915 section 21.13.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// For programs.
    pub code: StatusCode,
    /// For people.
    pub text: String,
}

impl Status {
    /// A status with a text for people.
    pub fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Status codes, RFC 9915 section 21.13, and one of RFC 5007 section 4.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusCode {
    /// 0: it went well.
    Success,
    /// 1: it failed, for a reason that the text gives.
    UnspecFail,
    /// 2: no addresses to give.
    NoAddrsAvail,
    /// 3: there is no such lease.
    NoBinding,
    /// 4: the addresses do not belong on this link.
    NotOnLink,
    /// 5: the client has to send to the multicast address.
    UseMulticast,
    /// 6: no prefix to give.
    NoPrefixAvail,
    /// 10: the server does not allow it. RFC 5007 has it for lease queries; here an operator has closed the lease.
    NotAllowed,
    /// Any other.
    Other(u16),
}

impl StatusCode {
    /// The number on the wire.
    pub const fn to_u16(self) -> u16 {
        match self {
            Self::Success => 0,
            Self::UnspecFail => 1,
            Self::NoAddrsAvail => 2,
            Self::NoBinding => 3,
            Self::NotOnLink => 4,
            Self::UseMulticast => 5,
            Self::NoPrefixAvail => 6,
            Self::NotAllowed => 10,
            Self::Other(code) => code,
        }
    }

    /// The code of a number on the wire.
    pub const fn from_u16(code: u16) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::UnspecFail,
            2 => Self::NoAddrsAvail,
            3 => Self::NoBinding,
            4 => Self::NotOnLink,
            5 => Self::UseMulticast,
            6 => Self::NoPrefixAvail,
            10 => Self::NotAllowed,
            other => Self::Other(other),
        }
    }
}

/// One wish of a QUAD option, RFC 8948 section 5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuadrantPreference {
    /// The quadrant: 0 to 3, see [`Quadrant`]; others are ignored.
    pub quadrant: u8,
    /// How much it is wanted; higher is more.
    pub preference: u8,
}

/// A quadrant of the locally administered addresses, IEEE 802c, RFC 8948 section 1. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Quadrant {
    /// The administrator's: x2.
    Aai = 0,
    /// Extended local, with a company identifier: xA.
    Eli = 1,
    /// Reserved: x6.
    Reserved = 2,
    /// Standard assigned: xE.
    Sai = 3,
}

impl Quadrant {
    /// The quadrant of a locally administered address: the third and fourth bit of the first octet (Y and Z).
    pub const fn of(address: Mac) -> Self {
        let [first, ..] = address.0;
        match first & 0x0c {
            0x00 => Self::Aai,
            0x08 => Self::Eli,
            0x04 => Self::Reserved,
            _ => Self::Sai,
        }
    }
}

/// An option is longer than the 65,535 octets that its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {option} has {length} octets, more than its length field can say: put less into it")]
pub struct TooLong {
    /// The option's code.
    pub option: u16,
    /// Its length in octets.
    pub length: usize,
}

/// What options stand in, which says which of them may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Message,
    IaLl,
}

pub(crate) fn status_of(options: &[DhcpOption]) -> Option<&Status> {
    options.iter().find_map(|option| match option {
        DhcpOption::StatusCode(status) => Some(status),
        _ => None,
    })
}

pub(crate) fn flow_of(options: &[DhcpOption]) -> Option<&FlowOption> {
    options.iter().find_map(|option| match option {
        DhcpOption::Flow(flow) => Some(flow),
        _ => None,
    })
}

pub(crate) fn ia_lls(options: &[DhcpOption]) -> impl Iterator<Item = &IaLl> {
    options.iter().filter_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia),
        _ => None,
    })
}

/// All options up to the end of `reader`. IA_LL may hold LLADDR, and neither may hold the other way round: that
/// bounds the nesting.
pub(crate) fn parse_all(reader: &mut Reader<'_>, scope: Scope) -> Result<Vec<DhcpOption>, ParseError> {
    let mut options = Vec::new();
    while !reader.is_empty() {
        let (code, mut value) = reader.option()?;
        let start = value;
        if !may_stand(code, scope) {
            return Err(start.error(Problem::Misplaced));
        }
        let option = parse_one(code, &mut value)?;
        value.finish()?;
        if stands_once(&option) && options.iter().any(|other| discriminant(other) == discriminant(&option)) {
            return Err(start.error(Problem::Duplicate));
        }
        options.push(option);
    }
    Ok(options)
}

pub(crate) fn emit_all(options: &[DhcpOption], out: &mut Vec<u8>) -> Result<(), TooLong> {
    options.iter().try_for_each(|option| emit_one(option, out))
}

/// `code, length, value`.
pub(crate) fn emit_raw(code: u16, value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = u16::try_from(value.len()).map_err(|_| TooLong { option: code, length: value.len() })?;
    out.extend(code.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(value);
    Ok(())
}

pub(crate) fn parse_raw(reader: &mut Reader<'_>) -> Result<Vec<RawOption>, ParseError> {
    let mut options = Vec::new();
    while !reader.is_empty() {
        let (code, mut value) = reader.option()?;
        options.push(RawOption { code, data: value.take_rest().to_vec() });
    }
    Ok(options)
}

const fn may_stand(code: u16, scope: Scope) -> bool {
    match code {
        code::STATUS_CODE | code::VENDOR => true,
        code::LLADDR | code::QUAD => matches!(scope, Scope::IaLl),
        _ if code::name(code).is_some() => matches!(scope, Scope::Message),
        _ => true,
    }
}

const fn stands_once(option: &DhcpOption) -> bool {
    !matches!(option, DhcpOption::IaLl(_) | DhcpOption::LlAddr(_) | DhcpOption::Unknown(_))
}

fn parse_one(code: u16, value: &mut Reader<'_>) -> Result<DhcpOption, ParseError> {
    Ok(match code {
        code::CLIENT_ID => DhcpOption::ClientId(parse_duid(value)?),
        code::SERVER_ID => DhcpOption::ServerId(parse_duid(value)?),
        code::OPTION_REQUEST => DhcpOption::OptionRequest(parse_list(value, Reader::u16)?),
        code::PREFERENCE => DhcpOption::Preference(value.u8()?),
        code::ELAPSED_TIME => DhcpOption::ElapsedTime(value.u16()?),
        code::STATUS_CODE => DhcpOption::StatusCode(parse_status(value)?),
        code::RAPID_COMMIT => DhcpOption::RapidCommit,
        code::VENDOR => parse_vendor(value)?,
        code::SOL_MAX_RT => DhcpOption::SolMaxRt(value.u32()?),
        code::IA_LL => DhcpOption::IaLl(parse_ia_ll(value)?),
        code::LLADDR => DhcpOption::LlAddr(parse_lladdr(value)?),
        code::QUAD => DhcpOption::Quad(parse_list(value, parse_quadrant)?),
        _ => DhcpOption::Unknown(RawOption { code, data: value.take_rest().to_vec() }),
    })
}

fn parse_duid(value: &mut Reader<'_>) -> Result<Duid, ParseError> {
    let start = *value;
    Duid::new(value.take_rest()).map_err(|error| start.error(Problem::DuidLength(error.0)))
}

fn parse_list<'a, T>(
    value: &mut Reader<'a>,
    item: fn(&mut Reader<'a>) -> Result<T, ParseError>,
) -> Result<Vec<T>, ParseError> {
    let mut list = Vec::new();
    while !value.is_empty() {
        list.push(item(value)?);
    }
    Ok(list)
}

fn parse_quadrant(value: &mut Reader<'_>) -> Result<QuadrantPreference, ParseError> {
    Ok(QuadrantPreference { quadrant: value.u8()?, preference: value.u8()? })
}

fn parse_status(value: &mut Reader<'_>) -> Result<Status, ParseError> {
    let code = StatusCode::from_u16(value.u16()?);
    let start = *value;
    let text = core::str::from_utf8(value.take_rest()).map_err(|_| start.error(Problem::NotUtf8))?;
    Ok(Status::new(code, text))
}

fn parse_vendor(value: &mut Reader<'_>) -> Result<DhcpOption, ParseError> {
    let mut whole = *value;
    if value.u32()? == ENTERPRISE {
        return Ok(DhcpOption::Flow(FlowOption::parse(value)?));
    }
    value.take_rest();
    Ok(DhcpOption::Unknown(RawOption { code: code::VENDOR, data: whole.take_rest().to_vec() }))
}

fn parse_ia_ll(value: &mut Reader<'_>) -> Result<IaLl, ParseError> {
    let (iaid, t1, t2) = (value.u32()?, value.u32()?, value.u32()?);
    Ok(IaLl { iaid, t1, t2, options: parse_all(value, Scope::IaLl)? })
}

fn parse_lladdr(value: &mut Reader<'_>) -> Result<LlAddr, ParseError> {
    let link_type = value.u16()?;
    let length = value.u16()?;
    let address = value.take(length.into())?.to_vec();
    let (extra, valid_lifetime) = (value.u32()?, value.u32()?);
    Ok(LlAddr { link_type, address, extra, valid_lifetime, options: parse_raw(value)? })
}

fn emit_one(option: &DhcpOption, out: &mut Vec<u8>) -> Result<(), TooLong> {
    match option {
        DhcpOption::ClientId(duid) => emit_raw(code::CLIENT_ID, duid.as_bytes(), out),
        DhcpOption::ServerId(duid) => emit_raw(code::SERVER_ID, duid.as_bytes(), out),
        DhcpOption::OptionRequest(codes) => {
            let value: Vec<u8> = codes.iter().flat_map(|code| code.to_be_bytes()).collect();
            emit_raw(code::OPTION_REQUEST, &value, out)
        }
        DhcpOption::Preference(preference) => emit_raw(code::PREFERENCE, &[*preference], out),
        DhcpOption::ElapsedTime(time) => emit_raw(code::ELAPSED_TIME, &time.to_be_bytes(), out),
        DhcpOption::StatusCode(status) => {
            let value = [&status.code.to_u16().to_be_bytes(), status.text.as_bytes()].concat();
            emit_raw(code::STATUS_CODE, &value, out)
        }
        DhcpOption::RapidCommit => emit_raw(code::RAPID_COMMIT, &[], out),
        DhcpOption::Flow(flow) => emit_raw(code::VENDOR, &flow.emit()?, out),
        DhcpOption::SolMaxRt(seconds) => emit_raw(code::SOL_MAX_RT, &seconds.to_be_bytes(), out),
        DhcpOption::IaLl(ia) => emit_raw(code::IA_LL, &ia_ll_value(ia)?, out),
        DhcpOption::LlAddr(block) => emit_raw(code::LLADDR, &lladdr_value(block)?, out),
        DhcpOption::Quad(wishes) => {
            let value: Vec<u8> = wishes.iter().flat_map(|wish| [wish.quadrant, wish.preference]).collect();
            emit_raw(code::QUAD, &value, out)
        }
        DhcpOption::Unknown(raw) => emit_raw(raw.code, &raw.data, out),
    }
}

fn ia_ll_value(ia: &IaLl) -> Result<Vec<u8>, TooLong> {
    let mut value: Vec<u8> = [ia.iaid, ia.t1, ia.t2].into_iter().flat_map(u32::to_be_bytes).collect();
    emit_all(&ia.options, &mut value)?;
    Ok(value)
}

fn lladdr_value(block: &LlAddr) -> Result<Vec<u8>, TooLong> {
    let too_long = |_| TooLong { option: code::LLADDR, length: block.address.len() };
    let length = u16::try_from(block.address.len()).map_err(too_long)?;
    let mut value: Vec<u8> = [block.link_type, length].into_iter().flat_map(u16::to_be_bytes).collect();
    value.extend(&block.address);
    value.extend([block.extra, block.valid_lifetime].into_iter().flat_map(u32::to_be_bytes));
    for option in &block.options {
        emit_raw(option.code, &option.data, &mut value)?;
    }
    Ok(value)
}
