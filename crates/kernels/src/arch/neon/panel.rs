//! Panels times tokens: 16 rows in four vectors of sums.
//!
//! With `sdot` a vector holds four columns of four rows, and four activations are a lane of another one, so that one load
//! of activations serves 16 columns. With `smmla` it holds eight columns of two rows, and meets two tokens at once; the sums
//! are put in order at the end. Without either, products of eight bytes are added in 16 bits as long as they fit.

use std::arch::aarch64::*;

use super::load;
use super::tier::{DotProd, I8mm};
use crate::arch::Columns;

// SAFETY of all the blocks below: each 64-bit ARM CPU has NEON.

/// Signed bytes from memory.
#[inline(always)]
fn load_signed<B>(at: &B) -> int8x16_t {
    // SAFETY: see above.
    unsafe { vreinterpretq_s8_u8(load(at)) }
}

/// The four vectors of a group of columns.
#[inline(always)]
fn vectors(w: &Columns) -> [int8x16_t; 4] {
    let w = w.0.as_chunks::<4>().0;
    std::array::from_fn(|i| load_signed(&w[i]))
}

/// Four activations, repeated.
#[inline(always)]
fn repeat(x: [i8; 4]) -> int8x16_t {
    // SAFETY: see above.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(x.map(i8::cast_unsigned)))) }
}

/// Base, codes that use all eight bits: two products fit in 16 bits.
#[inline(always)]
pub(super) fn wide<const N: usize, const T: usize>(
    acc: &mut [[int32x4_t; 4]; T],
    w: &[Columns; N],
    x: [&[[i8; 4]; N]; T],
) {
    // SAFETY: see above.
    unsafe {
        // Rows 2 i and 2 i + 1, two lanes each.
        let mut sums = [[vdupq_n_s32(0); 8]; T];
        for (p, w) in w.as_chunks::<2>().0.iter().enumerate() {
            let w = [vectors(&w[0]), vectors(&w[1])];
            for t in 0..T {
                let x = [repeat(x[t][2 * p]), repeat(x[t][2 * p + 1])];
                for i in 0..4 {
                    let (first, second) = (w[0][i], w[1][i]);
                    // At most 2 * 128 * 127 = 32512.
                    let low = vmull_s8(vget_low_s8(first), vget_low_s8(x[0]));
                    let low = vmlal_s8(low, vget_low_s8(second), vget_low_s8(x[1]));
                    let high = vmlal_high_s8(vmull_high_s8(first, x[0]), second, x[1]);
                    sums[t][2 * i] = vpadalq_s16(sums[t][2 * i], low);
                    sums[t][2 * i + 1] = vpadalq_s16(sums[t][2 * i + 1], high);
                }
            }
        }
        for t in 0..T {
            for i in 0..4 {
                let sum = vpaddq_s32(sums[t][2 * i], sums[t][2 * i + 1]);
                acc[t][i] = vaddq_s32(acc[t][i], sum);
            }
        }
    }
}

/// Base, codes below 64, or below 32 for more than 16 columns: a lane of 16 bits has room for the products of all groups.
#[inline(always)]
pub(super) fn narrow<const N: usize, const T: usize>(
    acc: &mut [[int32x4_t; 4]; T],
    w: &[Columns; N],
    x: [&[[i8; 4]; N]; T],
) {
    const { assert!(N <= 8, "8 * 31 * 127 and 4 * 63 * 127 fit in 16 bits, no more") };
    // SAFETY: see above.
    unsafe {
        // Rows 2 i and 2 i + 1, four lanes each.
        let mut sums = [[vdupq_n_s16(0); 8]; T];
        for (j, w) in w.iter().enumerate() {
            let w = vectors(w);
            for t in 0..T {
                let x = repeat(x[t][j]);
                for i in 0..4 {
                    let sums = &mut sums[t];
                    sums[2 * i] = vmlal_s8(sums[2 * i], vget_low_s8(w[i]), vget_low_s8(x));
                    sums[2 * i + 1] = vmlal_high_s8(sums[2 * i + 1], w[i], x);
                }
            }
        }
        for t in 0..T {
            for i in 0..4 {
                // Two lanes of 16 bits would not fit in one.
                let (low, high) = (vpaddlq_s16(sums[t][2 * i]), vpaddlq_s16(sums[t][2 * i + 1]));
                acc[t][i] = vaddq_s32(acc[t][i], vpaddq_s32(low, high));
            }
        }
    }
}

/// `sdot`: four activations by lane.
#[inline(always)]
pub(super) fn words<const N: usize, const T: usize>(
    k: DotProd,
    acc: &mut [[int32x4_t; 4]; T],
    w: &[Columns; N],
    x: [&[[i8; 4]; N]; T],
) {
    for (j, w) in w.as_chunks::<4>().0.iter().enumerate() {
        let x: [int8x16_t; T] = std::array::from_fn(|t| load_signed(&x[t].as_chunks::<4>().0[j]));
        words_lane::<0, T>(k, acc, &w[0], &x);
        words_lane::<1, T>(k, acc, &w[1], &x);
        words_lane::<2, T>(k, acc, &w[2], &x);
        words_lane::<3, T>(k, acc, &w[3], &x);
    }
}

/// Four columns.
#[inline(always)]
fn words_lane<const LANE: usize, const T: usize>(
    k: DotProd,
    acc: &mut [[int32x4_t; 4]; T],
    w: &Columns,
    x: &[int8x16_t; T],
) {
    let w = vectors(w);
    for t in 0..T {
        for i in 0..4 {
            acc[t][i] = k.dot_lane::<LANE>(acc[t][i], w[i], x[t]);
        }
    }
}

/// `smmla`: squares of two tokens and two rows.
#[inline(always)]
pub(super) fn eights<const N: usize, const T: usize>(
    k: I8mm,
    acc: &mut [[int32x4_t; 4]; T],
    w: &[Columns; N],
    x: [&[[i8; 4]; N]; T],
) {
    // SAFETY: see above; eight bytes are read of eight.
    unsafe {
        let eight = |x: &[[i8; 4]; 2]| vld1_s8(std::ptr::from_ref(x).cast());
        // Tokens 2 p and 2 p + 1, rows 2 i and 2 i + 1; the second half of these is unused if tokens are odd.
        let mut sums = [[vdupq_n_s32(0); 8]; T];
        for (j, w) in w.as_chunks::<2>().0.iter().enumerate() {
            let [w, w_next] = [vectors(&w[0]), vectors(&w[1])];
            for p in 0..T.div_ceil(2) {
                let (first, second) = (x[2 * p], x[(2 * p + 1).min(T - 1)]);
                let x = vcombine_s8(
                    eight(&first.as_chunks::<2>().0[j]),
                    eight(&second.as_chunks::<2>().0[j]),
                );
                for i in 0..4 {
                    sums[p][i] = k.multiply(sums[p][i], x, w[i]);
                    sums[p][4 + i] = k.multiply(sums[p][4 + i], x, w_next[i]);
                }
            }
        }
        for t in 0..T {
            let sums = sums[t / 2].map(|x| vreinterpretq_s64_s32(x));
            for i in 0..4 {
                let (a, b) = (sums[2 * i], sums[2 * i + 1]);
                let of_token = if t % 2 == 0 { vtrn1q_s64(a, b) } else { vtrn2q_s64(a, b) };
                acc[t][i] = vaddq_s32(acc[t][i], vreinterpretq_s32_s64(of_token));
            }
        }
    }
}
