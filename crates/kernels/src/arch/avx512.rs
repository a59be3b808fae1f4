//! AVX-512 with VNNI: Intel since Ice Lake, AMD since Zen 4.

mod decode;

use std::arch::x86_64::*;

use super::words::{self, Words};
use super::{Columns, IntLanes, Kernel, Lanes};
use crate::elementary::LANES;
use crate::isa::Op;
use crate::matmul::Tile;
use crate::quant::N_SUB;

/// Proof that this CPU has AVX-512 F, BW, VL, DQ and VNNI, and what AVX2 kernels need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Looks at the CPU.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }

    /// Runs an operation compiled for these features.
    pub(crate) fn run(self, op: impl Op) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn inner(token: Avx512, op: impl Op) {
            op.run(token);
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, op) }
    }

    /// Multiplies a tile.
    pub(crate) fn matmul(self, tile: &Tile<'_>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn inner(token: Avx512, tile: &Tile<'_>) {
            tile.run(token);
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, tile) }
    }
}

// SAFETY of all the blocks below: the token proves the features that the intrinsics need, and the arrays that loads and stores
// take have at least the size of the vector.
impl Lanes for Avx512 {
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]) {
        // SAFETY: see above.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
        }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn fold(self, x: Self::F) -> f32 {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    /// A tree of 15 additions instead of 16 folds: every step halves two vectors into one, with the additions that
    /// `fold` does for each.
    #[inline(always)]
    fn fold16(self, x: &[Self::F; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe {
            // Halves of 8 lanes: [x0: l[j] + l[j+8] | x8: the same].
            let mut a = [x[0]; 8];
            for i in 0..8 {
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[i], x[i + 8]);
                let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[i], x[i + 8]);
                a[i] = _mm512_add_ps(low, high);
            }
            // Quarters of 4 lanes: [x0 | x4 | x8 | x12] after picking 128-bit parts 0, 2 and 1, 3 of both.
            let mut b = [x[0]; 4];
            for i in 0..4 {
                let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(a[i], a[i + 4]);
                let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(a[i], a[i + 4]);
                b[i] = _mm512_add_ps(low, high);
            }
            // Now parts are [x_i, x_{i+8}, x_{i+4}, x_{i+12}], 4 lanes each.
            let mut c = [x[0]; 2];
            for i in 0..2 {
                let low = _mm512_shuffle_ps::<0b01_00_01_00>(b[i], b[i + 2]);
                let high = _mm512_shuffle_ps::<0b11_10_11_10>(b[i], b[i + 2]);
                c[i] = _mm512_add_ps(low, high);
            }
            // In each part: two lanes of x_i, two of x_{i+2}.
            let low = _mm512_shuffle_ps::<0b10_00_10_00>(c[0], c[1]);
            let high = _mm512_shuffle_ps::<0b11_01_11_01>(c[0], c[1]);
            let sums = _mm512_add_ps(low, high);
            // Parts start at 0, 8, 4, 12; within a part the order is 0, 2, 1, 3.
            let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
            _mm512_permutexvar_ps(order, sums)
        }
    }
}

impl IntLanes for Avx512 {
    type I = __m512i;
    /// Part `i` has, of each row, the sum of half `i % 2` of block `i / 2`.
    type Four = __m512i;

    #[inline(always)]
    fn zero_four(self) -> Self::Four {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn join_fours(self, fours: &[__m512i; 4]) -> [__m512i; 2] {
        // SAFETY: the token proves the features.
        unsafe { decode::fold_halves(*fours) }
    }
}

impl Kernel for Avx512 {
    const TOKENS: usize = 8;

    #[inline(always)]
    fn offset_left(offset: i32) -> i32 {
        offset
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: see above; a prefetch does not access memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    /// Four rounds of shuffles, each of which doubles the length of the pieces that are where they belong.
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 4 * LANES]; LANES], out: &mut [[[u8; 4]; LANES]; LANES]) {
        // SAFETY: see above.
        unsafe {
            let mut x = [_mm512_setzero_si512(); LANES];
            for (x, row) in x.iter_mut().zip(rows) {
                *x = _mm512_loadu_si512(row.as_ptr().cast());
            }
            // Part `p` of `pairs[i]` and `pairs[i + 1]` has words 4p, 4p + 1 and 4p + 2, 4p + 3 of rows i and i + 1 in turn.
            let mut pairs = x;
            for i in (0..LANES).step_by(2) {
                pairs[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
            }
            // Part `p` of `fours[i + j]` has word 4p + j of rows i..i + 4.
            let mut fours = x;
            for i in (0..LANES).step_by(4) {
                fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
                fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
                fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
                fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
            }
            for j in 0..4 {
                // Parts 0, 2 and 1, 3 of rows 0..8 and 8..16.
                let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
                let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
                let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
                let even_next = _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d);
                let odd_next = _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d);
                let columns = [
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_next),
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_next),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_next),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_next),
                ];
                for (p, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_si512(out[4 * p + j].as_mut_ptr().cast(), column);
                }
            }
        }
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn i_to_f32(self, x: Self::I) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [Self::I; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    ) {
        words::dot_columns::<Self, OFFSET, N, T>(self, acc, w, x);
    }

    #[inline(always)]
    fn dot_pairs(self, w: &[[[i16; 2]; LANES]; N_SUB / 2], x: &[i16; N_SUB]) -> Self::I {
        words::dot_pairs(self, self.i_splat(0), w, x)
    }
}

impl Words for Avx512 {
    #[inline(always)]
    fn dot4<const OFFSET: i32>(self, acc: Self::I, w: &[[u8; 4]; LANES], x: [i8; 4]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned)));
            _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(w.as_ptr().cast()), x)
        }
    }

    #[inline(always)]
    fn dot2(self, acc: Self::I, w: &[[i16; 2]; LANES], x: [i16; 2]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let x = _mm512_set1_epi32(i32::from(x[0].cast_unsigned()) | (i32::from(x[1]) << 16));
            _mm512_dpwssd_epi32(acc, _mm512_loadu_si512(w.as_ptr().cast()), x)
        }
    }
}
