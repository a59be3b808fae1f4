//! Every instruction set, thread count and batch against the scalar specification, and that against f64.

use crate::*;

/// xorshift64*: any seed but zero.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `-1.0..1.0`.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Where the f16 scales of a block are, and its size.
fn scale_offsets(ty: WeightType) -> &'static [usize] {
    match ty {
        WeightType::F32 | WeightType::F16 => &[],
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => &[0],
        WeightType::Q4K | WeightType::Q5K => &[0, 2],
        WeightType::Q6K => &[208],
    }
}

/// What the scales of a test matrix are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scales {
    Usual,
    Extreme,
    NotFinite,
}

fn random_weights(
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    scales: Scales,
    rng: &mut Rng,
) -> Vec<u8> {
    let n = n_rows * ty.row_bytes(n_cols);
    let mut bytes: Vec<u8> = (0..n).map(|_| rng.next() as u8).collect();
    let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
    match ty {
        WeightType::F32 => {
            for out in bytes.as_chunks_mut::<4>().0 {
                *out = rng.float().to_le_bytes();
            }
        }
        WeightType::F16 => {
            for out in bytes.as_chunks_mut::<2>().0 {
                *out = f16(rng.float());
            }
        }
        _ => {}
    }
    for (i, block) in bytes.chunks_exact_mut(ty.block_bytes()).enumerate() {
        if scales == Scales::Extreme {
            match i % 3 {
                0 => block.fill(0xff),
                1 => block.fill(0),
                _ => block.fill(0x80),
            }
        }
        for &at in scale_offsets(ty) {
            let d = match (scales, rng.next() % 4) {
                (Scales::Usual, _) => f16(rng.float() * 0.01),
                (Scales::Extreme, 0) => f16(65504.0),
                (Scales::Extreme, 1) => f16(-65504.0),
                (Scales::Extreme, 2) => [1, 0],
                (Scales::Extreme, _) => [0, 0],
                (Scales::NotFinite, 0) => f16(f32::INFINITY),
                (Scales::NotFinite, 1) => f16(f32::NAN),
                (Scales::NotFinite, _) => f16(1.0),
            };
            block[at..at + 2].copy_from_slice(&d);
        }
    }
    bytes
}

/// Bits, with all NaNs alike: which of two NaNs an operation passes on is the CPU's choice.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fn matmul(compute: &Compute, w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut acts = Activations::default();
    compute.quantize(&mut acts, x, w.n_cols(), &[w.weight_type().activation()]);
    let mut out = vec![f32::NAN; acts.n_tokens() * w.n_rows()];
    compute.matmul(w, &acts, &mut out);
    out
}

#[track_caller]
fn check_matmul(ty: WeightType, n_rows: usize, n_cols: usize, n_tokens: usize, scales: Scales) {
    let mut rng = Rng::new((n_rows * 31 + n_cols * 7 + n_tokens) as u64);
    let bytes = random_weights(ty, n_rows, n_cols, scales, &mut rng);
    let w = Matrix::new(ty, n_rows, n_cols, &bytes).unwrap();
    check_isas(&w, &rng.floats(n_tokens * n_cols), scales);
}

#[track_caller]
fn check_isas(w: &Matrix<'_>, x: &[f32], scales: Scales) {
    let expected = matmul(&Compute::with_isa(Isa::scalar(), 1), w, x);
    for isa in Isa::all_available() {
        let got = matmul(&Compute::with_isa(isa, 1), w, x);
        let n_tokens = x.len() / w.n_cols();
        assert!(
            bits(&got) == bits(&expected),
            "{isa} {w:?} {n_tokens} tokens {scales:?}:\n{got:?}\n{expected:?}"
        );
    }
}

#[test]
fn every_isa_multiplies_as_scalar_does() {
    for ty in WeightType::ALL {
        let block = ty.block_len().max(16);
        for scales in [Scales::Usual, Scales::Extreme, Scales::NotFinite] {
            for n_tokens in (1..=9).chain([33]) {
                check_matmul(ty, 19, 2 * block, n_tokens, scales);
            }
            for n_rows in [1, 7, 16, 33] {
                check_matmul(ty, n_rows, block, 1, scales);
                check_matmul(ty, n_rows, 3 * block, 5, scales);
            }
        }
    }
}

#[test]
fn the_largest_products_fit_in_every_register() {
    let mut rng = Rng::new(14);
    for ty in WeightType::ALL {
        let (n_rows, n_cols) = (17, 3 * ty.block_len().max(16));
        let bytes = random_weights(ty, n_rows, n_cols, Scales::Extreme, &mut rng);
        let w = Matrix::new(ty, n_rows, n_cols, &bytes).unwrap();
        for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
            for n_tokens in [1, 4, 7] {
                let x: Vec<f32> = (0..n_tokens * n_cols).map(|i| signs[i % 2]).collect();
                check_isas(&w, &x, Scales::Extreme);
            }
        }
    }
}

/// Tests of an instruction set that is not there pass without having run; `cargo xtask arm` says which have to be there.
#[test]
fn the_expected_instruction_sets_are_there() {
    let Ok(expected) = std::env::var("SHOAL_EXPECT_ISA") else { return };
    let all: Vec<String> = Isa::all_available().iter().map(Isa::to_string).collect();
    assert_eq!(all.join(","), expected);
}

#[test]
fn float_rows_need_not_be_whole_groups() {
    for ty in [WeightType::F32, WeightType::F16] {
        for n_cols in [1, 15, 17, 100] {
            for n_tokens in [1, 6] {
                check_matmul(ty, 5, n_cols, n_tokens, Scales::Usual);
            }
        }
    }
}

#[test]
fn products_are_near_f64() {
    let mut rng = Rng::new(5);
    for ty in WeightType::ALL {
        let (n_rows, n_cols, n_tokens) = (20, 1024, 5);
        let bytes = random_weights(ty, n_rows, n_cols, Scales::Usual, &mut rng);
        let w = Matrix::new(ty, n_rows, n_cols, &bytes).unwrap();
        let x = rng.floats(n_tokens * n_cols);
        let compute = Compute::new(1);
        let got = matmul(&compute, &w, &x);
        let mut row = vec![0.0; n_cols];
        for r in 0..n_rows {
            compute.dequantize_row(&w, r, &mut row);
            for t in 0..n_tokens {
                let pairs = row.iter().zip(&x[t * n_cols..]);
                let (mut sum, mut squares) = (0.0, 0.0);
                for (w, x) in pairs {
                    let product = f64::from(*w) * f64::from(*x);
                    sum += product;
                    squares += f64::from(*w) * f64::from(*w);
                }
                // Rounding errors of activations are uniform in half a step of at most 1/127: 0.0023 on average.
                let tolerance = if scale_offsets(ty).is_empty() { 1e-5 } else { 0.015 };
                let error = (f64::from(got[t * n_rows + r]) - sum).abs();
                assert!(
                    error <= tolerance * squares.sqrt(),
                    "{ty} row {r} token {t}: {error} of {sum}"
                );
            }
        }
    }
}

#[test]
fn batched_is_one_by_one_with_any_threads() {
    let mut rng = Rng::new(6);
    for ty in WeightType::ALL {
        let (n_rows, n_cols, n_tokens) = (83, 512, 11);
        let bytes = random_weights(ty, n_rows, n_cols, Scales::Usual, &mut rng);
        let w = Matrix::new(ty, n_rows, n_cols, &bytes).unwrap();
        let x = rng.floats(n_tokens * n_cols);
        let one = Compute::new(1);
        let single: Vec<f32> = x.chunks(n_cols).flat_map(|x| matmul(&one, &w, x)).collect();
        for n_threads in [1, 2, 5] {
            assert_eq!(bits(&matmul(&Compute::new(n_threads), &w, &x)), bits(&single), "{ty}");
        }
    }
}

#[test]
fn many_matrices_in_one_dispatch_are_each_alone() {
    let mut rng = Rng::new(7);
    let types = [WeightType::Q4K, WeightType::Q6K, WeightType::Q8_0, WeightType::F16];
    let shapes = [33, 0, 16, 5];
    let bytes: Vec<_> = types
        .iter()
        .zip(shapes)
        .map(|(ty, n)| random_weights(*ty, n, 256, Scales::Usual, &mut rng))
        .collect();
    let matrices: Vec<_> =
        (0..4).map(|i| Matrix::new(types[i], shapes[i], 256, &bytes[i]).unwrap()).collect();
    let x = rng.floats(6 * 256);
    for isa in Isa::all_available() {
        let compute = Compute::with_isa(isa, 3);
        let mut acts = Activations::default();
        let forms = [ActivationType::F32, ActivationType::Q8, ActivationType::Q8K];
        compute.quantize(&mut acts, &x, 256, &forms);
        let mut outs: Vec<Vec<f32>> = shapes.iter().map(|n| vec![0.0; n * 6]).collect();
        let mut jobs: Vec<_> =
            matrices.iter().zip(&mut outs).map(|(w, out)| MatmulJob { w: *w, out }).collect();
        compute.matmul_many(&mut jobs, &acts);
        for (w, out) in matrices.iter().zip(&outs) {
            assert_eq!(bits(out), bits(&matmul(&compute, w, &x)));
        }
    }
}

#[test]
fn a_range_of_rows_is_a_matrix() {
    let mut rng = Rng::new(8);
    let bytes = random_weights(WeightType::Q5_0, 40, 64, Scales::Usual, &mut rng);
    let w = Matrix::new(WeightType::Q5_0, 40, 64, &bytes).unwrap();
    let x = rng.floats(64);
    let compute = Compute::new(2);
    assert_eq!(matmul(&compute, &w.rows(3..23), &x), matmul(&compute, &w, &x)[3..23]);
}

#[test]
fn refuses_bytes_that_are_not_the_shape() {
    let error = Matrix::new(WeightType::Q4K, 2, 256, &[0; 287]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "matrix of q4_K [2, 256]: its bytes do not have that size, got 287"
    );
    let error = Matrix::new(WeightType::Q4K, 1, 128, &[0; 72]).unwrap_err();
    assert_eq!(error.to_string(), "matrix of q4_K: expected columns in blocks of 256, got 128");
    assert!(Matrix::new(WeightType::F32, usize::MAX, 2, &[]).is_err());
    assert!(Matrix::new(WeightType::F32, 1, usize::MAX, &[]).is_err());
}

#[test]
fn activations_that_cannot_be_scaled_are_zero() {
    let bytes = random_weights(WeightType::Q8_0, 3, 32, Scales::Usual, &mut Rng::new(9));
    let w = Matrix::new(WeightType::Q8_0, 3, 32, &bytes).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 0.0] {
        let mut x = vec![0.0; 32];
        x[7] = bad;
        for isa in Isa::all_available() {
            assert_eq!(matmul(&Compute::with_isa(isa, 1), &w, &x), [0.0; 3], "{isa} {bad}");
        }
    }
}

#[test]
fn exp_is_exact_at_zero_and_within_two_ulp() {
    assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
    assert_eq!(exp(-0.0), 1.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(89.0), f32::INFINITY);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-104.0), 0.0);
    assert!(exp(f32::NAN).is_nan());
    let mut worst = 0.0;
    for i in 0..2_000_000 {
        let x = -104.0 + i as f32 * (193.0 / 2_000_000.0);
        let (got, expected) = (exp(x), f64::from(x).exp());
        if expected > f64::from(f32::MAX) {
            continue;
        }
        let near = expected as f32;
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        let error = (f64::from(got) - expected).abs() / if ulp.is_finite() { ulp } else { 2e31 };
        worst = f64::max(worst, error);
    }
    assert!(worst <= 2.0, "{worst} ulp");
}

#[test]
fn f16_conversions_are_those_of_ieee() {
    for isa in Isa::all_available() {
        let compute = Compute::with_isa(isa, 1);
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
        let w = Matrix::new(WeightType::F16, 65536, 1, &bytes).unwrap();
        let one = matmul(&compute, &w, &[1.0]);
        let expected: Vec<f32> = halves.iter().map(|x| half::f16::from_bits(*x).to_f32()).collect();
        // A dot product starts from +0.0, so that -0.0 comes out as +0.0.
        let expected: Vec<f32> = expected.iter().map(|x| x + 0.0).collect();
        assert_eq!(bits(&one), bits(&expected), "{isa}");
        let mut rng = Rng::new(10);
        let mut x: Vec<f32> = (0..100_000).map(|_| f32::from_bits(rng.next() as u32)).collect();
        x.extend((0..100_000).map(|_| rng.float() * 10.0f32.powf(rng.float() * 8.0)));
        x.retain(|x| !x.is_nan());
        let mut out = vec![0; x.len()];
        compute.to_f16(&x, &mut out);
        for (x, out) in x.iter().zip(&out) {
            assert_eq!(half::f16::from_f32(*x).to_bits(), *out, "{isa} {x}");
        }
    }
}

#[test]
fn row_operations_are_the_same_on_every_isa() {
    let mut rng = Rng::new(11);
    let (n_tokens, n, head_dim) = (3, 7 * 20, 20);
    let (x, y) = (rng.floats(n_tokens * n), rng.floats(n_tokens * n));
    let (weight, cos_sin) = (rng.floats(n), rng.floats(n_tokens * 12));
    let run = |isa: Isa| {
        let compute = Compute::with_isa(isa, 2);
        let mut all = vec![vec![0.0; x.len()]];
        compute.rms_norm(&x, &weight, 1e-5, &mut all[0]);
        let mut a = x.clone();
        compute.add(&mut a, &y);
        compute.add_bias(&mut a, &weight);
        all.push(a);
        let mut a: Vec<f32> = x.iter().map(|x| x * 50.0).collect();
        compute.silu_mul(&mut a, &y);
        all.push(a);
        for kind in [RopeKind::Interleaved, RopeKind::Halves] {
            let mut a = x.clone();
            compute.rope(&mut a, n / head_dim, head_dim, 12, &cos_sin, kind);
            all.push(a);
        }
        all
    };
    let expected = run(Isa::scalar());
    for isa in Isa::all_available() {
        for (i, (got, expected)) in run(isa).iter().zip(&expected).enumerate() {
            assert_eq!(bits(got), bits(expected), "{isa}, operation {i}");
        }
    }
    let mean: f64 = x[..n].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
    let normed = f64::from(x[3]) / (mean + 1e-5).sqrt() * f64::from(weight[3]);
    assert!((f64::from(expected[0][3]) - normed).abs() < 1e-6);
    let g = f64::from(x[5]) * 50.0;
    let silu = g / (1.0 + (-g).exp()) * f64::from(y[5]);
    assert!((f64::from(expected[2][5]) - silu).abs() < 1e-4);
    let (cos, sin) = (cos_sin[2], cos_sin[3]);
    assert_eq!(expected[3][2], x[2] * cos - x[3] * sin);
    assert_eq!(expected[3][3], x[2] * sin + x[3] * cos);
    assert_eq!(expected[4][1], x[1] * cos - x[7] * sin);
    assert_eq!(expected[4][7], x[1] * sin + x[7] * cos);
    assert_eq!(expected[4][12..20], x[12..20]);
}

#[test]
fn large_rows_are_the_same_with_any_threads() {
    let mut rng = Rng::new(12);
    let (x, y, weight) = (rng.floats(90_000), rng.floats(90_000), rng.floats(300));
    let run = |n_threads| {
        let compute = Compute::new(n_threads);
        let mut a = vec![0.0; x.len()];
        compute.rms_norm(&x, &weight, 1e-6, &mut a);
        compute.silu_mul(&mut a, &y);
        compute.add(&mut a, &y);
        bits(&a)
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(5));
}
