//! Each format, read back as its definition says, is near what went in.

use half::f16;
use shoal_gguf::TensorType;

use super::quantize;

/// Normal enough numbers without the generator of `synth`.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.05).collect()
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of a block of 32 with nibbles at `at` and fifth bits, if any, at `high`.
fn small_level(block: &[u8], i: usize, at: usize, high: Option<usize>) -> f32 {
    let low = (block[at + i % 16] >> (4 * (i / 16))) & 15;
    let high = high.map_or(0, |at| (block[at + i / 8] >> (i % 8)) & 1);
    f32::from(low | high << 4)
}

/// Scale and minimum of sub-block `j`, from the 12 packed bytes.
fn k_scales(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | (packed[j - 4] >> 6) << 4, (low >> 4) | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

fn k_nibble(nibbles: &[u8], i: usize) -> u8 {
    (nibbles[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15
}

/// Element `i` of a block, as ggml's documentation of the formats defines it.
fn dequantize(ty: TensorType, block: &[u8], i: usize) -> f32 {
    match ty {
        TensorType::F16 => f16_at(block, 0),
        TensorType::Q8_0 => f16_at(block, 0) * f32::from(block[2 + i].cast_signed()),
        TensorType::Q4_0 => f16_at(block, 0) * (small_level(block, i, 2, None) - 8.0),
        TensorType::Q5_0 => f16_at(block, 0) * (small_level(block, i, 6, Some(2)) - 16.0),
        TensorType::Q5_1 => f16_at(block, 0) * small_level(block, i, 8, Some(4)) + f16_at(block, 2),
        TensorType::Q4K => {
            let (scale, min) = k_scales(&block[4..16], i / 32);
            let level = f32::from(k_nibble(&block[16..], i));
            f16_at(block, 0) * scale * level - f16_at(block, 2) * min
        }
        TensorType::Q5K => {
            let (scale, min) = k_scales(&block[4..16], i / 32);
            let high = (block[16 + i % 32] >> (i / 32)) & 1;
            let level = f32::from(k_nibble(&block[48..], i) | high << 4);
            f16_at(block, 0) * scale * level - f16_at(block, 2) * min
        }
        TensorType::Q6K => {
            let (half, row, column) = (i / 128, i / 32 % 4, i % 32);
            let low = (block[64 * half + 32 * (row % 2) + column] >> (4 * (row / 2))) & 15;
            let high = (block[128 + 32 * half + column] >> (2 * row)) & 3;
            let scale = f32::from(block[192 + i / 16].cast_signed());
            f16_at(block, 208) * scale * (f32::from(low | high << 4) - 32.0)
        }
        other => panic!("no definition of {other}"),
    }
}

/// Root of the mean squared error, relative to the root of the mean square.
fn relative_error(ty: TensorType, values: &[f32]) -> f32 {
    let bytes = quantize(ty, values);
    assert_eq!(bytes.len() as u64, ty.n_bytes(&[values.len() as u64]).expect("whole blocks"));
    let blocks = bytes.chunks_exact(ty.block_bytes() as usize);
    let (mut error, mut square) = (0.0, 0.0);
    for (block, values) in blocks.zip(values.chunks_exact(ty.block_len() as usize)) {
        for (i, &value) in values.iter().enumerate() {
            error += (dequantize(ty, block, i) - value).powi(2);
            square += value.powi(2);
        }
    }
    (error / square).sqrt()
}

const TYPES: [(TensorType, f32); 8] = [
    (TensorType::F16, 0.000_3),
    (TensorType::Q8_0, 0.006),
    (TensorType::Q6K, 0.02),
    (TensorType::Q5K, 0.04),
    (TensorType::Q5_1, 0.04),
    (TensorType::Q5_0, 0.045),
    (TensorType::Q4K, 0.08),
    (TensorType::Q4_0, 0.09),
];

#[test]
fn every_format_is_near_what_went_in() {
    let values = noise(256 * 64);
    for (ty, error_max) in TYPES {
        let error = relative_error(ty, &values);
        assert!(error < error_max, "{ty}: {error}");
    }
}

#[test]
fn every_format_keeps_zeros_and_one_sided_numbers() {
    let positive: Vec<f32> = noise(512).iter().map(|value| value.abs() + 0.01).collect();
    let negative: Vec<f32> = positive.iter().map(|value| -value).collect();
    for (ty, error_max) in TYPES {
        let zeros = quantize(ty, &[0.0; 256]);
        for block in zeros.chunks_exact(ty.block_bytes() as usize) {
            assert!((0..ty.block_len()).all(|i| dequantize(ty, block, i as usize) == 0.0), "{ty}");
        }
        for values in [&positive, &negative] {
            let error = relative_error(ty, values);
            // Formats without a minimum waste half of their levels here.
            assert!(error < 2.0 * error_max, "{ty}: {error}");
        }
    }
}
