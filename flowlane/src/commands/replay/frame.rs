//! A frame out of a capture, as the pipeline sees it.

use flowlane_pipeline::{Frame, Network, network};
use flowlane_ports::capture::CapturedFrame;
use flowlane_wire::header::{ipv4, ipv6};
use std::net::IpAddr;

/// The octets that the capture has, and the length that the frame had.
pub struct Replayed {
    octets: Vec<u8>,
    len: u32,
}

impl Replayed {
    /// A copy of a frame.
    pub fn of(captured: &CapturedFrame) -> Self {
        let len = captured.original_len.max(captured.bytes.len());
        Self { octets: captured.bytes.clone(), len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    /// The octets as they are now.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The IP destination, if the frame is an IP packet.
    pub fn destination(&mut self) -> Option<IpAddr> {
        match network(self) {
            Network::V4(offset) => self.at::<4>(offset + ipv4::DESTINATION).map(|octets| IpAddr::from(*octets)),
            Network::V6(offset) => self.at::<16>(offset + ipv6::DESTINATION).map(|octets| IpAddr::from(*octets)),
            Network::Other | Network::Truncated => None,
        }
    }
}

impl Frame for Replayed {
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.octets.get_mut(offset..)?.first_chunk_mut()
    }

    fn len(&self) -> u32 {
        self.len
    }
}
