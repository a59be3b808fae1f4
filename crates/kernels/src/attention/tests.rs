//! Attention against f64, across chunk boundaries, alone and together.

use crate::tests::Rng;
use crate::*;

struct Sequence {
    q: Vec<f32>,
    k: Vec<u16>,
    v: Vec<u16>,
    n_ctx: usize,
    position: usize,
}

fn shape(head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { n_head: 4, n_head_kv: 2, head_dim, scale: 0.7, window }
}

fn sequence(n_tokens: usize, position: usize, head_dim: usize, rng: &mut Rng) -> Sequence {
    let n_ctx = position + n_tokens + 3;
    let mut halves =
        |n| -> Vec<u16> { (0..n).map(|_| half::f16::from_f32(rng.float()).to_bits()).collect() };
    let (mut k, v) = (halves(2 * n_ctx * head_dim), halves(2 * n_ctx * head_dim));
    // What lies beyond the filled positions must not matter.
    for head in k.chunks_mut(n_ctx * head_dim) {
        head[(position + n_tokens) * head_dim..].fill(half::f16::NAN.to_bits());
    }
    Sequence { q: rng.floats(n_tokens * 4 * head_dim), k, v, n_ctx, position }
}

fn attend(compute: &Compute, sequences: &[&Sequence], shape: &AttentionShape) -> Vec<Vec<f32>> {
    let mut outs: Vec<_> = sequences.iter().map(|s| vec![0.0; s.q.len()]).collect();
    let mut jobs: Vec<_> = sequences
        .iter()
        .zip(&mut outs)
        .map(|(s, out)| AttentionJob {
            q: &s.q,
            k: &s.k,
            v: &s.v,
            n_ctx: s.n_ctx,
            position: s.position,
            out,
        })
        .collect();
    compute.attention(&mut jobs, shape);
    outs
}

/// Plain softmax attention of one head of one token.
fn reference(s: &Sequence, shape: &AttentionShape, t: usize, head: usize) -> Vec<f64> {
    let d = shape.head_dim;
    let float = |x: u16| f64::from(half::f16::from_bits(x).to_f32());
    let end = s.position + t + 1;
    let start = shape.window.map_or(0, |window| end.saturating_sub(window));
    let base = head / 2 * s.n_ctx;
    let q = &s.q[(t * 4 + head) * d..][..d];
    let weights: Vec<f64> = (start..end)
        .map(|i| {
            let k = &s.k[(base + i) * d..][..d];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * float(*k)).sum();
            (dot * f64::from(shape.scale)).exp()
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    (0..d)
        .map(|j| {
            let pairs = weights.iter().zip(start..end);
            pairs.map(|(w, i)| w * float(s.v[(base + i) * d + j])).sum::<f64>() / sum
        })
        .collect()
}

#[track_caller]
fn check(n_tokens: usize, position: usize, head_dim: usize, window: Option<usize>) {
    let shape = shape(head_dim, window);
    let s = sequence(n_tokens, position, head_dim, &mut Rng::new(position as u64 + 1));
    let expected = attend(&Compute::with_isa(Isa::scalar(), 1), &[&s], &shape).remove(0);
    for isa in Isa::all_available() {
        for n_threads in [1, 3] {
            let got = attend(&Compute::with_isa(isa, n_threads), &[&s], &shape).remove(0);
            assert!(
                got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{isa}, {n_tokens} tokens at {position}, head_dim {head_dim}, window {window:?}"
            );
        }
    }
    for t in 0..n_tokens {
        for head in 0..4 {
            let got = &expected[(t * 4 + head) * head_dim..][..head_dim];
            for (got, expected) in got.iter().zip(reference(&s, &shape, t, head)) {
                assert!((f64::from(*got) - expected).abs() < 2e-5, "{got} {expected}");
            }
        }
    }
}

#[test]
fn attends_as_f64_does_around_chunk_boundaries() {
    for n_positions in [1, 2, 15, 16, 17, 255, 256, 257, 513] {
        check(1, n_positions - 1, 64, None);
    }
    check(20, 250, 128, None);
    check(9, 0, 80, None);
}

#[test]
fn head_dim_need_not_be_whole_groups() {
    check(3, 30, 20, None);
    check(1, 256, 7, None);
}

#[test]
fn a_window_hides_what_lies_before_it() {
    check(10, 260, 32, Some(5));
    check(10, 600, 32, Some(300));
    check(3, 0, 32, Some(1));
}

#[test]
fn batched_is_one_by_one() {
    let mut rng = Rng::new(3);
    let shape = shape(64, None);
    let sequences = [sequence(1, 300, 64, &mut rng), sequence(12, 250, 64, &mut rng)];
    for isa in Isa::all_available() {
        let compute = Compute::with_isa(isa, 2);
        let together = attend(&compute, &[&sequences[0], &sequences[1]], &shape);
        for (s, together) in sequences.iter().zip(together) {
            let alone = attend(&compute, &[s], &shape).remove(0);
            assert_eq!(alone, together);
            for t in 0..s.q.len() / 256 {
                let one = Sequence {
                    q: s.q[t * 256..][..256].to_vec(),
                    k: s.k.clone(),
                    v: s.v.clone(),
                    n_ctx: s.n_ctx,
                    position: s.position + t,
                };
                assert_eq!(attend(&compute, &[&one], &shape)[0], alone[t * 256..][..256]);
            }
        }
    }
}
