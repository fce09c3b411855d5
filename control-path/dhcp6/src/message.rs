//! Client and server messages, RFC 9915 section 8.

use crate::option::{self, DhcpOption, Scope, TooLong};
use crate::reader::{ParseError, Problem, Reader};
use core::fmt;

/// A message between a client and a server, RFC 9915 section 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it asks or answers.
    pub kind: MessageType,
    /// Which question the answer belongs to; the client chooses it.
    pub transaction: TransactionId,
    /// The options, in their order on the wire.
    pub options: Vec<DhcpOption>,
}

impl Message {
    /// The message in a UDP payload.
    ///
    /// Unknown options are kept as they are; known ones must have their exact form and stand in their place.
    ///
    /// # Errors
    /// [`ParseError`] names the octet and the option. A relay's message is [`Problem::Relayed`].
    pub fn parse(payload: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(payload);
        let kind = parse_type(&mut reader)?;
        let transaction = TransactionId(reader.array()?);
        let options = option::parse_all(&mut reader, Scope::Message)?;
        Ok(Self { kind, transaction, options })
    }

    /// The UDP payload of the message.
    ///
    /// # Errors
    /// [`TooLong`] if an option has more than 65,535 octets.
    pub fn emit(&self) -> Result<Vec<u8>, TooLong> {
        let mut payload = vec![self.kind as u8];
        payload.extend(self.transaction.0);
        option::emit_all(&self.options, &mut payload)?;
        Ok(payload)
    }
}

/// What a message asks or answers, RFC 9915 section 7.3. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// A client looks for servers.
    Solicit = 1,
    /// A server offers.
    Advertise = 2,
    /// A client asks the server that it chose.
    Request = 3,
    /// Not used for link-layer addresses (RFC 8947 section 5).
    Confirm = 4,
    /// A client asks its server for more time.
    Renew = 5,
    /// A client asks any server for more time.
    Rebind = 6,
    /// A server answers.
    Reply = 7,
    /// A client gives addresses back.
    Release = 8,
    /// A client can not use the addresses.
    Decline = 9,
    /// A server asks clients to renew; not supported.
    Reconfigure = 10,
    /// Not used for link-layer addresses (RFC 8947 section 5).
    InformationRequest = 11,
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InformationRequest => f.write_str("Information-request"),
            kind => fmt::Debug::fmt(kind, f),
        }
    }
}

/// A client's number for one exchange, 24 bits, RFC 9915 section 16.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 3]);

fn parse_type(reader: &mut Reader<'_>) -> Result<MessageType, ParseError> {
    let start = *reader;
    Ok(match reader.u8()? {
        1 => MessageType::Solicit,
        2 => MessageType::Advertise,
        3 => MessageType::Request,
        4 => MessageType::Confirm,
        5 => MessageType::Renew,
        6 => MessageType::Rebind,
        7 => MessageType::Reply,
        8 => MessageType::Release,
        9 => MessageType::Decline,
        10 => MessageType::Reconfigure,
        11 => MessageType::InformationRequest,
        12 | 13 => return Err(start.error(Problem::Relayed)),
        other => return Err(start.error(Problem::UnknownMessage(other))),
    })
}
