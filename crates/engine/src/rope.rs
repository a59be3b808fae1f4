//! Rotary position embedding (RoPE, arXiv:2104.09864): the angles.
//!
//! Pair `i` of a head turns by `position * freq[i]`, with
//! `freq[i] = freq_base^(-2i / n_rot) / (factor * divisor[i])`. The divisors are Llama 3's `rope_freqs`, or one of
//! Phi 3's two sets. Angles are computed in f64 by `libm`, whose results, unlike the platform's, are the same
//! bits everywhere, and rounded to f32 once.

use crate::hparams::RopeHparams;

/// Frequencies and scale of the rotations of one model.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// Radians per position, `[n_rot / 2]`.
    freqs: Vec<f64>,
    /// The same for contexts longer than `n_ctx_original`, where the model has them.
    long_freqs: Option<Vec<f64>>,
    n_ctx_original: usize,
    attn_factor: f64,
}

impl Rope {
    /// Computes the frequencies.
    ///
    /// - `divisors`, `long_divisors`: `[n_rot / 2]`, finite and above zero
    pub(crate) fn new(
        hparams: &RopeHparams,
        divisors: Option<&[f32]>,
        long_divisors: Option<&[f32]>,
    ) -> Self {
        Self {
            freqs: freqs(hparams, divisors),
            long_freqs: long_divisors.map(|divisors| freqs(hparams, Some(divisors))),
            n_ctx_original: hparams.n_ctx_original as usize,
            attn_factor: hparams.attn_factor.into(),
        }
    }

    /// Appends cosine and sine of the angles of `n_tokens` positions from `position` on.
    ///
    /// Which frequencies apply depends on how long the context may become, never on how long it is, so that a
    /// sequence's cache stays valid while it grows.
    ///
    /// - `out`: `[n_tokens, n_rot / 2, 2]` is appended
    pub(crate) fn push(&self, position: usize, n_tokens: usize, n_ctx: usize, out: &mut Vec<f32>) {
        let freqs = match &self.long_freqs {
            Some(long_freqs) if n_ctx > self.n_ctx_original => long_freqs,
            _ => &self.freqs,
        };
        for position in position..position + n_tokens {
            for freq in freqs {
                let (sin, cos) = libm::sincos(position as f64 * freq);
                out.push((cos * self.attn_factor) as f32);
                out.push((sin * self.attn_factor) as f32);
            }
        }
    }
}

fn freqs(hparams: &RopeHparams, divisors: Option<&[f32]>) -> Vec<f64> {
    let (base, factor) = (f64::from(hparams.freq_base), f64::from(hparams.factor));
    (0..hparams.n_rot / 2)
        .map(|i| {
            let exponent = -((2 * i) as f64) / hparams.n_rot as f64;
            let divisor = divisors.map_or(1.0, |divisors| f64::from(divisors[i]));
            libm::pow(base, exponent) / (factor * divisor)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HPARAMS: RopeHparams = RopeHparams {
        n_rot: 4,
        freq_base: 100.0,
        factor: 2.0,
        attn_factor: 0.5,
        n_ctx_original: 8,
    };

    #[track_caller]
    fn check(rope: &Rope, n_ctx: usize, angles: [f64; 2]) {
        let mut out = Vec::new();
        rope.push(3, 1, n_ctx, &mut out);
        let expected: Vec<f32> = angles
            .into_iter()
            .flat_map(|angle| [(libm::cos(angle) * 0.5) as f32, (libm::sin(angle) * 0.5) as f32])
            .collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn frequencies_are_a_geometric_series_divided() {
        let rope = Rope::new(&HPARAMS, None, None);
        check(&rope, 8, [3.0 / 2.0, 3.0 * 0.1 / 2.0]);
        let rope = Rope::new(&HPARAMS, Some(&[4.0, 8.0]), None);
        check(&rope, 100, [3.0 / 8.0, 3.0 * 0.1 / 16.0]);
    }

    #[test]
    fn long_factors_apply_to_contexts_above_the_original_length() {
        let rope = Rope::new(&HPARAMS, Some(&[1.0, 1.0]), Some(&[4.0, 8.0]));
        check(&rope, 8, [3.0 / 2.0, 3.0 * 0.1 / 2.0]);
        check(&rope, 9, [3.0 / 8.0, 3.0 * 0.1 / 16.0]);
    }

    #[test]
    fn angles_have_the_same_bits_everywhere() {
        let hparams = RopeHparams { n_rot: 128, freq_base: 5e5, ..HPARAMS };
        let mut out = Vec::new();
        Rope::new(&hparams, None, None).push(100_000, 5, 8, &mut out);
        let hash = out.iter().fold(0u32, |hash, x| hash.rotate_left(5) ^ x.to_bits());
        assert_eq!(hash, 0x061a_c324);
    }
}
