//! A cursor over octets from the network. Every step is checked; errors say where and in which option.

use crate::option::code;
use core::fmt;

/// Octets still to be read, and where they stand in the UDP payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
    option: Option<u16>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, offset: 0, option: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` octets.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ParseError> {
        let left = self.rest.len();
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.error(Problem::Truncated { wanted: count, left }))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// All octets that are left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        self.offset = self.offset.saturating_add(self.rest.len());
        core::mem::take(&mut self.rest)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let left = self.rest.len();
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.error(Problem::Truncated { wanted: N, left }))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ParseError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ParseError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next option: its code and a reader of its value (RFC 9915 section 21.1).
    pub(crate) fn option(&mut self) -> Result<(u16, Self), ParseError> {
        let code = self.u16()?;
        Ok((code, self.value(Some(code))?))
    }

    /// The next sub-option of this option: its code and a reader of its value. Its errors name the option.
    pub(crate) fn sub_option(&mut self) -> Result<(u16, Self), ParseError> {
        Ok((self.u16()?, self.value(self.option)?))
    }

    fn value(&mut self, option: Option<u16>) -> Result<Self, ParseError> {
        let length = self.u16()?;
        let mut value = Self { option, ..*self };
        value.rest = value.take(length.into())?;
        value.offset = self.offset;
        self.take(length.into())?;
        Ok(value)
    }

    /// Refuses octets that nobody has read.
    pub(crate) fn finish(&self) -> Result<(), ParseError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(Problem::Trailing { left })),
        }
    }

    pub(crate) fn error(&self, problem: Problem) -> ParseError {
        ParseError { offset: self.offset, option: self.option, problem }
    }
}

/// Why a payload is not a DHCPv6 message. The message is dropped: RFC 9915 section 16 leaves that to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Octets from the start of the UDP payload.
    pub offset: usize,
    /// The code of the innermost option there, if it is in one.
    pub option: Option<u16>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.option {
            Some(option) => write!(f, "octet {}, option {option}", self.offset)?,
            None => write!(f, "octet {}", self.offset)?,
        }
        if let Some(name) = self.option.and_then(code::name) {
            write!(f, " ({name})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What is wrong at a place of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A length says more than there is.
    #[error("{wanted} octets are announced, {left} are there")]
    Truncated {
        /// How many octets should follow.
        wanted: usize,
        /// How many do.
        left: usize,
    },
    /// An option of fixed form is longer than its form.
    #[error("{left} octets too many")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// RFC 9915 section 7.3 has no such message; it must be discarded (section 16).
    #[error("message type {0} is unknown")]
    UnknownMessage(u8),
    /// A Relay-forward or Relay-reply (RFC 9915 section 9): flow addresses are asked for on the link itself.
    #[error("a relay's message; ask from the link that the flow starts on")]
    Relayed,
    /// The option may not stand where it stands.
    #[error("the option may not stand here")]
    Misplaced,
    /// The option may stand there once only.
    #[error("the option stands here twice")]
    Duplicate,
    /// A DUID has 3 to 130 octets (RFC 9915 section 11.1).
    #[error("a DUID of {0} octets; it has 3 to 130")]
    DuidLength(usize),
    /// A text is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A field holds a value that it may not hold; the text says which are allowed.
    #[error("{0}")]
    Value(&'static str),
}
