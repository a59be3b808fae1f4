//! Decoding with AVX-512: each row of a block is multiplied as it lies in memory, and the sums of 16 rows end up in 16 lanes.
//!
//! A row of a block costs about one instruction per eight weights. What makes that possible:
//! - activations, and what offsets take off, are loaded once for 16 rows; a dot product starts from
//!   `-OFFSET * (the four activations of its lane)` instead of zero, so that offsets cost nothing per row;
//! - `vpdpbusd` leaves sums of four, which fit in 16 bits (but for Q8_0), so that two vectors are packed into one before
//!   scales are multiplied in, or lanes added, with one `vpdpwssd` or `vpmaddwd` for both;
//! - scales and minima of K-quants are unpacked for 16 rows at a time, a row per lane.

use std::arch::x86_64::*;

use crate::arch::loads::{load16, load32};
use crate::arch::{Ahead, DotSmall, DotSuper, SuperDot};
use crate::elementary::LANES;
use crate::quant::{
    BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0, N_SUB, SMALL, SUPER, Small,
    WithMins,
};

use super::Avx512;

/// A vector of 64 bytes from memory.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(at: &T) -> __m512i {
    const { assert!(size_of::<T>() == 64) };
    // SAFETY: 64 bytes are read, which is the size of `T`; no alignment is needed.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(at).cast()) }
}

/// Twice 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Adds the lanes of each 128 bits: lane `i` of each part is the sum of that part of `x[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold4(x: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// `fold4` of sums of four that fit in 16 bits, even in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fold4_narrow(x: [__m512i; 4]) -> __m512i {
    let one = _mm512_set1_epi16(1);
    let ab = _mm512_madd_epi16(_mm512_packs_epi32(x[0], x[1]), one);
    let cd = _mm512_madd_epi16(_mm512_packs_epi32(x[2], x[3]), one);
    _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), one)
}

/// Adds the four parts of 128 bits of each: part `i` is the sum of the parts of `x[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_parts(x: [__m512i; 4]) -> __m512i {
    let low = |a, b| _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
    let high = |a, b| _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
    let ab = _mm512_add_epi32(low(x[0], x[1]), high(x[0], x[1]));
    let cd = _mm512_add_epi32(low(x[2], x[3]), high(x[2], x[3]));
    let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd);
    let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd);
    _mm512_add_epi32(even, odd)
}

/// Adds parts 0 and 1, and 2 and 3, of each: part `i` of the two results is such a sum of `x[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fold_halves(x: [__m512i; 4]) -> [__m512i; 2] {
    let even = |a, b| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
    let odd = |a, b| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
    let ab = _mm512_add_epi32(even(x[0], x[1]), odd(x[0], x[1]));
    let cd = _mm512_add_epi32(even(x[2], x[3]), odd(x[2], x[3]));
    [even(ab, cd), odd(ab, cd)]
}

/// `-offset * (the sum of the four activations in each lane)`
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn offsets(offset: u8, x: __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(offset.cast_signed()), x))
}

/// How the codes of a format are unpacked.
trait Codes: Small {
    /// Whether sums of four products fit in 16 bits, even in pairs.
    const NARROW: bool;

    /// The codes of two blocks.
    fn vector(k: Avx512, blocks: &[Self; 2]) -> __m512i;
}

impl Codes for BlockQ8_0 {
    const NARROW: bool = false;

    #[inline(always)]
    fn vector(_: Avx512, blocks: &[Self; 2]) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe {
            let codes = join(load32(&blocks[0].qs), load32(&blocks[1].qs));
            _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
        }
    }
}

/// Low and high nibbles of two blocks whose low nibbles are the first 16 codes, high ones the last.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn nibbles(first: &[u8; 16], second: &[u8; 16]) -> __m512i {
    let both = _mm512_broadcast_i32x4(load16(first));
    let both = _mm512_mask_broadcast_i32x4(both, 0xff00, load16(second));
    let shifts = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    _mm512_and_si512(_mm512_srlv_epi64(both, shifts), _mm512_set1_epi8(15))
}

impl Codes for BlockQ4_0 {
    const NARROW: bool = true;

    #[inline(always)]
    fn vector(_: Avx512, blocks: &[Self; 2]) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe { nibbles(&blocks[0].qs, &blocks[1].qs) }
    }
}

impl Codes for BlockQ5_0 {
    const NARROW: bool = true;

    #[inline(always)]
    fn vector(_: Avx512, blocks: &[Self; 2]) -> __m512i {
        let high_bits = |i: usize| u64::from(u32::from_le_bytes(blocks[i].qh));
        // SAFETY: the token proves the features.
        unsafe {
            let codes = nibbles(&blocks[0].qs, &blocks[1].qs);
            _mm512_mask_add_epi8(
                codes,
                high_bits(0) | (high_bits(1) << 32),
                codes,
                _mm512_set1_epi8(16),
            )
        }
    }
}

impl<B: Codes> DotSmall<B> for Avx512 {
    #[inline(always)]
    fn dot_four(self, rows: &[&[B; 2]; 4], x: &[[i8; SMALL]; 2]) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe {
            let x = load(x);
            let start = offsets(B::OFFSET as u8, x);
            let mut dots = [start; 4];
            for i in 0..4 {
                dots[i] = _mm512_dpbusd_epi32(start, B::vector(self, rows[i]), x);
            }
            if B::NARROW { fold4_narrow(dots) } else { fold4(dots) }
        }
    }
}

/// What one super-block of activations is to 16 rows of Q4_K or Q5_K.
#[derive(Clone, Copy)]
struct MinSums {
    low: [__m512i; 2],
    high: [__m512i; 2],
}

impl MinSums {
    /// Splits the sums of each 32 activations into two signed bytes: `64 * high + low`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")]
    fn new(sums: &[i16; N_SUB]) -> Self {
        let sums = _mm256_madd_epi16(load32(sums), _mm256_set1_epi16(1));
        let high = _mm256_srai_epi32::<6>(_mm256_add_epi32(sums, _mm256_set1_epi32(32)));
        let low = _mm256_sub_epi32(sums, _mm256_slli_epi32::<6>(high));
        let (low, high) = (_mm256_cvtepi32_epi8(low), _mm256_cvtepi32_epi8(high));
        let spread =
            |x| [_mm512_broadcastd_epi32(x), _mm512_broadcastd_epi32(_mm_srli_epi64::<32>(x))];
        Self { low: spread(low), high: spread(high) }
    }

    /// `Σ m * sum` for 16 rows, whose minima of four sub-blocks each are the bytes of a lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot(&self, mins: [__m512i; 2]) -> __m512i {
        let dot = |x: &[__m512i; 2]| {
            let first = _mm512_dpbusd_epi32(_mm512_setzero_si512(), mins[0], x[0]);
            _mm512_dpbusd_epi32(first, mins[1], x[1])
        };
        _mm512_add_epi32(_mm512_slli_epi32::<6>(dot(&self.high)), dot(&self.low))
    }
}

/// The headers of 16 rows' blocks of Q4_K or Q5_K, a row per lane.
struct Headers {
    d: __m512,
    dmin: __m512,
    /// Eight bytes per row, where `PLACE` says.
    scales: [u64; LANES],
    mins: [__m512i; 2],
}

/// Where row `i` is in `Headers::scales`.
const PLACE: [usize; LANES] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

impl Headers {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
    fn new<B: WithMins>(rows: &[&B; LANES]) -> Self {
        // Part `p` of vector `i` is the header of row `4 p + i`; then four words each are transposed.
        let mut z = [_mm512_setzero_si512(); 4];
        for (i, z) in z.iter_mut().enumerate() {
            let low = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(load16(rows[i].header())),
                load16(rows[i + 4].header()),
            );
            let high = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(load16(rows[i + 8].header())),
                load16(rows[i + 12].header()),
            );
            *z = join(low, high);
        }
        let (t0, t1) = (_mm512_unpacklo_epi32(z[0], z[1]), _mm512_unpacklo_epi32(z[2], z[3]));
        let (t2, t3) = (_mm512_unpackhi_epi32(z[0], z[1]), _mm512_unpackhi_epi32(z[2], z[3]));
        let (d, a) = (_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
        let (b, c) = (_mm512_unpacklo_epi64(t2, t3), _mm512_unpackhi_epi64(t2, t3));
        // As in `quant::q4_k::unpack_scales_and_mins`.
        let (six, four) = (_mm512_set1_epi32(0x3f3f_3f3f), _mm512_set1_epi32(0x0f0f_0f0f));
        let top = _mm512_set1_epi32(0x3030_3030);
        let high = |low_bits, high_bits| {
            let low = _mm512_and_si512(low_bits, four);
            let high = _mm512_and_si512(_mm512_srli_epi32::<2>(high_bits), top);
            _mm512_or_si512(low, high)
        };
        let scales = [_mm512_and_si512(a, six), high(c, a)];
        let mins = [_mm512_and_si512(b, six), high(_mm512_srli_epi32::<4>(c), b)];
        let mut out = [0; LANES];
        // SAFETY: 128 bytes, the size of `out`.
        unsafe {
            let at = out.as_mut_ptr().cast::<__m512i>();
            _mm512_storeu_si512(at, _mm512_unpacklo_epi32(scales[0], scales[1]));
            _mm512_storeu_si512(at.add(1), _mm512_unpackhi_epi32(scales[0], scales[1]));
        }
        let f16 = |x| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
        Self { d: f16(d), dmin: f16(_mm512_srli_epi32::<16>(d)), scales: out, mins }
    }

    /// The scales of row `i` for two packed pairs of vectors of 64 codes: those of Q4_K's nibbles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn scales(&self, i: usize) -> [__m512i; 2] {
        let scales = _mm512_set1_epi64(self.scales[PLACE[i]].cast_signed());
        // Words 0..4 and 4..8 of each part take scale 0 and 1, in the upper half 2 and 3; and the next four.
        const FOUR: i64 = 0x8000_8000_8000_8000_u64.cast_signed();
        const ONES: i64 = 0x0001_0001_0001_0001;
        let place = |first: i64| {
            let s = |i| FOUR + ONES * (first + i);
            _mm512_setr_epi64(s(0), s(1), s(0), s(1), s(2), s(3), s(2), s(3))
        };
        [_mm512_shuffle_epi8(scales, place(0)), _mm512_shuffle_epi8(scales, place(4))]
    }
}

/// Multiplies two pairs of vectors of codes and of activations, and the sums by their scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn scaled_dot(
    codes: [__m512i; 4],
    x: &[__m512i; 4],
    start: &[__m512i; 4],
    scales: [__m512i; 2],
) -> __m512i {
    let dot = |i: usize| _mm512_dpbusd_epi32(start[i], codes[i], x[i]);
    let first = _mm512_packs_epi32(dot(0), dot(1));
    let second = _mm512_packs_epi32(dot(2), dot(3));
    let sum = _mm512_dpwssd_epi32(_mm512_setzero_si512(), first, scales[0]);
    _mm512_dpwssd_epi32(sum, second, scales[1])
}

/// Activations in the order of Q4_K's nibbles: low and high ones of 64 bytes, which are two times 32.
#[inline]
#[target_feature(enable = "avx512f")]
fn nibble_order(x: &[i8; SUPER]) -> [__m512i; 4] {
    let x = x.as_chunks::<32>().0;
    let pair = |i: usize| join(load32(&x[i]), load32(&x[i + 2]));
    [pair(0), pair(1), pair(4), pair(5)]
}

/// How the codes of Q4_K and Q5_K are unpacked.
trait SuperCodes: WithMins {
    /// All codes, in the order of `nibble_order`.
    fn vectors(&self, k: Avx512) -> [__m512i; 4];
}

impl SuperCodes for BlockQ4K {
    #[inline(always)]
    fn vectors(&self, _: Avx512) -> [__m512i; 4] {
        // SAFETY: the token proves the features.
        unsafe {
            let low = _mm512_set1_epi8(15);
            let qs = self.qs.as_chunks::<64>().0;
            let [a, b] = [load(&qs[0]), load(&qs[1])];
            [
                _mm512_and_si512(a, low),
                _mm512_and_si512(_mm512_srli_epi16::<4>(a), low),
                _mm512_and_si512(b, low),
                _mm512_and_si512(_mm512_srli_epi16::<4>(b), low),
            ]
        }
    }
}

impl SuperCodes for BlockQ5K {
    #[inline(always)]
    fn vectors(&self, _: Avx512) -> [__m512i; 4] {
        // SAFETY: the token proves the features.
        unsafe {
            let low = _mm512_set1_epi8(15);
            let fifth = _mm512_set1_epi8(16);
            // Rotating a word by this brings a bit to place 4 of its byte; the upper half takes the bit two further on.
            let turns = |bit: i32| {
                let (a, b) = ((4 - bit) & 31, (2 - bit) & 31);
                _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b)
            };
            let qs = self.qs.as_chunks::<64>().0;
            let [a, b] = [load(&qs[0]), load(&qs[1])];
            let qh = _mm512_broadcast_i64x4(load32(&self.qh));
            let code = |nibbles, bit| {
                let high = _mm512_and_si512(_mm512_rolv_epi32(qh, turns(bit)), fifth);
                // (nibbles & low) | high
                _mm512_ternarylogic_epi32::<0xf8>(high, nibbles, low)
            };
            [
                code(a, 0),
                code(_mm512_srli_epi16::<4>(a), 1),
                code(b, 4),
                code(_mm512_srli_epi16::<4>(b), 5),
            ]
        }
    }
}

impl<B: SuperCodes> DotSuper<B> for Avx512 {
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

/// Multiplies 16 rows of Q4_K or Q5_K.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,f16c")]
fn with_mins<B: SuperCodes>(
    k: Avx512,
    rows: &[&B; LANES],
    x: &[i8; SUPER],
    sums: &[i16; N_SUB],
    mut ahead: Ahead,
) -> SuperDot<Avx512> {
    let headers = Headers::new(rows);
    let x = nibble_order(x);
    let start = [_mm512_setzero_si512(); 4];
    let mut folds = start;
    for (i, fold) in folds.iter_mut().enumerate() {
        let mut dots = start;
        for (j, dot) in dots.iter_mut().enumerate() {
            let r = 4 * i + j;
            ahead.fetch(k, size_of::<B>());
            *dot = scaled_dot(rows[r].vectors(k), &x, &start, headers.scales(r));
        }
        *fold = fold4(dots);
    }
    let msum = MinSums::new(sums).dot(headers.mins);
    SuperDot { isum: fold_parts(folds), msum, d: headers.d, dmin: headers.dmin }
}

impl DotSuper<BlockQ6K> for Avx512 {
    #[inline(always)]
    fn dot_super_rows(
        self,
        rows: &[&BlockQ6K; LANES],
        x: &[i8; SUPER],
        _: &[i16; N_SUB],
        ahead: Ahead,
    ) -> SuperDot<Self> {
        // SAFETY: the token proves the features.
        unsafe {
            let (isum, d) = q6_k(self, rows, x, ahead);
            SuperDot { isum, msum: _mm512_setzero_si512(), d, dmin: _mm512_setzero_ps() }
        }
    }
}

/// Multiplies 16 rows of Q6_K.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,f16c")]
fn q6_k(
    k: Avx512,
    rows: &[&BlockQ6K; LANES],
    x: &[i8; SUPER],
    mut ahead: Ahead,
) -> (__m512i, __m512) {
    let x = x.as_chunks::<64>().0;
    let x = [load(&x[0]), load(&x[1]), load(&x[2]), load(&x[3])];
    let start = [offsets(32, x[0]), offsets(32, x[1]), offsets(32, x[2]), offsets(32, x[3])];
    let (low, high) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    // Rotating by these brings two bits to places 4 and 5 of their byte: bits 0 and 2, and bits 4 and 6.
    let first = _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2);
    let second = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 30, 30, 30, 30, 30, 30, 30, 30);
    // A packed pair has sub-blocks `i` and `i + 4` in its part `i`.
    let place = |k: i64| {
        let s = |i: i64| 0x0001_0001_0001_0001 * (k + i);
        _mm512_setr_epi64(s(0), s(4), s(1), s(5), s(2), s(6), s(3), s(7))
    };
    let mut folds = start;
    for (fold, rows) in folds.iter_mut().zip(rows.as_chunks::<4>().0) {
        let mut dots = start;
        for (dot, row) in dots.iter_mut().zip(rows) {
            ahead.fetch(k, size_of_val(*row));
            let half = |i: usize| {
                let ql = load(&row.ql.as_chunks::<64>().0[i]);
                let qh = _mm512_broadcast_i64x4(load32(&row.qh.as_chunks::<32>().0[i]));
                let code = |nibbles, turns| {
                    let high = _mm512_and_si512(_mm512_rolv_epi32(qh, turns), high);
                    // (nibbles & low) | high
                    _mm512_ternarylogic_epi32::<0xf8>(high, nibbles, low)
                };
                [code(ql, first), code(_mm512_srli_epi16::<4>(ql), second)]
            };
            let ([a, b], [c, d]) = (half(0), half(1));
            let scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(load16(&row.scales)));
            let scales = [
                _mm512_permutexvar_epi16(place(0), scales),
                _mm512_permutexvar_epi16(place(8), scales),
            ];
            *dot = scaled_dot([a, b, c, d], &x, &start, scales);
        }
        *fold = fold4(dots);
    }
    let mut d = [0; LANES];
    for (d, row) in d.iter_mut().zip(rows) {
        *d = u16::from_le_bytes(row.d);
    }
    (fold_parts(folds), _mm512_cvtph_ps(load32(&d)))
}
