//! AVX2, FMA and F16C: x86-64 CPUs since about 2013.

mod decode;

use std::arch::x86_64::*;

use super::words::{self, Words};
use super::{Columns, IntLanes, Kernel, Lanes};
use crate::elementary::LANES;
use crate::isa::Op;
use crate::matmul::Tile;
use crate::quant::N_SUB;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Looks at the CPU.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }

    /// Runs an operation compiled for these features.
    pub(crate) fn run(self, op: impl Op) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(token: Avx2, op: impl Op) {
            op.run(token);
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, op) }
    }

    /// Multiplies a tile.
    pub(crate) fn matmul(self, tile: &Tile<'_>) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(token: Avx2, tile: &Tile<'_>) {
            tile.run(token);
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, tile) }
    }
}

/// `Σ w * x` of adjacent pairs; `WIDE` codes use all eight bits and have an offset of 128, which this takes off.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs<const WIDE: bool>(w: __m256i, x: __m256i) -> __m256i {
    if WIDE {
        // |w| <= 128 and |x| <= 127, so that two products are at most 32512: no saturation.
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    } else {
        _mm256_maddubs_epi16(w, x)
    }
}

// SAFETY of all the blocks below: the token proves the features that the intrinsics need, and the arrays that loads and stores
// take have at least the size of the vector.
impl Lanes for Avx2 {
    type F = [__m256; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())] }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (x.as_ptr(), x[8..].as_ptr());
            [
                _mm256_cvtph_ps(_mm_loadu_si128(low.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(high.cast())),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out[8..].as_mut_ptr(), x[1]);
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]) {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]);
            _mm_storeu_si128(out.as_mut_ptr().cast(), low);
            _mm_storeu_si128(out[8..].as_mut_ptr().cast(), high);
        }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn fold(self, x: Self::F) -> f32 {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_add_ps(x[0], x[1]);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
}

impl IntLanes for Avx2 {
    type I = [__m256i; 2];
    /// A half per block, a lane per row.
    type Four = __m256i;

    #[inline(always)]
    fn zero_four(self) -> Self::Four {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn join_fours(self, fours: &[__m256i; 4]) -> [[__m256i; 2]; 2] {
        let [a, b, c, d] = *fours;
        // SAFETY: the token proves the features.
        unsafe {
            [
                [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x20>(c, d)],
                [_mm256_permute2x128_si256::<0x31>(a, b), _mm256_permute2x128_si256::<0x31>(c, d)],
            ]
        }
    }
}

impl Kernel for Avx2 {
    const TOKENS: usize = 2;

    #[inline(always)]
    fn offset_left(offset: i32) -> i32 {
        if offset == 128 { 0 } else { offset }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: see above; a prefetch does not access memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    /// Four squares of eight rows and eight columns, each by three rounds of shuffles.
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 4 * LANES]; LANES], out: &mut [[[u8; 4]; LANES]; LANES]) {
        for (top, left) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: see above; `left` and `top` leave eight words.
            unsafe {
                let mut x = [_mm256_setzero_si256(); 8];
                for (x, row) in x.iter_mut().zip(&rows[top..]) {
                    *x = _mm256_loadu_si256(row.as_ptr().add(4 * left).cast());
                }
                // Half `h` of `pairs[i]` and `pairs[i + 1]` has words 4h, 4h + 1 and 4h + 2, 4h + 3 of rows i and i + 1 in turn.
                let mut pairs = x;
                for i in (0..8).step_by(2) {
                    pairs[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
                    pairs[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
                }
                for j in 0..2 {
                    // Words 2j and 2j + 1 of each half, of rows 0..4 and 4..8.
                    let words = |i: usize| {
                        let (a, b) = (pairs[i + j], pairs[i + j + 2]);
                        [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)]
                    };
                    for (k, (a, b)) in words(0).into_iter().zip(words(4)).enumerate() {
                        let low = _mm256_permute2x128_si256::<0x20>(a, b);
                        let high = _mm256_permute2x128_si256::<0x31>(a, b);
                        let column = left + 2 * j + k;
                        let out_low = out[column][top..].as_mut_ptr();
                        _mm256_storeu_si256(out_low.cast(), low);
                        let out_high = out[column + 4][top..].as_mut_ptr();
                        _mm256_storeu_si256(out_high.cast(), high);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x[8..].as_ptr().cast())]
        }
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn i_to_f32(self, x: Self::I) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
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

impl Words for Avx2 {
    #[inline(always)]
    fn dot4<const OFFSET: i32>(self, acc: Self::I, w: &[[u8; 4]; LANES], x: [i8; 4]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned)));
            let one = _mm256_set1_epi16(1);
            let mut out = acc;
            for (out, w) in out.iter_mut().zip(w.as_chunks::<8>().0) {
                let w = _mm256_loadu_si256(w.as_ptr().cast());
                let products =
                    if OFFSET == 128 { pairs::<true>(w, x) } else { pairs::<false>(w, x) };
                *out = _mm256_add_epi32(*out, _mm256_madd_epi16(products, one));
            }
            out
        }
    }

    #[inline(always)]
    fn dot2(self, acc: Self::I, w: &[[i16; 2]; LANES], x: [i16; 2]) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_set1_epi32(i32::from(x[0].cast_unsigned()) | (i32::from(x[1]) << 16));
            let mut out = acc;
            for (out, w) in out.iter_mut().zip(w.as_chunks::<8>().0) {
                let w = _mm256_loadu_si256(w.as_ptr().cast());
                *out = _mm256_add_epi32(*out, _mm256_madd_epi16(w, x));
            }
            out
        }
    }
}
