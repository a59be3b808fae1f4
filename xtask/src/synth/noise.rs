//! Random numbers that depend on nothing but a key and a counter, so that any part of a model can be made
//! on any thread and any machine with the same result. No platform function is involved.

/// The increment of a Weyl sequence: 2^64 divided by the golden ratio, odd.
const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers, addressed by index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    key: u64,
}

impl Noise {
    /// Derives a stream from a seed and a name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, then mixed, so that neighbouring seeds and similar names have unrelated streams.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self { key: mix(mix(seed).wrapping_add(hash)) }
    }

    /// 64 random bits.
    pub(crate) fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_mul(WEYL)))
    }

    /// A number with mean 0 and deviation 1, nearly normal: the sum of four uniform ones.
    pub(crate) fn normal(self, index: u64) -> f32 {
        let bits = self.bits(index);
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        // Four uniform numbers in [0, 65535] have the mean 131070 and the variance 4 * 65536² / 12.
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_everywhere() {
        let noise = Noise::new(1, "blk.0.attn_q.weight");
        let bits: Vec<u32> = (0..3).map(|i| noise.normal(i).to_bits()).collect();
        assert_eq!(bits, [1_048_590_804, 3_201_178_043, 1_057_035_281]);
    }

    #[test]
    fn numbers_are_normal_enough() {
        let noise = Noise::new(7, "x");
        let n = 100_000;
        let numbers: Vec<f64> = (0..n).map(|i| f64::from(noise.normal(i))).collect();
        let moment = |power| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.02, "skew {}", moment(3));
        let products = (1..n as usize).map(|i| numbers[i - 1] * numbers[i]).sum::<f64>() / n as f64;
        assert!(products.abs() < 0.01, "correlation {products}");
    }
}
