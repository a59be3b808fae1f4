//! Decoding with AVX2: each row of a block is multiplied as it lies in memory, and the sums of 16 rows end up in 16 lanes.
//!
//! As with AVX-512, codes stay in registers, and headers of K-quants are unpacked for eight rows at a time.

use std::arch::x86_64::*;

use super::Avx2;
use crate::arch::loads::{load16, load32};
use crate::arch::{Ahead, DotSmall, DotSuper, SuperDot};
use crate::elementary::LANES;
use crate::quant::{
    BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0, N_SUB, SMALL, SUPER, Small,
    WithMins,
};

/// Rows whose sums fit in one vector.
const ROWS: usize = 8;

/// Two halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn join(low: __m128i, high: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

/// Adds the four lanes of each half: lane `i` of a half is the sum of that half of `x[i]`.
#[inline]
#[target_feature(enable = "avx2")]
fn fold4(x: [__m256i; 4]) -> __m256i {
    let (ab, cd) = (_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    _mm256_hadd_epi32(ab, cd)
}

/// `fold4` of sums of four that fit in 16 bits, even in pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn fold4_narrow(x: [__m256i; 4]) -> __m256i {
    let one = _mm256_set1_epi16(1);
    let ab = _mm256_madd_epi16(_mm256_packs_epi32(x[0], x[1]), one);
    let cd = _mm256_madd_epi16(_mm256_packs_epi32(x[2], x[3]), one);
    _mm256_madd_epi16(_mm256_packs_epi32(ab, cd), one)
}

/// Adds the lanes of each of eight vectors: lane `i` is the sum of `x[i]`.
#[inline]
#[target_feature(enable = "avx2")]
fn fold8(x: [__m256i; ROWS]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = x;
    add_halves(fold4([a, b, c, d]), fold4([e, f, g, h]))
}

/// Half `i` is the sum of both halves of the `i`-th.
#[inline]
#[target_feature(enable = "avx2")]
fn add_halves(first: __m256i, second: __m256i) -> __m256i {
    let low = _mm256_permute2x128_si256::<0x20>(first, second);
    let high = _mm256_permute2x128_si256::<0x31>(first, second);
    _mm256_add_epi32(low, high)
}

/// How a small block is multiplied.
trait Dot: Small {
    /// Whether sums of four products fit in 16 bits, even in pairs.
    const NARROW: bool;

    /// `Σ (code - OFFSET) * x` of adjacent pairs, as i16.
    fn pairs(&self, k: Avx2, x: __m256i) -> __m256i;
}

impl Dot for BlockQ8_0 {
    const NARROW: bool = false;

    #[inline(always)]
    fn pairs(&self, _: Avx2, x: __m256i) -> __m256i {
        // SAFETY: the token proves the features.
        unsafe {
            // |w| <= 128 and |x| <= 127, so that two products are at most 32512: no saturation.
            let w = load32(&self.qs);
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        }
    }
}

/// The codes of a block whose low nibbles are the first 16 codes, high ones the last.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(qs: &[u8; SMALL / 2]) -> __m256i {
    let low = load16(qs);
    _mm256_and_si256(join(low, _mm_srli_epi16::<4>(low)), _mm256_set1_epi8(15))
}

/// `Σ (code - offset) * x` of adjacent pairs, as i16: at most 2 * 31 * 127.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_less(codes: __m256i, x: __m256i, offset: i8) -> __m256i {
    let less = _mm256_maddubs_epi16(_mm256_set1_epi8(offset), x);
    _mm256_sub_epi16(_mm256_maddubs_epi16(codes, x), less)
}

impl Dot for BlockQ4_0 {
    const NARROW: bool = true;

    #[inline(always)]
    fn pairs(&self, _: Avx2, x: __m256i) -> __m256i {
        // SAFETY: the token proves the features.
        unsafe { pairs_less(nibbles(&self.qs), x, 8) }
    }
}

impl Dot for BlockQ5_0 {
    const NARROW: bool = true;

    #[inline(always)]
    fn pairs(&self, _: Avx2, x: __m256i) -> __m256i {
        // SAFETY: the token proves the features.
        unsafe {
            // Byte `i` gets byte `i / 8` of the word; it is all ones if bit `i % 8` is, beside those that are set here.
            let byte = |i: i64| 0x0101_0101_0101_0101 * i;
            let spread = _mm256_setr_epi64x(byte(0), byte(1), byte(2), byte(3));
            let others = _mm256_set1_epi64x(0x7fbf_dfef_f7fb_fdfe);
            let word = _mm256_set1_epi32(i32::from_le_bytes(self.qh));
            let bits = _mm256_or_si256(_mm256_shuffle_epi8(word, spread), others);
            let is_set = _mm256_cmpeq_epi8(bits, _mm256_set1_epi8(-1));
            let fifth = _mm256_and_si256(is_set, _mm256_set1_epi8(16));
            pairs_less(_mm256_or_si256(nibbles(&self.qs), fifth), x, 16)
        }
    }
}

impl<B: Dot> DotSmall<B> for Avx2 {
    #[inline(always)]
    fn dot_four(self, rows: &[&[B; 2]; 4], x: &[[i8; SMALL]; 2]) -> __m256i {
        // SAFETY: the token proves the features.
        unsafe {
            let one = _mm256_set1_epi16(1);
            let mut folds = [one; 2];
            for b in 0..2 {
                let x = load32(&x[b]);
                let mut dots = [one; 4];
                for i in 0..4 {
                    dots[i] = _mm256_madd_epi16(rows[i][b].pairs(self, x), one);
                }
                folds[b] = if B::NARROW { fold4_narrow(dots) } else { fold4(dots) };
            }
            add_halves(folds[0], folds[1])
        }
    }
}

/// `Σ scale * code * x` over a super-block, in eight lanes.
///
/// - `scales`: as i16, those of sub-blocks of 16 with even numbers in the low half, with odd ones in the high half
#[inline]
#[target_feature(enable = "avx2")]
fn scaled_dot(codes: [__m256i; 8], x: &[[i8; 32]; 8], scales: __m256i) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let mut select = _mm256_set1_epi16(0x0100);
    for i in 0..8 {
        // Two products are at most 2 * 63 * 127: no saturation.
        let products = _mm256_maddubs_epi16(codes[i], load32(&x[i]));
        let scale = _mm256_shuffle_epi8(scales, select);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, scale));
        select = _mm256_add_epi8(select, _mm256_set1_epi8(2));
    }
    sum
}

/// The low and the high nibbles of each 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles_of_super(qs: &[u8; SUPER / 2]) -> [__m256i; 8] {
    let low = _mm256_set1_epi8(15);
    let mut codes = [low; 8];
    for (i, qs) in qs.as_chunks::<32>().0.iter().enumerate() {
        let both = load32(qs);
        codes[2 * i] = _mm256_and_si256(both, low);
        codes[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
    }
    codes
}

/// The sums of each 32 activations, split into two signed bytes: `64 * high + low`, four in each lane.
struct MinSums {
    low: [__m256i; 2],
    high: [__m256i; 2],
}

impl MinSums {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(sums: &[i16; N_SUB]) -> Self {
        let sums = _mm256_madd_epi16(load32(sums), _mm256_set1_epi16(1));
        let high = _mm256_srai_epi32::<6>(_mm256_add_epi32(sums, _mm256_set1_epi32(32)));
        let low = _mm256_sub_epi32(sums, _mm256_slli_epi32::<6>(high));
        // Four bytes of `low` in each half, then four of `high`.
        let words = _mm256_packs_epi32(low, high);
        let bytes = _mm256_packs_epi16(words, words);
        let spread = |i: i32| _mm256_permutevar8x32_epi32(bytes, _mm256_set1_epi32(i));
        Self { low: [spread(0), spread(4)], high: [spread(1), spread(5)] }
    }

    /// `Σ m * sum` for eight rows, whose minima of four sub-blocks each are the bytes of a lane.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot(&self, mins: [__m256i; 2]) -> __m256i {
        let dot = |x: &[__m256i; 2]| {
            // Four products are at most 4 * 63 * 64.
            let first = _mm256_maddubs_epi16(mins[0], x[0]);
            let both = _mm256_add_epi16(first, _mm256_maddubs_epi16(mins[1], x[1]));
            _mm256_madd_epi16(both, _mm256_set1_epi16(1))
        };
        _mm256_add_epi32(_mm256_slli_epi32::<6>(dot(&self.high)), dot(&self.low))
    }
}

/// The headers of eight rows' blocks of Q4_K or Q5_K.
struct Headers {
    d: __m256,
    dmin: __m256,
    /// Pairs of rows 0 and 1, 4 and 5, 2 and 3, 6 and 7.
    scales: [[[i16; 8]; 2]; 4],
    /// A row per lane, four minima in each.
    mins: [__m256i; 2],
}

/// Where the scales of a row are in `Headers::scales`.
const PLACE: [(usize, usize); ROWS] =
    [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0), (1, 1), (3, 0), (3, 1)];

impl Headers {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn new<B: WithMins>(rows: &[&B; ROWS]) -> Self {
        // Half `p` of vector `i` is the header of row `4 p + i`; then four words each are transposed.
        let mut z = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            z[i] = join(load16(rows[i].header()), load16(rows[i + 4].header()));
        }
        let (t0, t1) = (_mm256_unpacklo_epi32(z[0], z[1]), _mm256_unpacklo_epi32(z[2], z[3]));
        let (t2, t3) = (_mm256_unpackhi_epi32(z[0], z[1]), _mm256_unpackhi_epi32(z[2], z[3]));
        let (d, a) = (_mm256_unpacklo_epi64(t0, t1), _mm256_unpackhi_epi64(t0, t1));
        let (b, c) = (_mm256_unpacklo_epi64(t2, t3), _mm256_unpackhi_epi64(t2, t3));
        // As in `quant::q4_k::unpack_scales_and_mins`.
        let (six, four) = (_mm256_set1_epi32(0x3f3f_3f3f), _mm256_set1_epi32(0x0f0f_0f0f));
        let top = _mm256_set1_epi32(0x3030_3030);
        let high = |low_bits, high_bits| {
            let low = _mm256_and_si256(low_bits, four);
            let high = _mm256_and_si256(_mm256_srli_epi32::<2>(high_bits), top);
            _mm256_or_si256(low, high)
        };
        let (low_scales, high_scales) = (_mm256_and_si256(a, six), high(c, a));
        let mins = [_mm256_and_si256(b, six), high(_mm256_srli_epi32::<4>(c), b)];
        let mut scales = [[[0; 8]; 2]; 4];
        let first = _mm256_unpacklo_epi32(low_scales, high_scales);
        let second = _mm256_unpackhi_epi32(low_scales, high_scales);
        let halves = [
            _mm256_castsi256_si128(first),
            _mm256_extracti128_si256::<1>(first),
            _mm256_castsi256_si128(second),
            _mm256_extracti128_si256::<1>(second),
        ];
        for (scales, half) in scales.iter_mut().zip(halves) {
            // SAFETY: 32 bytes, the size of `scales`.
            unsafe {
                _mm256_storeu_si256(std::ptr::from_mut(scales).cast(), _mm256_cvtepu8_epi16(half));
            }
        }
        let f16 = _mm256_packus_epi32(
            _mm256_and_si256(d, _mm256_set1_epi32(0xffff)),
            _mm256_srli_epi32::<16>(d),
        );
        let f16 = _mm256_permute4x64_epi64::<0b11_01_10_00>(f16);
        Self {
            d: _mm256_cvtph_ps(_mm256_castsi256_si128(f16)),
            dmin: _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(f16)),
            scales,
            mins,
        }
    }

    /// The scales of row `i`, in both halves.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scales(&self, i: usize) -> __m256i {
        _mm256_broadcastsi128_si256(load16(&self.scales[PLACE[i].0][PLACE[i].1]))
    }
}

/// How the codes of Q4_K and Q5_K are unpacked.
trait SuperCodes: WithMins {
    /// All codes, in order.
    fn vectors(&self, k: Avx2) -> [__m256i; 8];
}

impl SuperCodes for BlockQ4K {
    #[inline(always)]
    fn vectors(&self, _: Avx2) -> [__m256i; 8] {
        // SAFETY: the token proves the features.
        unsafe { nibbles_of_super(&self.qs) }
    }
}

impl SuperCodes for BlockQ5K {
    #[inline(always)]
    fn vectors(&self, _: Avx2) -> [__m256i; 8] {
        // SAFETY: the token proves the features.
        unsafe {
            let mut codes = nibbles_of_super(&self.qs);
            let qh = load32(&self.qh);
            let bits = [
                _mm256_slli_epi16::<4>(qh),
                _mm256_slli_epi16::<3>(qh),
                _mm256_slli_epi16::<2>(qh),
                _mm256_slli_epi16::<1>(qh),
                qh,
                _mm256_srli_epi16::<1>(qh),
                _mm256_srli_epi16::<2>(qh),
                _mm256_srli_epi16::<3>(qh),
            ];
            for i in 0..8 {
                let fifth = _mm256_and_si256(bits[i], _mm256_set1_epi8(16));
                codes[i] = _mm256_or_si256(codes[i], fifth);
            }
            codes
        }
    }
}

/// Multiplies 16 rows of Q4_K or Q5_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_mins<B: SuperCodes>(
    k: Avx2,
    rows: &[&B; LANES],
    x: &[i8; SUPER],
    sums: &[i16; N_SUB],
    mut ahead: Ahead,
) -> SuperDot<Avx2> {
    let x = x.as_chunks::<32>().0.first_chunk().expect("eight times 32");
    let sums = MinSums::new(sums);
    let zero = _mm256_setzero_si256();
    let (mut isum, mut msum) = ([zero; 2], [zero; 2]);
    let (mut d, mut dmin) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
    for (half, rows) in rows.as_chunks::<ROWS>().0.iter().enumerate() {
        let headers = Headers::new(rows);
        let mut dots = [zero; ROWS];
        for i in 0..ROWS {
            ahead.fetch(k, size_of::<B>());
            dots[i] = scaled_dot(rows[i].vectors(k), x, headers.scales(i));
        }
        isum[half] = fold8(dots);
        msum[half] = sums.dot(headers.mins);
        (d[half], dmin[half]) = (headers.d, headers.dmin);
    }
    SuperDot { isum, msum, d, dmin }
}

impl<B: SuperCodes> DotSuper<B> for Avx2 {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&B; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        ahead: Ahead,
    ) -> SuperDot<Self> {
        // SAFETY: the token proves the features.
        unsafe { with_mins(self, rows, x, sums, ahead) }
    }
}

/// The codes of a block of Q6_K.
#[inline]
#[target_feature(enable = "avx2")]
fn codes_of_q6_k(block: &BlockQ6K) -> [__m256i; 8] {
    let (low, top) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let mut codes = [low; 8];
    for half in 0..2 {
        let [a, b] = [
            load32(&block.ql.as_chunks::<32>().0[2 * half]),
            load32(&block.ql.as_chunks::<32>().0[2 * half + 1]),
        ];
        let qh = load32(&block.qh.as_chunks::<32>().0[half]);
        let parts = [
            (a, _mm256_slli_epi16::<4>(qh)),
            (b, _mm256_slli_epi16::<2>(qh)),
            (_mm256_srli_epi16::<4>(a), qh),
            (_mm256_srli_epi16::<4>(b), _mm256_srli_epi16::<2>(qh)),
        ];
        for i in 0..4 {
            let (nibbles, upper) = parts[i];
            codes[4 * half + i] =
                _mm256_or_si256(_mm256_and_si256(nibbles, low), _mm256_and_si256(upper, top));
        }
    }
    codes
}

/// Eight bytes with even numbers, then those with odd ones, as i16.
#[inline]
#[target_feature(enable = "avx2")]
fn even_then_odd(x: __m128i) -> __m256i {
    let split = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, split))
}

impl DotSuper<BlockQ6K> for Avx2 {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&BlockQ6K; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        ahead: Ahead,
    ) -> SuperDot<Self> {
        // SAFETY: the token proves the features.
        unsafe { q6_k(self, rows, x, sums, ahead) }
    }
}

/// Multiplies 16 rows of Q6_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k(
    k: Avx2,
    rows: &[&BlockQ6K; LANES],
    x: &[i8; SUPER],
    sums: &[i16; N_SUB],
    mut ahead: Ahead,
) -> SuperDot<Avx2> {
    let x = x.as_chunks::<32>().0.first_chunk().expect("eight times 32");
    let mut split = [0; N_SUB];
    for i in 0..N_SUB / 2 {
        (split[i], split[i + N_SUB / 2]) = (sums[2 * i], sums[2 * i + 1]);
    }
    let sums = load32(&split);
    let zero = _mm256_setzero_si256();
    let mut isum = [zero; 2];
    let mut d = [_mm256_setzero_ps(); 2];
    for (half, rows) in rows.as_chunks::<ROWS>().0.iter().enumerate() {
        let mut dots = [zero; ROWS];
        let mut scales = [0; ROWS];
        for (i, row) in rows.iter().enumerate() {
            ahead.fetch(k, size_of_val(*row));
            scales[i] = u16::from_le_bytes(row.d);
            let scales = even_then_odd(load16(&row.scales));
            let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(scales, sums));
            dots[i] = _mm256_sub_epi32(scaled_dot(codes_of_q6_k(row), x, scales), offset);
        }
        isum[half] = fold8(dots);
        d[half] = _mm256_cvtph_ps(load16(&scales));
    }
    SuperDot { isum, msum: [zero; 2], d, dmin: [_mm256_setzero_ps(); 2] }
}
