//! NEON: every 64-bit ARM CPU, in three tiers that differ only in how bytes are multiplied ([`Tier`]).
//!
//! The lanes of the canonical arithmetic are four registers. The tiers are [`Base`] (Cortex-A53), [`DotProd`] with `sdot`
//! (Cortex-A76) and [`I8mm`] with `smmla` (Cortex-A710). Their instructions are written as assembly: stable Rust has no
//! names for them yet. Everything else is in each ARM CPU, so that no function needs features of its own.

mod decode;
mod panel;
mod tier;

use std::arch::aarch64::*;
use std::arch::asm;

pub(crate) use tier::{Base, DotProd, I8mm, Tier};

use super::{Columns, IntLanes, Kernel, Lanes};
use crate::elementary::LANES;
use crate::isa::Op;
use crate::matmul::Tile;
use crate::quant::N_SUB;

/// Proof that this CPU has NEON and what the tier needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neon<T>(T);

impl<T: Tier> Neon<T> {
    /// Looks at the CPU.
    pub(crate) fn detect() -> Option<Self> {
        T::detect().map(Self)
    }

    /// Runs an operation compiled for this tier.
    pub(crate) fn run(self, op: impl Op) {
        op.run(self);
    }

    /// Multiplies a tile.
    pub(crate) fn matmul(self, tile: &Tile<'_>) {
        tile.run(self);
    }
}

/// A vector from memory.
#[inline(always)]
fn load<B>(at: &B) -> uint8x16_t {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: 16 bytes are read, which is the size of `B`; no alignment is needed, and each 64-bit ARM CPU has NEON.
    unsafe { vld1q_u8(std::ptr::from_ref(at).cast()) }
}

/// A vector to memory.
#[inline(always)]
fn store<B>(x: uint8x16_t, at: &mut B) {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: 16 bytes are written, which is the size of `B`; those that call it store arrays of numbers.
    unsafe { vst1q_u8(std::ptr::from_mut(at).cast(), x) }
}

/// Turns four rows of four words into columns.
#[inline(always)]
fn transpose4(x: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: each 64-bit ARM CPU has NEON.
    unsafe {
        let x = x.map(|x| vreinterpretq_u32_u8(x));
        let even = |a, b| vreinterpretq_u64_u32(vtrn1q_u32(a, b));
        let odd = |a, b| vreinterpretq_u64_u32(vtrn2q_u32(a, b));
        let (a, b) = (even(x[0], x[1]), odd(x[0], x[1]));
        let (c, d) = (even(x[2], x[3]), odd(x[2], x[3]));
        let columns = [vtrn1q_u64(a, c), vtrn1q_u64(b, d), vtrn2q_u64(a, c), vtrn2q_u64(b, d)];
        columns.map(|x| vreinterpretq_u8_u64(x))
    }
}

/// Adds the lanes of each of four vectors: lane `i` is the sum of `x[i]`.
#[inline(always)]
fn fold4(x: [int32x4_t; 4]) -> int32x4_t {
    // SAFETY: each 64-bit ARM CPU has NEON.
    unsafe { vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])) }
}

// SAFETY of all the blocks below: each 64-bit ARM CPU has NEON, and the arrays that loads and stores take have at least the
// size of the vector.
impl<T: Tier> Lanes for Neon<T> {
    type F = [float32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let x = x.as_chunks::<4>().0;
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vreinterpretq_f32_u8(load(&x[i]))) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let low = vreinterpretq_u16_u8(load(&x.as_chunks::<8>().0[0]));
            let high = vreinterpretq_u16_u8(load(&x.as_chunks::<8>().0[1]));
            let wide = |x| vcvt_f32_f16(vreinterpret_f16_u16(x));
            [
                wide(vget_low_u16(low)),
                wide(vget_high_u16(low)),
                wide(vget_low_u16(high)),
                wide(vget_high_u16(high)),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        for (x, out) in x.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: see above.
            unsafe { store(vreinterpretq_u8_f32(x), out) }
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]) {
        let out = out.as_chunks_mut::<8>().0;
        for i in 0..2 {
            // SAFETY: see above.
            unsafe {
                let low = vreinterpret_u16_f16(vcvt_f16_f32(x[2 * i]));
                let high = vreinterpret_u16_f16(vcvt_f16_f32(x[2 * i + 1]));
                store(vreinterpretq_u8_u16(vcombine_u16(low, high)), &mut out[i]);
            }
        }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vmulq_f32(a[i], b[i])) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vfmaq_f32(c[i], a[i], b[i])) }
    }

    /// Four vectors become one by the additions that `fold` does for each.
    #[inline(always)]
    fn fold16(self, x: &[Self::F; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let halves = |a, b| {
                let (a, b) = (vreinterpretq_f64_f32(quarter(a)), vreinterpretq_f64_f32(quarter(b)));
                let (low, high) = (vtrn1q_f64(a, b), vtrn2q_f64(a, b));
                vaddq_f32(vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
            };
            std::array::from_fn(|i| {
                let [a, b, c, d] = x.as_chunks::<4>().0[i];
                vpaddq_f32(halves(a, b), halves(c, d))
            })
        }
    }

    #[inline(always)]
    fn fold(self, x: Self::F) -> f32 {
        // SAFETY: see above.
        unsafe {
            let x = quarter(x);
            vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
        }
    }
}

/// The first two steps of a fold: 16 lanes to 4.
#[inline(always)]
fn quarter(x: [float32x4_t; 4]) -> float32x4_t {
    // SAFETY: each 64-bit ARM CPU has NEON.
    unsafe { vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3])) }
}

impl<T: Tier> IntLanes for Neon<T> {
    type I = [int32x4_t; 4];
    /// A vector per block, a lane per row.
    type Four = [int32x4_t; 2];

    #[inline(always)]
    fn zero_four(self) -> Self::Four {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    fn join_fours(self, fours: &[Self::Four; 4]) -> [Self::I; 2] {
        [fours.map(|four| four[0]), fours.map(|four| four[1])]
    }
}

impl<T: Tier> Kernel for Neon<T> {
    const TOKENS: usize = T::TOKENS;

    #[inline(always)]
    fn offset_left(offset: i32) -> i32 {
        if offset == 128 { 0 } else { offset }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch does not access memory.
        unsafe {
            asm!("prfm pldl2keep, [{at}]", at = in(reg) at.addr(),
                options(nomem, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u8; 4 * LANES]; LANES], out: &mut [[[u8; 4]; LANES]; LANES]) {
        for (i, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            for j in 0..4 {
                let words = transpose4(rows.map(|row| load(&row.as_chunks::<16>().0[j])));
                for (word, column) in words.into_iter().zip(&mut out[4 * j..]) {
                    store(word, &mut column.as_chunks_mut::<4>().0[i]);
                }
            }
        }
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(x); 4] }
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        let x = x.as_chunks::<4>().0;
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vreinterpretq_s32_u8(load(&x[i]))) }
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vaddq_s32(a[i], b[i])) }
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vmulq_s32(a[i], b[i])) }
    }

    #[inline(always)]
    fn i_to_f32(self, x: Self::I) -> Self::F {
        // SAFETY: see above.
        unsafe { std::array::from_fn(|i| vcvtq_f32_s32(x[i])) }
    }

    /// Offsets of 128 come off here: the bytes then have a sign.
    #[inline(always)]
    fn pack<const OFFSET: i32>(
        self,
        rows: [&[u8; 4 * LANES]; LANES],
        out: &mut [[[u8; 4]; LANES]; LANES],
    ) {
        if T::EIGHTS {
            pack_eights(rows, out);
        } else {
            self.transpose(rows, out);
        }
        if OFFSET == 128 {
            for byte in out.as_flattened_mut().as_flattened_mut() {
                *byte ^= 0x80;
            }
        }
    }

    #[inline(always)]
    fn dot_columns<const OFFSET: i32, const N: usize, const TOKENS: usize>(
        self,
        acc: &mut [Self::I; TOKENS],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; TOKENS],
    ) {
        self.0.dot_columns::<OFFSET, N, TOKENS>(acc, w, x);
    }

    #[inline(always)]
    fn dot_pairs(self, w: &[[[i16; 2]; LANES]; N_SUB / 2], x: &[i16; N_SUB]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let mut sums = [vdupq_n_s32(0); 8];
            for (w, x) in w.iter().zip(x.as_chunks::<2>().0) {
                let x = i32::from(x[0].cast_unsigned()) | (i32::from(x[1]) << 16);
                let x = vreinterpretq_s16_s32(vdupq_n_s32(x));
                for (i, w) in w.as_chunks::<4>().0.iter().enumerate() {
                    let w = vreinterpretq_s16_u8(load(w));
                    sums[2 * i] = vmlal_s16(sums[2 * i], vget_low_s16(w), vget_low_s16(x));
                    sums[2 * i + 1] = vmlal_high_s16(sums[2 * i + 1], w, x);
                }
            }
            std::array::from_fn(|i| vpaddq_s32(sums[2 * i], sums[2 * i + 1]))
        }
    }
}

/// Turns 64 codes of 16 rows into eight pieces of eight columns, each of them eight vectors of two rows.
#[inline(always)]
fn pack_eights(rows: [&[u8; 4 * LANES]; LANES], out: &mut [[[u8; 4]; LANES]; LANES]) {
    let pieces = out.as_flattened_mut().as_chunks_mut::<4>().0;
    for (i, rows) in rows.as_chunks::<2>().0.iter().enumerate() {
        for j in 0..4 {
            // SAFETY: each 64-bit ARM CPU has NEON.
            unsafe {
                let [a, b] =
                    rows.map(|row| vreinterpretq_u64_u8(load(&row.as_chunks::<16>().0[j])));
                store(vreinterpretq_u8_u64(vtrn1q_u64(a, b)), &mut pieces[2 * j * 8 + i]);
                store(vreinterpretq_u8_u64(vtrn2q_u64(a, b)), &mut pieces[(2 * j + 1) * 8 + i]);
            }
        }
    }
}
