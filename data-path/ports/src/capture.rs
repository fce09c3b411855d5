//! Capture files of Ethernet frames: pcap and pcapng in, pcapng out.

use pcap_file::DataLink;
use pcap_file::pcap::{PcapReadError, PcapReader, PcapTsResolution, RawPcapPacket};
use pcap_file::pcapng::blocks::block_common::{Block, ENHANCED_PACKET_BLOCK, PACKET_BLOCK, SIMPLE_PACKET_BLOCK};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::{INTERFACE_DESCRIPTION_BLOCK, SECTION_HEADER_BLOCK};
use pcap_file::pcapng::{PcapNgReadError, PcapNgReader, PcapNgWriteError, PcapNgWriter};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Chain, Cursor, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

/// An interface that frames of a capture came in or went out by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as that of a port; empty where the file has none.
    pub name: String,
    /// What it is; empty where the file does not say.
    pub description: String,
}

/// A frame out of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedFrame {
    /// When it was captured, since 1970-01-01 00:00 UTC; a simple packet block (pcapng section 4.4) does not say.
    pub timestamp: Option<Duration>,
    /// The number of its interface in [`CaptureReader::interfaces`].
    pub interface: usize,
    /// The octets in the file, from the destination address on.
    pub bytes: Vec<u8>,
    /// How long the frame was on the wire, in octets.
    pub original_len: usize,
}

impl CapturedFrame {
    /// Whether the file has less than the whole frame.
    pub fn is_truncated(&self) -> bool {
        self.bytes.len() < self.original_len
    }
}

/// Why a capture file can not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file can not be read or written.
    #[error("the capture file can not be read or written: {0}")]
    Io(#[from] io::Error),
    /// The first octets are those of another kind of file.
    #[error("this is neither a pcap nor a pcapng file")]
    NotACapture,
    /// The file ends in the middle of a frame, or has a block of more than 8 MB.
    #[error("the capture file ends in the middle of a block: the capture was interrupted, or the file is damaged")]
    CutShort,
    /// The file breaks the rules of its format.
    #[error("the capture file is damaged: {0}")]
    Malformed(String),
    /// A frame that is not Ethernet. The frames of other interfaces can still be read.
    #[error("interface {interface} is not an Ethernet but of link type {link_type}: capture on an Ethernet interface")]
    NotEthernet {
        /// The interface's number in [`CaptureReader::interfaces`].
        interface: usize,
        /// Its link type, by the registry of tcpdump.org.
        link_type: u32,
    },
    /// A frame, name or comment that the format has no room for.
    #[error("this can not be written to a capture file: {0}")]
    Unwritable(String),
}

/// The frames of a capture file, in order. Damage ends the iteration with an error, never with a panic.
pub struct CaptureReader<R: Read> {
    format: Format<R>,
    interfaces: Vec<Interface>,
    link_types: Vec<DataLink>,
    /// The first interface of the current pcapng section: a section numbers its interfaces from 0.
    section: usize,
    done: bool,
}

/// A file of which the first four octets have been looked at.
type Source<R> = Chain<Cursor<[u8; 4]>, R>;

enum Format<R: Read> {
    Pcap(PcapReader<Source<R>>),
    PcapNg(PcapNgReader<Source<R>>),
}

impl CaptureReader<File> {
    /// Opens a capture file.
    ///
    /// # Errors
    /// As [`CaptureReader::new`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CaptureError> {
        Self::new(File::open(path)?)
    }
}

impl<R: Read> CaptureReader<R> {
    /// Reads a capture, such as a file or standard input. Both formats are known by their first octets.
    ///
    /// # Errors
    /// [`CaptureError::NotACapture`], [`CaptureError::Io`], [`CaptureError::NotEthernet`] for a pcap file.
    pub fn new(mut input: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        input.read_exact(&mut magic).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => CaptureError::NotACapture,
            _ => error.into(),
        })?;
        let source = Cursor::new(magic).chain(input);
        match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => Self::pcapng(source),
            [0xa1, 0xb2, ..] | [0xd4, 0xc3, ..] | [0x4d, 0x3c, ..] => Self::pcap(source),
            _ => Err(CaptureError::NotACapture),
        }
    }

    /// The interfaces seen so far: a pcap file has one without a name, a pcapng file names them before their frames.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn pcapng(source: Source<R>) -> Result<Self, CaptureError> {
        let format = Format::PcapNg(PcapNgReader::new(source)?);
        Ok(Self { format, interfaces: Vec::new(), link_types: Vec::new(), section: 0, done: false })
    }

    fn pcap(source: Source<R>) -> Result<Self, CaptureError> {
        let reader = PcapReader::new(source)?;
        let link_type = reader.header().datalink;
        ethernet(0, link_type)?;
        let (interfaces, link_types) = (vec![Interface::default()], vec![link_type]);
        Ok(Self { format: Format::Pcap(reader), interfaces, link_types, section: 0, done: false })
    }

    /// The next frame, or none at the end.
    fn read(&mut self) -> Option<Result<CapturedFrame, CaptureError>> {
        match &mut self.format {
            Format::Pcap(reader) => {
                let resolution = reader.header().ts_resolution;
                let packet = reader.next_raw_packet()?;
                Some(packet.map(|packet| from_pcap(packet, resolution)).map_err(CaptureError::from))
            }
            Format::PcapNg(_) => loop {
                match self.read_block() {
                    None => return None,
                    Some(Ok(None)) => {}
                    Some(Ok(Some(frame))) => return Some(Ok(frame)),
                    Some(Err(error)) => return Some(Err(error)),
                }
            },
        }
    }

    /// The next block, with a frame if it is a block that has one. Only blocks of frames and interfaces are decoded.
    fn read_block(&mut self) -> Option<Result<Option<CapturedFrame>, CaptureError>> {
        let Format::PcapNg(reader) = &mut self.format else { return None };
        let (block, state) = match reader.next_raw_block()? {
            Ok(block) => block,
            Err(error) => return Some(Err(error.into())),
        };
        match block.type_ {
            SECTION_HEADER_BLOCK => self.section = self.interfaces.len(),
            INTERFACE_DESCRIPTION_BLOCK => {
                if let Some(described) = state.interfaces().last() {
                    self.interfaces.push(interface(described));
                    self.link_types.push(described.linktype);
                }
            }
            ENHANCED_PACKET_BLOCK | SIMPLE_PACKET_BLOCK | PACKET_BLOCK => {
                let frame = match block.try_into_block(state) {
                    Ok(block) => from_block(block, self.section)?,
                    Err(error) => return Some(Err(CaptureError::Malformed(text(&error)))),
                };
                let link_type = self.link_types.get(frame.interface).copied();
                let checked = link_type.map_or(Ok(()), |link_type| ethernet(frame.interface, link_type));
                return Some(checked.map(|()| Some(frame)));
            }
            _ => {}
        }
        Some(Ok(None))
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<CapturedFrame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read();
        self.done = !matches!(next, Some(Ok(_) | Err(CaptureError::NotEthernet { .. })));
        next
    }
}

/// Which way a frame went, seen from the interface: `epb_flags` of pcapng section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Inbound,
    /// It went out.
    Outbound,
}

/// A frame to be written to a capture file.
#[derive(Clone, Copy, Debug)]
pub struct FrameRecord<'a> {
    /// When it was seen, since 1970-01-01 00:00 UTC; written to the nanosecond.
    pub timestamp: Duration,
    /// The number of its interface, in the order given to [`CaptureWriter::new`].
    pub interface: usize,
    /// The whole frame or its beginning, from the destination address on.
    pub bytes: &'a [u8],
    /// How long the frame was on the wire, in octets.
    pub original_len: usize,
    /// Which way it went.
    pub direction: Option<Direction>,
    /// Anything to be said about it, shown by Wireshark beside the frame; at most 65,535 octets.
    pub comment: Option<&'a str>,
}

/// Writes a pcapng file.
pub struct CaptureWriter<W: Write> {
    writer: PcapNgWriter<W>,
}

impl<W: Write> CaptureWriter<W> {
    /// Starts a capture of these interfaces. Give a `BufWriter`: each field is a write of its own.
    ///
    /// # Errors
    /// [`CaptureError::Io`], [`CaptureError::Unwritable`] for a name of more than 65,535 octets.
    pub fn new(output: W, interfaces: &[Interface]) -> Result<Self, CaptureError> {
        let mut writer = PcapNgWriter::new(output)?;
        for interface in interfaces {
            writer.write_pcapng_block(description(interface))?;
        }
        Ok(Self { writer })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// [`CaptureError::Io`], [`CaptureError::Unwritable`] for an interface that was not given at the start, a time
    /// after the year 2554, a comment too long, or a frame longer than on the wire. Nothing of such a frame is written.
    pub fn write(&mut self, frame: &FrameRecord<'_>) -> Result<(), CaptureError> {
        let number = |n: usize| u32::try_from(n).map_err(|_| CaptureError::Unwritable("a number over 2^32".into()));
        let mut options = Vec::new();
        options.extend(frame.direction.map(|direction| EnhancedPacketOption::Flags(flags(direction))));
        options.extend(frame.comment.map(|text| EnhancedPacketOption::Common(CommonOption::Comment(text.into()))));
        let block = EnhancedPacketBlock {
            interface_id: number(frame.interface)?,
            timestamp: frame.timestamp,
            original_len: number(frame.original_len)?,
            data: Cow::Borrowed(frame.bytes),
            options,
        };
        self.writer.write_pcapng_block(block)?;
        Ok(())
    }

    /// Passes what is buffered on to the file.
    ///
    /// # Errors
    /// [`CaptureError::Io`].
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        Ok(self.writer.get_mut().flush()?)
    }

    /// Ends the capture and gives the file back, unflushed.
    pub fn into_inner(self) -> W {
        self.writer.into_inner()
    }
}

fn ethernet(interface: usize, link_type: DataLink) -> Result<(), CaptureError> {
    match link_type {
        DataLink::ETHERNET => Ok(()),
        other => Err(CaptureError::NotEthernet { interface, link_type: other.into() }),
    }
}

/// A pcap record. Its fields are taken as they stand: a fraction of a second or more carries over.
fn from_pcap(packet: RawPcapPacket<'_>, resolution: PcapTsResolution) -> CapturedFrame {
    let fraction = match resolution {
        PcapTsResolution::MicroSecond => Duration::from_micros(packet.ts_frac.into()),
        PcapTsResolution::NanoSecond => Duration::from_nanos(packet.ts_frac.into()),
    };
    let bytes = packet.data.into_owned();
    let original_len = (packet.orig_len as usize).max(bytes.len());
    CapturedFrame {
        timestamp: Some(Duration::from_secs(packet.ts_sec.into()) + fraction),
        interface: 0,
        bytes,
        original_len,
    }
}

/// The frame of a block in the section whose first interface has the number `section`.
fn from_block(block: Block<'_>, section: usize) -> Option<CapturedFrame> {
    let (timestamp, interface, data, original_len) = match block {
        Block::EnhancedPacket(of) => (Some(of.timestamp), of.interface_id as usize, of.data, of.original_len),
        Block::Packet(of) => (Some(of.timestamp), usize::from(of.interface_id), of.data, of.original_len),
        Block::SimplePacket(of) => (None, 0, of.data, of.original_len),
        _ => return None,
    };
    let (interface, bytes) = (section + interface, data.into_owned());
    Some(CapturedFrame { timestamp, interface, bytes, original_len: original_len as usize })
}

fn interface(described: &InterfaceDescriptionBlock<'_>) -> Interface {
    let mut interface = Interface::default();
    for option in &described.options {
        match option {
            InterfaceDescriptionOption::IfName(name) => interface.name = name.to_string(),
            InterfaceDescriptionOption::IfDescription(text) => interface.description = text.to_string(),
            _ => {}
        }
    }
    interface
}

fn description(interface: &Interface) -> InterfaceDescriptionBlock<'_> {
    let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
    block.options.push(InterfaceDescriptionOption::IfName(interface.name.as_str().into()));
    block.options.push(InterfaceDescriptionOption::IfDescription(interface.description.as_str().into()));
    block.options.push(InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO));
    block
}

/// `epb_flags`, pcapng section 4.3.1: bits 0 and 1.
fn flags(direction: Direction) -> u32 {
    match direction {
        Direction::Inbound => 1,
        Direction::Outbound => 2,
    }
}

/// An error with its causes, which the library keeps apart.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn io_error(error: io::Error) -> CaptureError {
    match error.kind() {
        ErrorKind::UnexpectedEof => CaptureError::CutShort,
        _ => CaptureError::Io(error),
    }
}

impl From<PcapReadError> for CaptureError {
    fn from(error: PcapReadError) -> Self {
        match error {
            PcapReadError::Io(error) => io_error(error),
            other => Self::Malformed(text(&other)),
        }
    }
}

impl From<PcapNgReadError> for CaptureError {
    fn from(error: PcapNgReadError) -> Self {
        match error {
            PcapNgReadError::Io(error) => io_error(error),
            other => Self::Malformed(text(&other)),
        }
    }
}

impl From<PcapNgWriteError> for CaptureError {
    fn from(error: PcapNgWriteError) -> Self {
        match error {
            PcapNgWriteError::Io(error) => Self::Io(error),
            other => Self::Unwritable(text(&other)),
        }
    }
}
