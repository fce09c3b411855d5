//! A frame whose octets, length and surroundings are anything.

use flowlane_pipeline::Frame;

/// A frame as an entry is given it: octets somewhere in memory, and what the kernel would keep beside them.
#[repr(C)]
pub struct Given {
    octets: *mut u8,
    length: u64,
    gso_size: u64,
    tag_beside: u64,
}

/// A frame in the pipeline's eyes. It is in the octets that a tag beside them is not.
pub(crate) struct Octets<'a> {
    bytes: &'a mut [u8],
    gso_size: u32,
    has_tag_beside: bool,
}

impl<'a> Octets<'a> {
    /// The frame that was given.
    ///
    /// # Safety
    /// There are `length` octets at `octets`, and nobody else uses them for as long as the frame lives.
    #[inline(always)]
    pub unsafe fn of(given: &'a Given) -> Self {
        // SAFETY: as the caller promises.
        let bytes = unsafe { core::slice::from_raw_parts_mut(given.octets, given.length as usize) };
        Self { bytes, gso_size: given.gso_size as u32, has_tag_beside: given.tag_beside != 0 }
    }
}

impl Frame for Octets<'_> {
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
        self.gso_size
    }

    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        self.has_tag_beside
    }
}
