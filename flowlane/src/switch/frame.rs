//! A frame in this process's memory, as the pipeline sees it.

use flowlane_pipeline::Frame;
use flowlane_ports::af_packet::Offload;

/// Octets, and what the sender left undone.
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    offload: Offload,
}

impl<'a> Buffer<'a> {
    /// A frame with its offload.
    pub fn new(bytes: &'a mut [u8], offload: Offload) -> Self {
        Self { bytes, offload }
    }
}

impl Frame for Buffer<'_> {
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }

    fn len(&self) -> u32 {
        <[u8]>::len(self.bytes) as u32
    }

    fn gso_size(&self) -> u32 {
        self.offload.segmentation.map_or(0, |segmentation| u32::from(segmentation.size))
    }
}
