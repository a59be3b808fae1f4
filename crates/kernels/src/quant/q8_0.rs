//! Q8_0: 32 signed bytes and an f16 scale; 8.5 bits per weight.

use super::{Block, SMALL, Small};

/// 32 weights: `weight = d * q`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ8_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; SMALL],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ8_0 {}

impl Small for BlockQ8_0 {
    /// Flipping the sign bit of `q` adds 128.
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn d(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    #[inline(always)]
    fn codes(&self) -> [u8; SMALL] {
        let mut codes = self.qs;
        for code in &mut codes {
            *code ^= 0x80;
        }
        codes
    }
}
