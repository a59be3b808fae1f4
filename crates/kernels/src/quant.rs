//! Block formats of quantised weights, laid out as in ggml, and what kernels need to know of each.
//!
//! A format is either a [`Small`] block (32 weights, one scale) or a [`Super`] block (256 weights, 16 sub-blocks
//! with integer scales). Both hand out their weights as unsigned *codes* in natural order: `weight = scale * (code -
//! OFFSET)`. One portable definition per format serves dequantisation, the scalar kernels and, inlined into a function that
//! has a CPU's features, its SIMD kernels: the compiler turns these loops of fixed length into vector code.
//!
//! Source of all layouts: ggml's `ggml-common.h` (`block_q4_0` and so on), whose bytes GGUF files contain.

mod q4_0;
mod q4_k;
mod q5_0;
mod q5_k;
mod q6_k;
mod q8_0;
#[cfg(test)]
mod tests;

pub(crate) use q4_0::BlockQ4_0;
pub(crate) use q4_k::BlockQ4K;
pub(crate) use q5_0::BlockQ5_0;
pub(crate) use q5_k::BlockQ5K;
pub(crate) use q6_k::BlockQ6K;
pub(crate) use q8_0::BlockQ8_0;

/// Weights in a [`Small`] block.
pub(crate) const SMALL: usize = 32;
/// Weights in a [`Super`] block.
pub(crate) const SUPER: usize = 256;
/// Sub-blocks of a [`Super`] block. Formats with sub-blocks of 32 repeat each scale.
pub(crate) const N_SUB: usize = 16;
/// Weights in one of the [`N_SUB`] sub-blocks.
pub(crate) const SUB: usize = SUPER / N_SUB;

/// A block as it lies in a file.
///
/// # Safety
/// The type has alignment 1, no padding, and every bit pattern is a value of it.
pub(crate) unsafe trait Block: Copy {}

/// Views `bytes` as blocks; bytes after the last whole block are left out.
#[inline(always)]
pub(crate) fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1) };
    // SAFETY: `Block` promises alignment 1 and that every bit pattern is valid, and the length is rounded down.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// A block of 32 weights: `weight = d * (code - OFFSET)`.
pub(crate) trait Small: Block {
    /// What is subtracted from each code.
    const OFFSET: i32;

    /// The scale, as f16 bits.
    fn d(&self) -> u16;

    /// The weights' codes, in order.
    fn codes(&self) -> [u8; SMALL];
}

/// A block of 256 weights: `weight = d * scale[i / 16] * (code - OFFSET) - dmin * min[i / 16]`.
pub(crate) trait Super: Block {
    /// What is subtracted from each code.
    const OFFSET: i16;
    /// Whether there are minima; without them `dmin` and `mins` are zero.
    const HAS_MINS: bool;
    /// Sub-blocks of 16 that share a scale.
    const SHARED: usize;

    /// The scale of the block, as f16 bits.
    fn d(&self) -> u16;

    /// The scale of the minima, as f16 bits.
    fn dmin(&self) -> u16 {
        0
    }

    /// The weights' codes, in order.
    fn codes(&self) -> [u8; SUPER];

    /// The scale of each sub-block of 16 weights.
    fn scales(&self) -> [i8; N_SUB];

    /// The minimum of each sub-block of 16 weights.
    fn mins(&self) -> [u8; N_SUB] {
        [0; N_SUB]
    }
}

/// A super-block with minima, Q4_K or Q5_K: these begin alike.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "only vector kernels unpack the headers of many rows at once")
)]
pub(crate) trait WithMins: Super {
    /// `d`, `dmin` (f16), and 12 bytes of scales and minima.
    fn header(&self) -> &[u8; 16];
}

/// Converts the bits of an f16 to f32, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32_const()
}

/// Dequantises a row of small blocks. `out`: `[n_cols]`
pub(crate) fn dequantize_small<B: Small>(row: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<B>(row).iter().zip(out.chunks_exact_mut(SMALL)) {
        let d = f16_to_f32(block.d());
        for (out, code) in out.iter_mut().zip(block.codes()) {
            *out = (i32::from(code) - B::OFFSET) as f32 * d;
        }
    }
}

/// Dequantises a row of super-blocks. `out`: `[n_cols]`
pub(crate) fn dequantize_super<B: Super>(row: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<B>(row).iter().zip(out.chunks_exact_mut(SUPER)) {
        let (d, dmin) = (f16_to_f32(block.d()), f16_to_f32(block.dmin()));
        let (codes, scales, mins) = (block.codes(), block.scales(), block.mins());
        for (i, (out, code)) in out.iter_mut().zip(codes).enumerate() {
            let scale = d * f32::from(scales[i / SUB]);
            let weight = scale * f32::from(i16::from(code) - B::OFFSET);
            *out = if B::HAS_MINS { weight - dmin * f32::from(mins[i / SUB]) } else { weight };
        }
    }
}
