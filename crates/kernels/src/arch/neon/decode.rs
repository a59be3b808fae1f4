//! Decoding with NEON: each row of a block is multiplied as it lies in memory, four rows side by side.
//!
//! Four rows share the loads of activations, and three pairwise additions make one vector of their sums. Codes are unpacked
//! with `sli` and `sri`, which shift and insert at once. Headers of K-quants are unpacked for four rows at a time; scales
//! then stand in 32-bit lanes, so that one `mla` by a lane multiplies and adds the sums of a sub-block.

use std::arch::aarch64::*;

use super::{Neon, Tier, fold4, load, transpose4};
use crate::arch::{Ahead, DotSmall, DotSuper, Lanes, SuperDot};
use crate::elementary::LANES;
use crate::quant::{
    BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0, N_SUB, SMALL, SUPER, Small,
    Super, WithMins,
};

/// Rows that are multiplied together: their sums fit in one vector.
const ROWS: usize = 4;

// SAFETY of all the blocks below: each 64-bit ARM CPU has NEON.

/// Bytes as signed numbers.
#[inline(always)]
fn signed(x: uint8x16_t) -> int8x16_t {
    // SAFETY: see above.
    unsafe { vreinterpretq_s8_u8(x) }
}

/// All bytes `x`.
#[inline(always)]
fn bytes(x: u8) -> uint8x16_t {
    // SAFETY: see above.
    unsafe { vdupq_n_u8(x) }
}

/// How the codes of a small block are unpacked.
trait SmallCodes: Small {
    /// What still has to be subtracted from each code.
    const LEFT: i8;

    /// The codes, in order.
    fn vectors(&self) -> [int8x16_t; 2];
}

impl SmallCodes for BlockQ8_0 {
    const LEFT: i8 = 0;

    #[inline(always)]
    fn vectors(&self) -> [int8x16_t; 2] {
        let [low, high] = self.qs.as_chunks::<16>().0 else { unreachable!("twice 16") };
        [signed(load(low)), signed(load(high))]
    }
}

/// Low nibbles, then high ones.
#[inline(always)]
fn nibbles(qs: &[u8; SMALL / 2]) -> [uint8x16_t; 2] {
    let qs = load(qs);
    // SAFETY: see above.
    unsafe { [vandq_u8(qs, bytes(15)), vshrq_n_u8::<4>(qs)] }
}

impl SmallCodes for BlockQ4_0 {
    const LEFT: i8 = 8;

    #[inline(always)]
    fn vectors(&self) -> [int8x16_t; 2] {
        nibbles(&self.qs).map(signed)
    }
}

impl SmallCodes for BlockQ5_0 {
    const LEFT: i8 = 16;

    #[inline(always)]
    fn vectors(&self) -> [int8x16_t; 2] {
        const SPREAD: [[u8; 16]; 2] = [
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
            [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
        ];
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        let nibbles = nibbles(&self.qs);
        // SAFETY: see above.
        unsafe {
            let qh = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(self.qh)));
            std::array::from_fn(|i| {
                let is_set = vtstq_u8(vqtbl1q_u8(qh, load(&SPREAD[i])), load(&BITS));
                signed(vorrq_u8(nibbles[i], vandq_u8(is_set, bytes(16))))
            })
        }
    }
}

impl<T: Tier, B: SmallCodes> DotSmall<B> for Neon<T> {
    #[inline(always)]
    fn dot_four(self, rows: &[&[B; 2]; ROWS], x: &[[i8; SMALL]; 2]) -> Self::Four {
        // SAFETY: see above.
        unsafe {
            let mut out = [vdupq_n_s32(0); 2];
            for b in 0..2 {
                let [low, high] = x[b].as_chunks::<16>().0 else { unreachable!("twice 16") };
                let x = [signed(load(low)), signed(load(high))];
                let mut start = vdupq_n_s32(0);
                if B::LEFT != 0 {
                    start = self.0.dot(start, vdupq_n_s8(-B::LEFT), x[0]);
                    start = self.0.dot(start, vdupq_n_s8(-B::LEFT), x[1]);
                }
                let mut dots = [start; ROWS];
                for (dot, row) in dots.iter_mut().zip(rows) {
                    let codes = row[b].vectors();
                    *dot = if B::LEFT == 0 {
                        self.0.dot(self.0.dot(*dot, codes[0], x[0]), codes[1], x[1])
                    } else {
                        self.0.dot_narrow(*dot, codes, x)
                    };
                }
                out[b] = fold4(dots);
            }
            out
        }
    }
}

/// The headers of four rows' blocks of Q4_K or Q5_K.
struct Headers {
    d: float32x4_t,
    dmin: float32x4_t,
    /// Of each row: scales 0..4 and 4..8.
    scales: [[int32x4_t; 2]; ROWS],
    /// A row per lane: minima 0..4 and 4..8.
    mins: [uint8x16_t; 2],
}

/// Bytes in words, a row per word, as 32-bit lanes of each row.
#[inline(always)]
fn widen(x: uint8x16_t) -> [int32x4_t; ROWS] {
    // SAFETY: see above.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
        let words = [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ];
        words.map(|x| vreinterpretq_s32_u32(x))
    }
}

impl Headers {
    #[inline(always)]
    fn new<B: WithMins>(rows: &[&B; ROWS]) -> Self {
        let [d, a, b, c] = transpose4(rows.map(|row| load(row.header())));
        // SAFETY: see above.
        unsafe {
            // As in `quant::q4_k::unpack_scales_and_mins`.
            let low = widen(vandq_u8(a, bytes(63)));
            let high = widen(vbslq_u8(bytes(15), c, vshrq_n_u8::<2>(a)));
            let mins = [vandq_u8(b, bytes(63)), vsriq_n_u8::<4>(vshrq_n_u8::<2>(b), c)];
            let d = vreinterpretq_u32_u8(d);
            let wide = |x| vcvt_f32_f16(vreinterpret_f16_u16(x));
            Self {
                d: wide(vmovn_u32(d)),
                dmin: wide(vshrn_n_u32::<16>(d)),
                scales: std::array::from_fn(|i| [low[i], high[i]]),
                mins,
            }
        }
    }

    /// `Σ min * sum` of each row. `sums`: of each 32 activations
    #[inline(always)]
    fn dot_mins(&self, sums: int16x8_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let wide = |x| vreinterpretq_s16_u16(x);
            let (first, second) = (vget_low_s16(sums), vget_high_s16(sums));
            let low = wide(vmovl_u8(vget_low_u8(self.mins[0])));
            let low_next = wide(vmovl_u8(vget_low_u8(self.mins[1])));
            let high = wide(vmovl_high_u8(self.mins[0]));
            let high_next = wide(vmovl_high_u8(self.mins[1]));
            let row = |a, b| vmlal_s16(vmull_s16(a, first), b, second);
            fold4([
                row(vget_low_s16(low), vget_low_s16(low_next)),
                row(vget_high_s16(low), vget_high_s16(low_next)),
                row(vget_low_s16(high), vget_low_s16(high_next)),
                row(vget_high_s16(high), vget_high_s16(high_next)),
            ])
        }
    }
}

/// How the codes of Q4_K and Q5_K are unpacked.
trait SuperCodes: WithMins {
    /// The codes `64 * C..64 * (C + 1)`, in order.
    fn vectors<const C: usize>(&self) -> [int8x16_t; 4];
}

impl SuperCodes for BlockQ4K {
    #[inline(always)]
    fn vectors<const C: usize>(&self) -> [int8x16_t; 4] {
        let qs = self.qs.as_chunks::<16>().0;
        let [low, high] = nibbles(&qs[2 * C]);
        let [low_next, high_next] = nibbles(&qs[2 * C + 1]);
        [low, low_next, high, high_next].map(signed)
    }
}

impl SuperCodes for BlockQ5K {
    #[inline(always)]
    fn vectors<const C: usize>(&self) -> [int8x16_t; 4] {
        let mut codes = [signed(bytes(0)); 4];
        for i in 0..2 {
            let qs = load(&self.qs.as_chunks::<16>().0[2 * C + i]);
            let qh = load(&self.qh.as_chunks::<16>().0[i]);
            // SAFETY: see above.
            unsafe {
                // Bit 2 C at the lowest place, bit 2 C + 1 at that of bit 4.
                let (even, odd) = match C {
                    0 => (qh, vshlq_n_u8::<3>(qh)),
                    1 => (vshrq_n_u8::<2>(qh), vshlq_n_u8::<1>(qh)),
                    2 => (vshrq_n_u8::<4>(qh), vshrq_n_u8::<1>(qh)),
                    _ => (vshrq_n_u8::<6>(qh), vshrq_n_u8::<3>(qh)),
                };
                codes[i] = signed(vandq_u8(vsliq_n_u8::<4>(qs, even), bytes(31)));
                codes[2 + i] = signed(vandq_u8(vsriq_n_u8::<4>(odd, qs), bytes(31)));
            }
        }
        codes
    }
}

/// Adds the products of 64 weights of four rows, whose scales are lanes `EVEN` and `ODD` of a half of them.
#[inline(always)]
fn add_chunk<T: Tier, B: SuperCodes, const C: usize, const EVEN: i32, const ODD: i32>(
    k: Neon<T>,
    rows: &[&B; ROWS],
    x: &[i8; SUPER],
    scales: &[[int32x4_t; 2]; ROWS],
    dots: &mut [int32x4_t; ROWS],
) {
    let x = &x.as_chunks::<64>().0[C].as_chunks::<16>().0;
    let x: [int8x16_t; 4] = std::array::from_fn(|i| signed(load(&x[i])));
    for i in 0..ROWS {
        let [a, b, c, d] = rows[i].vectors::<C>();
        // SAFETY: see above.
        unsafe {
            let zero = vdupq_n_s32(0);
            let even = k.0.dot_narrow(zero, [a, b], [x[0], x[1]]);
            let odd = k.0.dot_narrow(zero, [c, d], [x[2], x[3]]);
            let scales = scales[i][C / 2];
            dots[i] = vmlaq_laneq_s32::<EVEN>(dots[i], even, scales);
            dots[i] = vmlaq_laneq_s32::<ODD>(dots[i], odd, scales);
        }
    }
}

impl<T: Tier, B: SuperCodes> DotSuper<B> for Neon<T> {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&B; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        mut ahead: Ahead,
    ) -> SuperDot<Self> {
        let (mut isum, mut msum) = (self.zero(), self.zero());
        let (mut d, mut dmin) = (self.splat(0.0), self.splat(0.0));
        let [low, high] = sums.as_chunks::<8>().0 else { unreachable!("twice 8") };
        // SAFETY: see above.
        let sums = unsafe {
            vpaddq_s16(vreinterpretq_s16_u8(load(low)), vreinterpretq_s16_u8(load(high)))
        };
        for (group, rows) in rows.as_chunks::<ROWS>().0.iter().enumerate() {
            ahead.fetch(self, ROWS * size_of::<B>());
            let headers = Headers::new(rows);
            let mut dots = self.zero();
            add_chunk::<T, B, 0, 0, 1>(self, rows, x, &headers.scales, &mut dots);
            add_chunk::<T, B, 1, 2, 3>(self, rows, x, &headers.scales, &mut dots);
            add_chunk::<T, B, 2, 0, 1>(self, rows, x, &headers.scales, &mut dots);
            add_chunk::<T, B, 3, 2, 3>(self, rows, x, &headers.scales, &mut dots);
            isum[group] = fold4(dots);
            msum[group] = headers.dot_mins(sums);
            (d[group], dmin[group]) = (headers.d, headers.dmin);
        }
        SuperDot { isum, msum, d, dmin }
    }
}

/// The codes of a half of a block of Q6_K.
#[inline(always)]
fn codes_of_q6_k<const HALF: usize>(block: &BlockQ6K) -> [int8x16_t; 8] {
    let ql = &block.ql.as_chunks::<64>().0[HALF].as_chunks::<16>().0;
    let qh = &block.qh.as_chunks::<32>().0[HALF].as_chunks::<16>().0;
    let mut codes = [signed(bytes(0)); 8];
    for i in 0..2 {
        let (a, b, qh) = (load(&ql[i]), load(&ql[2 + i]), load(&qh[i]));
        // SAFETY: see above.
        unsafe {
            let qh_next = vshrq_n_u8::<2>(qh);
            let parts = [
                vsliq_n_u8::<4>(a, qh),
                vsliq_n_u8::<4>(b, qh_next),
                vsriq_n_u8::<4>(qh, a),
                vsriq_n_u8::<4>(qh_next, b),
            ];
            for (j, part) in parts.into_iter().enumerate() {
                codes[2 * j + i] = signed(vandq_u8(part, bytes(63)));
            }
        }
    }
    codes
}

/// Adds the products of half a block of four rows.
#[inline(always)]
fn add_half<T: Tier, const HALF: usize>(
    k: Neon<T>,
    rows: &[&BlockQ6K; ROWS],
    x: &[i8; SUPER],
    dots: &mut [int32x4_t; ROWS],
) {
    let x = &x.as_chunks::<128>().0[HALF].as_chunks::<16>().0;
    let x: [int8x16_t; 8] = std::array::from_fn(|i| signed(load(&x[i])));
    for i in 0..ROWS {
        let codes = codes_of_q6_k::<HALF>(rows[i]);
        // SAFETY: see above.
        unsafe {
            let scales = signed(load(&rows[i].scales));
            let scales =
                vmovl_s8(if HALF == 0 { vget_low_s8(scales) } else { vget_high_s8(scales) });
            let (first, second) = (vmovl_s16(vget_low_s16(scales)), vmovl_high_s16(scales));
            let dot = |j: usize| k.0.dot(vdupq_n_s32(0), codes[j], x[j]);
            let mut sum = dots[i];
            sum = vmlaq_laneq_s32::<0>(sum, dot(0), first);
            sum = vmlaq_laneq_s32::<1>(sum, dot(1), first);
            sum = vmlaq_laneq_s32::<2>(sum, dot(2), first);
            sum = vmlaq_laneq_s32::<3>(sum, dot(3), first);
            sum = vmlaq_laneq_s32::<0>(sum, dot(4), second);
            sum = vmlaq_laneq_s32::<1>(sum, dot(5), second);
            sum = vmlaq_laneq_s32::<2>(sum, dot(6), second);
            dots[i] = vmlaq_laneq_s32::<3>(sum, dot(7), second);
        }
    }
}

impl<T: Tier> DotSuper<BlockQ6K> for Neon<T> {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&BlockQ6K; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        mut ahead: Ahead,
    ) -> SuperDot<Self> {
        let mut isum = self.zero();
        let mut d = [0; LANES];
        // SAFETY: see above.
        let sums: [int16x8_t; 2] = unsafe {
            std::array::from_fn(|i| {
                vnegq_s16(vreinterpretq_s16_u8(load(&sums.as_chunks::<8>().0[i])))
            })
        };
        for (group, rows) in rows.as_chunks::<ROWS>().0.iter().enumerate() {
            ahead.fetch(self, ROWS * size_of::<BlockQ6K>());
            let mut dots = self.zero();
            for (i, row) in rows.iter().enumerate() {
                d[ROWS * group + i] = row.d();
                // SAFETY: see above.
                unsafe {
                    let scales = signed(load(&row.scales));
                    let (low, high) = (vmovl_s8(vget_low_s8(scales)), vmovl_high_s8(scales));
                    let sum = vmull_s16(vget_low_s16(low), vget_low_s16(sums[0]));
                    let sum = vmlal_high_s16(sum, low, sums[0]);
                    let sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(sums[1]));
                    let sum = vmlal_high_s16(sum, high, sums[1]);
                    // What the offset of 32 takes off.
                    dots[i] = vshlq_n_s32::<5>(sum);
                }
            }
            add_half::<T, 0>(self, rows, x, &mut dots);
            add_half::<T, 1>(self, rows, x, &mut dots);
            isum[group] = fold4(dots);
        }
        SuperDot { isum, msum: self.zero(), d: self.load_f16(&d), dmin: self.splat(0.0) }
    }
}

impl<T: Tier> Neon<T> {
    /// Four vectors of zeros.
    #[inline(always)]
    fn zero(self) -> [int32x4_t; 4] {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(0); 4] }
    }
}
