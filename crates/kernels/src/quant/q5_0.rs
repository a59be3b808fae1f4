//! Q5_0: Q4_0 with a fifth bit per weight in a word of 32 bits; 5.5 bits per weight.

use super::{Block, SMALL, Small};

/// 32 weights: `weight = d * (code - 16)`. Nibbles as in Q4_0; bit `i` of `qh` is bit 4 of code `i`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ5_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qh: [u8; 4],
    pub(crate) qs: [u8; SMALL / 2],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ5_0 {}

impl Small for BlockQ5_0 {
    const OFFSET: i32 = 16;

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
        for i in 0..SMALL {
            let bit = self.qh[i / 8] & (1 << (i % 8));
            codes[i] |= if bit != 0 { 16 } else { 0 };
        }
        codes
    }
}
