//! Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy
//! as 1, 2, 3; SC 2011): a bijection of the counter, keyed. It has no state, so whoever knows the key and the
//! counter, on any node, draws the same number.

/// Rounds of the cipher; the paper's choice with a safety margin.
const N_ROUND: usize = 10;
/// Multipliers of the rounds.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the key grows by from round to round: the golden ratio and the square root of three, less one, times 2^32.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Returns 128 random bits for a counter and a key.
pub(crate) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..N_ROUND {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high_0, low_0) = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let (high_1, low_1) = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
    }
    counter
}

/// Returns a number in `[0, 1)`, a multiple of 2^-53, for a seed, a position, and what it is drawn for.
pub(crate) fn uniform(seed: u64, position: u64, purpose: u32) -> f64 {
    let (seed, position) = (halves(seed), halves(position));
    let [low, high, ..] = philox([position.1, position.0, purpose, 0], [seed.1, seed.0]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// The upper and the lower half.
fn halves(x: u64) -> (u32, u32) {
    ((x >> 32) as u32, (x & 0xffff_ffff) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer tests that the paper's authors publish with Random123 (`kat_vectors`).
    #[test]
    fn gives_the_known_answers() {
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn uniform_numbers_depend_on_seed_and_position_and_fill_the_interval() {
        assert_ne!(uniform(0, 1, 0), uniform(1, 0, 0));
        assert_ne!(uniform(0, 1 << 32, 0), uniform(0, 0, 0));
        assert_ne!(uniform(1 << 32, 0, 0), uniform(0, 0, 0));
        assert_ne!(uniform(0, 0, 1), uniform(0, 0, 0));
        let n = 10_000;
        let mean = (0..n).map(|position| uniform(7, position, 0)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}
