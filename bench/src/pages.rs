//! Page-aligned buffers, as O_DIRECT asks for them.

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// Bytes in a page, and in a block of the caches that are measured.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A buffer that begins on a page boundary and is whole pages long.
pub(crate) struct PageBuffer {
    pages: Vec<Page>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

impl PageBuffer {
    /// A buffer of zeros, `bytes` long, rounded up to whole pages.
    pub(crate) fn new(bytes: usize) -> Self {
        let count = bytes.div_ceil(PAGE_BYTES).max(1);
        Self { pages: (0..count).map(|_| Page::new_zeroed()).collect() }
    }

    /// The whole buffer, to read into.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_slice().as_mut_bytes()
    }

    /// The whole buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.pages.as_slice().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_whole_pages_long() {
        for (asked, given) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20)]
        {
            let mut buffer = PageBuffer::new(asked);
            assert_eq!(buffer.bytes().len(), given);
            assert_eq!(buffer.bytes_mut().as_ptr() as usize % PAGE_BYTES, 0);
        }
    }
}
