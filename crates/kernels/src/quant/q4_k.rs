//! Q4_K: 256 nibbles in eight sub-blocks of 32 with 6-bit scales and minima; 4.5 bits per weight.

use super::{Block, N_SUB, SUPER, Super, WithMins};

/// 256 weights: `weight = d * scale * nibble - dmin * min`.
///
/// Each 32 bytes of `qs` hold 64 weights: 32 in the low nibbles, the next 32 in the high ones.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct BlockQ4K {
    /// `d`, `dmin` (f16), and 12 bytes of scales and minima.
    header: [u8; 16],
    pub(crate) qs: [u8; SUPER / 2],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

// SAFETY: arrays of bytes only.
unsafe impl Block for BlockQ4K {}

/// Unpacks the eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K, one per byte.
///
/// After the four bytes of `d` and `dmin`, bytes 0..4 hold scales 0..4 in their low six bits, bytes 4..8 the minima 0..4;
/// bytes 8..12 hold the low four bits of scales 4..8 (low nibble) and minima 4..8 (high nibble), whose upper two bits are
/// the top bits of bytes 0..4 and 4..8.
#[inline(always)]
pub(super) fn unpack_scales_and_mins(header: &[u8; 16]) -> ([u8; 8], [u8; 8]) {
    let [_, _, _, _, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *header;
    let a = u32::from_le_bytes([a0, a1, a2, a3]);
    let b = u32::from_le_bytes([b0, b1, b2, b3]);
    let c = u32::from_le_bytes([c0, c1, c2, c3]);
    let scales_high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let mins_high = ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030);
    let scales = u64::from(a & 0x3f3f_3f3f) | (u64::from(scales_high) << 32);
    let mins = u64::from(b & 0x3f3f_3f3f) | (u64::from(mins_high) << 32);
    (scales.to_le_bytes(), mins.to_le_bytes())
}

/// Repeats each of eight values, for sub-blocks of 16.
#[inline(always)]
pub(super) fn twice(values: [u8; 8]) -> [u8; N_SUB] {
    let mut out = [0; N_SUB];
    for i in 0..N_SUB {
        out[i] = values[i / 2];
    }
    out
}

/// The low and the high nibbles of `qs` in the order of Q4_K and Q5_K.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8; SUPER / 2]) -> [u8; SUPER] {
    let mut codes = [0; SUPER];
    for j in 0..4 {
        for i in 0..32 {
            codes[64 * j + i] = qs[32 * j + i] & 15;
            codes[64 * j + 32 + i] = qs[32 * j + i] >> 4;
        }
    }
    codes
}

impl Super for BlockQ4K {
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
        nibbles(&self.qs)
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

impl WithMins for BlockQ4K {
    #[inline(always)]
    fn header(&self) -> &[u8; 16] {
        &self.header
    }
}
