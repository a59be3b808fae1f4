//! Decoding with AVX2.

use std::arch::x86_64::*;

use super::{Avx2, pairs};
use crate::arch::{Ahead, DotSmall, DotSuper, Lanes, SuperDot};
use crate::elementary::LANES;
use crate::quant::{N_SUB, SMALL, SUPER, Small, Super};

/// Adds the four lanes of each 128 bits of eight vectors: lane `i` is the sum of `x[i]`.
#[inline]
#[target_feature(enable = "avx2")]
fn fold8(x: &[__m256i; 8]) -> __m256i {
    let ab = _mm256_hadd_epi32(x[0], x[1]);
    let cd = _mm256_hadd_epi32(x[2], x[3]);
    let ef = _mm256_hadd_epi32(x[4], x[5]);
    let gh = _mm256_hadd_epi32(x[6], x[7]);
    let abcd = _mm256_hadd_epi32(ab, cd);
    let efgh = _mm256_hadd_epi32(ef, gh);
    let low = _mm256_permute2x128_si256::<0x20>(abcd, efgh);
    let high = _mm256_permute2x128_si256::<0x31>(abcd, efgh);
    _mm256_add_epi32(low, high)
}

impl Avx2 {
    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn dot_small<const OFFSET: i32>(self, w: &[u8; SMALL], x: &[i8; SMALL]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let (w, x) =
                (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().cast()));
            let products = if OFFSET == 128 { pairs::<true>(w, x) } else { pairs::<false>(w, x) };
            _mm256_madd_epi16(products, _mm256_set1_epi16(1))
        }
    }

    #[inline(always)]
    fn dot_super(self, w: &[u8; SUPER], scales: &[i8; N_SUB], x: &[i8; SUPER]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            // The scales of even sub-blocks in the low half, of odd ones in the high half, as i16: the two halves
            // of a vector of 32 codes are an even and an odd sub-block.
            let split = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            let scales = _mm_shuffle_epi8(_mm_loadu_si128(scales.as_ptr().cast()), split);
            let scales = _mm256_cvtepi8_epi16(scales);
            let mut select = _mm256_set1_epi16(0x0100);
            let mut sum = _mm256_setzero_si256();
            for (w, x) in w.as_chunks::<32>().0.iter().zip(x.as_chunks::<32>().0) {
                let (w, x) =
                    (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().cast()));
                // Two products are at most 2 * 63 * 127: no saturation.
                let products = _mm256_maddubs_epi16(w, x);
                let scale = _mm256_shuffle_epi8(scales, select);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, scale));
                select = _mm256_add_epi8(select, _mm256_set1_epi8(2));
            }
            sum
        }
    }

    #[inline(always)]
    fn dot_i16(self, a: &[i16; N_SUB], b: &[i16; N_SUB]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let (a, b) =
                (_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast()));
            _mm256_madd_epi16(a, b)
        }
    }

    #[inline(always)]
    fn fold_partials(self, x: &[__m256i; LANES]) -> [__m256i; 2] {
        let (low, high) = (x.first_chunk().expect("8 of 16"), x.last_chunk().expect("8 of 16"));
        // SAFETY: see above.
        unsafe { [fold8(low), fold8(high)] }
    }
}

impl<B: Small> DotSmall<B> for Avx2 {
    #[inline(always)]
    fn dot_small_rows(
        self,
        rows: &[&[B; 2]; LANES],
        x: &[[i8; SMALL]; 2],
        mut ahead: Ahead,
    ) -> [[__m256i; 2]; 2] {
        let mut out = [[self.zero(); 2]; 2];
        for b in 0..2 {
            let mut partials = [self.zero(); LANES];
            for r in 0..LANES {
                if r % 4 == 0 {
                    ahead.fetch(self, 4 * size_of::<B>());
                }
                partials[r] = if B::OFFSET == 128 {
                    self.dot_small::<128>(&rows[r][b].codes(), &x[b])
                } else {
                    self.dot_small::<0>(&rows[r][b].codes(), &x[b])
                };
            }
            out[b] = self.fold_partials(&partials);
            if B::OFFSET != 128 {
                let sum: i32 = x[b].iter().map(|x| i32::from(*x)).sum();
                // SAFETY: the token proves the features.
                unsafe {
                    for o in &mut out[b] {
                        *o = _mm256_sub_epi32(*o, _mm256_set1_epi32(B::OFFSET * sum));
                    }
                }
            }
        }
        out
    }
}

impl<B: Super> DotSuper<B> for Avx2 {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&B; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        mut ahead: Ahead,
    ) -> SuperDot<Self> {
        let mut partials = [self.zero(); LANES];
        let mut mins = [self.zero(); LANES];
        for r in 0..LANES {
            ahead.fetch(self, size_of::<B>());
            let scales = rows[r].scales();
            partials[r] = self.dot_super(&rows[r].codes(), &scales, x);
            if B::OFFSET != 0 {
                let offsets = scales.map(|scale| i16::from(scale) * B::OFFSET);
                partials[r] = self.sub(partials[r], self.dot_i16(&offsets, sums));
            }
            if B::HAS_MINS {
                mins[r] = self.dot_i16(&rows[r].mins().map(i16::from), sums);
            }
        }
        SuperDot {
            isum: self.fold_partials(&partials),
            msum: self.fold_partials(&mins),
            d: self.load_f16(&rows.map(|r| r.d())),
            dmin: self.load_f16(&rows.map(|r| r.dmin())),
        }
    }
}
