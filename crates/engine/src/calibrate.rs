//! How fast this machine computes, found out on the kernels that models run on. It is the one place of this crate that looks at a
//! clock.

use std::time::{Duration, Instant};

use shoal_kernels::{ActivationType, Activations, Compute, Matrix, WeightType};

/// Columns of the trial matrix: the width of a model of a few billion weights.
const N_COLS: usize = 4096;
const ROW_BYTES: usize = N_COLS / 256 * 144;
/// Fewest bytes of a trial that says anything: beyond the last-level cache of a phone (at most 16 MiB) or a common desktop.
pub const TRIAL_BYTES_MIN: usize = 48 << 20;
/// Rows of the part that is multiplied with many tokens: enough work to be timed, little enough to be repeated.
const PREFILL_ROWS: usize = 512;
const PREFILL_TOKENS: usize = 64;
/// A matrix so small that what it takes is what a dispatch takes.
const EMPTY_ROWS: usize = 16;
/// Dispatches in a step, about: some for each of a dozen layers.
const DISPATCHES_PER_STEP: u32 = 64;
/// Fewest passes, whatever the budget.
const PASSES_MIN: u32 = 3;
/// Most passes: calls that take no time would otherwise be counted for ever where a clock stands still.
const PASSES_MAX: u32 = 1 << 20;
/// Blocks of the trial weights that are drawn; the rest are copies of them.
const BLOCKS_DRAWN: usize = 1 << 14;

impl Rates {
    /// Returns the better of two measurements, rate by rate: what has disturbed one may not have disturbed the other.
    #[must_use]
    pub fn best(self, other: Self) -> Self {
        Self {
            decode_bytes_per_s: self.decode_bytes_per_s.max(other.decode_bytes_per_s),
            prefill_macs_per_s: self.prefill_macs_per_s.max(other.prefill_macs_per_s),
            step_s: self.step_s.min(other.step_s),
        }
    }
}

/// How fast a machine computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Bytes of four-bit weights that a step of one token reads and multiplies per second.
    pub decode_bytes_per_s: f64,
    /// Multiply-accumulates per second with 64 tokens at once.
    pub prefill_macs_per_s: f64,
    /// Fixed cost of a step, in seconds: threads that wake up for operations that are hardly any work.
    pub step_s: f64,
}

/// Measures the kernels of `compute` for about `budget` on `weight_bytes` of weights, which should be far more than its caches
/// hold. Every figure is the mean over all of its passes, after one that warms up and is not counted: what can be kept up, not
/// the best moment. A machine that computes in bursts, since a quota or its heat stops it every few milliseconds, is as slow
/// for a model as it is on average.
///
/// Takes that memory for as long as it runs, at least 48 MiB ([`TRIAL_BYTES_MIN`]), and makes at least three passes of each
/// kind, whatever the budget. The weights mean nothing; how long they take does not depend on them.
pub fn calibrate(compute: &Compute, weight_bytes: usize, budget: Duration) -> Rates {
    let n_rows = weight_bytes.max(TRIAL_BYTES_MIN) / ROW_BYTES;
    let weights = trial_weights(n_rows);
    let matrix = |n_rows: usize| {
        Matrix::new(WeightType::Q4K, n_rows, N_COLS, &weights[..n_rows * ROW_BYTES])
            .expect("whole rows of whole blocks")
    };
    let pass = |n_rows: usize, n_tokens: usize, budget: Duration| {
        let mut acts = Activations::default();
        let x: Vec<f32> = (0..n_tokens * N_COLS).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
        compute.quantize(&mut acts, &x, N_COLS, &[ActivationType::Q8K]);
        let mut out = vec![0.0; n_tokens * n_rows];
        let w = matrix(n_rows);
        mean_seconds(budget, || {
            compute.matmul(&w, &acts, &mut out);
            std::hint::black_box(&mut out);
        })
    };
    let decode_s = pass(n_rows, 1, budget / 2);
    let prefill_s = pass(PREFILL_ROWS, PREFILL_TOKENS, budget / 3);
    let dispatch_s = pass(EMPTY_ROWS, 1, budget / 20);
    let n_macs = PREFILL_ROWS * PREFILL_TOKENS * N_COLS;
    Rates {
        decode_bytes_per_s: weights.len() as f64 / decode_s,
        prefill_macs_per_s: n_macs as f64 / prefill_s,
        step_s: dispatch_s * f64::from(DISPATCHES_PER_STEP),
    }
}

/// Weights `[n_rows, N_COLS]` of type Q4_K: every page is written, since pages that were never written are all the same one.
fn trial_weights(n_rows: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut weights = Vec::with_capacity(n_rows * ROW_BYTES);
    for block in 0..(n_rows * ROW_BYTES / 144).min(BLOCKS_DRAWN) {
        // Each block begins with two f16 factors: 2^-10, so that no sum leaves the range of f32.
        weights.extend_from_slice(&[0x00, 0x14, 0x00, 0x14]);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let fill = state.to_le_bytes()[3] ^ block.to_le_bytes()[0];
        weights.resize(weights.len() + 140, fill);
    }
    while weights.len() < n_rows * ROW_BYTES {
        let n_more = (n_rows * ROW_BYTES - weights.len()).min(weights.len());
        weights.extend_from_within(..n_more);
    }
    weights
}

/// Mean time of one call, in seconds, never zero. The first call is not counted.
fn mean_seconds(budget: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let started = Instant::now();
    let mut n_passes = 0;
    while n_passes < PASSES_MIN || (started.elapsed() < budget && n_passes < PASSES_MAX) {
        call();
        n_passes += 1;
    }
    started.elapsed().max(Duration::from_nanos(1)).as_secs_f64() / f64::from(n_passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_counts() {
        let (_sender, nothing) = std::sync::mpsc::channel::<()>();
        let mut n_calls = 0;
        let mean = mean_seconds(Duration::ZERO, || {
            n_calls += 1;
            // Of the three that count, one is slow.
            if n_calls == 3 {
                let _ = nothing.recv_timeout(Duration::from_millis(30));
            }
        });
        assert!(mean >= 0.01, "{mean}");
    }

    #[test]
    fn trial_weights_fill_whole_rows() {
        for n_rows in [1, 1000, 5000] {
            let weights = trial_weights(n_rows);
            assert_eq!(weights.len(), n_rows * ROW_BYTES);
            assert!(weights.chunks_exact(144).all(|block| block[..4] == [0x00, 0x14, 0x00, 0x14]));
        }
    }

    #[test]
    fn a_measurement_needs_three_calls_and_one_that_is_not_counted() {
        let mut n_calls = 0;
        let mean = mean_seconds(Duration::ZERO, || n_calls += 1);
        assert_eq!(n_calls, 4);
        assert!(mean > 0.0);
    }

    #[test]
    fn rates_are_those_of_a_machine() {
        let rates = calibrate(&Compute::new(1), 0, Duration::ZERO);
        for rate in [rates.decode_bytes_per_s, rates.prefill_macs_per_s] {
            assert!(rate.is_finite() && rate > 1e5 && rate < 1e15, "{rates:?}");
        }
        assert!(rates.step_s > 0.0 && rates.step_s.is_finite(), "{rates:?}");
    }
}
