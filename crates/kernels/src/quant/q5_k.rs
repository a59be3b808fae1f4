//! Q5_K: Q4_K with a fifth bit per weight; 5.5 bits per weight.

use super::q4_k::{nibbles, twice, unpack_scales_and_mins};
use super::{Block, N_SUB, SUPER, Super, WithMins};

/// 256 weights: `weight = d * scale * code - dmin * min`.
///
/// Nibbles as in Q4_K; bit `j` of `qh[i]` is bit 4 of the code of weight `32 * j + i`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ5K {
    /// `d`, `dmin` (f16), and 12 bytes of scales and minima.
    header: [u8; 16],
    pub(crate) qh: [u8; 32],
    pub(crate) qs: [u8; SUPER / 2],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ5K {}

impl Super for BlockQ5K {
    const OFFSET: i16 = 0;
    const HAS_MINS: bool = true;
    const SHARED: usize = 2;

    #[inline(always)]
    fn d(&self) -> u16 {
        u16::from_le_bytes([self.header[0], self.header[1]])
    }

    #[inline(always)]
    fn dmin(&self) -> u16 {
        u16::from_le_bytes([self.header[2], self.header[3]])
    }

    #[inline(always)]
    fn codes(&self) -> [u8; SUPER] {
        let mut codes = nibbles(&self.qs);
        for j in 0..8 {
            for i in 0..32 {
                codes[32 * j + i] |= ((self.qh[i] >> j) & 1) << 4;
            }
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [i8; N_SUB] {
        twice(unpack_scales_and_mins(&self.header).0).map(u8::cast_signed)
    }

    #[inline(always)]
    fn mins(&self) -> [u8; N_SUB] {
        twice(unpack_scales_and_mins(&self.header).1)
    }
}

impl WithMins for BlockQ5K {
    #[inline(always)]
    fn header(&self) -> &[u8; 16] {
        &self.header
    }
}
