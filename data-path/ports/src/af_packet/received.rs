//! A received frame, as the pipeline sees it.

use super::Offload;
use flowlane_pipeline::Frame;
use std::time::Duration;

/// A received frame, in place.
#[derive(Debug)]
pub struct RxFrame<'a> {
    /// The whole Ethernet frame without check sequence, VLAN tags included, as it was on the wire.
    pub bytes: &'a mut [u8],
    /// What the sender left undone; hand it on with the frame.
    pub offload: Offload,
    /// When the kernel received the frame, since 1970-01-01 00:00 UTC.
    pub timestamp: Duration,
}

impl Frame for RxFrame<'_> {
    #[inline(always)]
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.at(offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        Frame::len(&self.bytes)
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.offload.segmentation.as_ref().map_or(0, |segmentation| u32::from(segmentation.size))
    }
}
