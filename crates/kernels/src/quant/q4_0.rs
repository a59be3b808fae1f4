//! Q4_0: 32 nibbles and an f16 scale; 4.5 bits per weight.

use super::{Block, SMALL, Small};

/// 32 weights: `weight = d * (nibble - 8)`. Low nibbles are the first 16 weights, high nibbles the last 16.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ4_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; SMALL / 2],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ4_0 {}

impl Small for BlockQ4_0 {
    const OFFSET: i32 = 8;

    #[inline(always)]
    fn d(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    #[inline(always)]
    fn codes(&self) -> [u8; SMALL] {
        let mut codes = [0; SMALL];
        for i in 0..SMALL / 2 {
            codes[i] = self.qs[i] & 15;
            codes[i + SMALL / 2] = self.qs[i] >> 4;
        }
        codes
    }
}
