//! Q6_K: 256 codes of six bits in sixteen sub-blocks with signed 8-bit scales; 6.5625 bits per weight.

use super::{Block, N_SUB, SUPER, Super};

/// 256 weights: `weight = d * scale * (code - 32)`.
///
/// Each half of 128 weights takes 64 bytes of `ql` (low four bits) and 32 bytes of `qh` (upper two). With `i` in `0..32`, weights
/// `i` and `i + 32` of the half are the low nibbles of `ql[i]` and `ql[i + 32]`, weights `i + 64` and `i + 96` the high ones,
/// and the four pairs of bits of `qh[i]`, lowest first, are their upper bits.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ6K {
    pub(crate) ql: [u8; SUPER / 2],
    pub(crate) qh: [u8; SUPER / 4],
    pub(crate) scales: [i8; N_SUB],
    pub(crate) d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ6K {}

impl Super for BlockQ6K {
    const OFFSET: i16 = 32;
    const HAS_MINS: bool = false;
    const SHARED: usize = 1;

    #[inline(always)]
    fn d(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    #[inline(always)]
    fn codes(&self) -> [u8; SUPER] {
        let mut codes = [0; SUPER];
        for half in 0..2 {
            for i in 0..32 {
                let (low, low_next) = (self.ql[64 * half + i], self.ql[64 * half + 32 + i]);
                let high = self.qh[32 * half + i];
                codes[128 * half + i] = (low & 15) | ((high & 3) << 4);
                codes[128 * half + 32 + i] = (low_next & 15) | (((high >> 2) & 3) << 4);
                codes[128 * half + 64 + i] = (low >> 4) | (((high >> 4) & 3) << 4);
                codes[128 * half + 96 + i] = (low_next >> 4) | (((high >> 6) & 3) << 4);
            }
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [i8; N_SUB] {
        self.scales
    }
}
