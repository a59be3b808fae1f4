//! Every kernel that counts, alone, on one thread, with each instruction set of this CPU.
//!
//! ```text
//! cargo bench -p shoal-kernels -- --save-baseline before [FILTER]
//! cargo bench -p shoal-kernels -- --baseline before [FILTER]
//! ```
//!
//! Names are `matmul/q4_K/64/avx2`, so `matmul/q4_K` or `/avx2` selects. Matrices for one token exceed the caches, as in decoding;
//! those for more are of one layer's size. The scalar kernels are left out: they are a specification.

#![expect(missing_docs, reason = "what criterion's macros generate has no documentation")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use shoal_kernels::{
    ActivationType, Activations, AttentionJob, AttentionShape, Compute, Isa, Matrix, RopeKind,
    WeightType,
};

const N_COLS: usize = 2048;
/// A matrix that is read from memory.
const DECODE_BYTES: usize = 128 << 20;
/// Rows of a matrix for prompts.
const PREFILL_ROWS: usize = 2048;
/// Llama 3.2 1B's heads.
const HEADS: AttentionShape =
    AttentionShape { n_head: 32, n_head_kv: 8, head_dim: 64, scale: 0.125, window: None };
/// Its feed-forward length.
const N_FF: usize = 8192;

fn computes() -> impl Iterator<Item = Compute> {
    Isa::all_available().into_iter().skip(1).map(|isa| Compute::with_isa(isa, 1))
}

/// A group whose figures take a second or two each: enough for differences of some percent, and all of it within minutes.
fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
}

/// Numbers of both signs near one.
fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin()).collect()
}

fn matmul(c: &mut Criterion) {
    // Small bytes everywhere: no scale is infinite, no float a NaN.
    let bytes: Vec<u8> = (0..DECODE_BYTES).map(|i| (i * 7 % 59) as u8).collect();
    for ty in WeightType::ALL {
        let mut group = group(c, &format!("matmul/{ty}"));
        for n_tokens in [1, 8, 64, 256] {
            let row_bytes = ty.row_bytes(N_COLS);
            let n_rows = if n_tokens == 1 { DECODE_BYTES / row_bytes } else { PREFILL_ROWS };
            let w = Matrix::new(ty, n_rows, N_COLS, &bytes[..n_rows * row_bytes]);
            let w = w.expect("whole rows");
            group.throughput(match n_tokens {
                1 => Throughput::Bytes((n_rows * row_bytes) as u64),
                _ => Throughput::Elements((n_rows * N_COLS * n_tokens) as u64),
            });
            let x = floats(n_tokens * N_COLS);
            let mut out = vec![0.0; n_tokens * n_rows];
            for compute in computes() {
                let mut acts = Activations::default();
                compute.quantize(&mut acts, &x, N_COLS, &[ty.activation()]);
                let id = BenchmarkId::new(n_tokens.to_string(), compute.isa());
                group.bench_function(id, |b| {
                    b.iter(|| compute.matmul(&w, black_box(&acts), &mut out));
                });
            }
        }
    }
}

/// One token, and a chunk of a prompt, after as many positions as the name says.
fn attention(c: &mut Criterion) {
    for n_tokens in [1, 64] {
        let mut group = group(c, &format!("attention/{n_tokens}"));
        for position in [0, 1024, 4096] {
            let n_ctx = position + n_tokens;
            let n_kv = HEADS.n_head_kv * n_ctx * HEADS.head_dim;
            let bits = |i: usize| half::f16::from_f32((i as f32 * 0.11).sin()).to_bits();
            let (k, v): (Vec<u16>, Vec<u16>) = (0..n_kv).map(|i| (bits(i), bits(i + 1))).unzip();
            let n_q = n_tokens * HEADS.n_head * HEADS.head_dim;
            let (q, mut out) = (floats(n_q), vec![0.0; n_q]);
            group.throughput(Throughput::Bytes(4 * n_kv as u64));
            for compute in computes() {
                let id = BenchmarkId::new(position.to_string(), compute.isa());
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let out = &mut out[..];
                        let job = AttentionJob { q: &q, k: &k, v: &v, n_ctx, position, out };
                        compute.attention(&mut [job], &HEADS);
                    });
                });
            }
        }
    }
}

fn rows(c: &mut Criterion) {
    for n_tokens in [1, 64] {
        let mut group = group(c, &format!("rows/{n_tokens}"));
        let elements = |n: usize| Throughput::Elements((n_tokens * n) as u64);
        for compute in computes() {
            let isa = compute.isa();
            let (x, weight) = (floats(n_tokens * N_COLS), floats(N_COLS));
            let mut out = vec![0.0; n_tokens * N_COLS];
            group.throughput(elements(N_COLS));
            group.bench_function(BenchmarkId::new("rms_norm", isa), |b| {
                b.iter(|| compute.rms_norm(black_box(&x), &weight, 1e-5, &mut out));
            });
            for (name, form) in
                [("quantize_q8", ActivationType::Q8), ("quantize_q8k", ActivationType::Q8K)]
            {
                let mut acts = Activations::default();
                group.bench_function(BenchmarkId::new(name, isa), |b| {
                    b.iter(|| compute.quantize(&mut acts, black_box(&x), N_COLS, &[form]));
                });
            }
            // Turned by real angles, so that repeating it neither grows nor shrinks the numbers.
            let angles = floats(n_tokens * HEADS.head_dim / 2).into_iter();
            let cos_sin: Vec<f32> = angles.flat_map(|x| [x.cos(), x.sin()]).collect();
            let kinds =
                [("rope_interleaved", RopeKind::Interleaved), ("rope_halves", RopeKind::Halves)];
            for (name, kind) in kinds {
                let AttentionShape { n_head, head_dim, .. } = HEADS;
                group.bench_function(BenchmarkId::new(name, isa), |b| {
                    b.iter(|| compute.rope(&mut out, n_head, head_dim, head_dim, &cos_sin, kind));
                });
            }
            let (gate, up) = (floats(n_tokens * N_FF), floats(n_tokens * N_FF));
            group.throughput(elements(N_FF));
            group.bench_function(BenchmarkId::new("silu_mul", isa), |b| {
                // Repeated in place it would end among subnormal numbers.
                b.iter_batched_ref(
                    || gate.clone(),
                    |gate| compute.silu_mul(gate, &up),
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

criterion_group!(kernels, matmul, attention, rows);
criterion_main!(kernels);
