//! f32 to ggml's block formats, for synthetic models.
//!
//! Each block is quantised on its own by minimising the squared error over a few candidate scales. The
//! result is as good as a model that is only measured needs; it is not meant to match another quantiser's
//! bytes. Only operations that IEEE 754 defines exactly are used, so that every machine gets the same bytes.

use half::f16;
use shoal_gguf::TensorType;

mod legacy;
mod super_blocks;

#[cfg(test)]
mod tests;

/// Quantises a row, or several, to the bytes that a file stores.
///
/// - `values`: a whole number of blocks
///
/// # Panics
/// If `ty` is none of the types that synthetic models use, or `values` end within a block.
pub(crate) fn quantize(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let n_blocks = values.len() as u64 / ty.block_len();
    assert_eq!(values.len() as u64, n_blocks * ty.block_len(), "whole blocks of {ty}");
    let mut out = Vec::with_capacity((n_blocks * ty.block_bytes()) as usize);
    match ty {
        TensorType::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        TensorType::F16 => push_f16s(values, &mut out),
        TensorType::Q8_0 => in_blocks(values, &mut out, legacy::q8_0),
        TensorType::Q4_0 => in_blocks(values, &mut out, legacy::q4_0),
        TensorType::Q5_0 => in_blocks(values, &mut out, legacy::q5_0),
        TensorType::Q5_1 => in_blocks(values, &mut out, legacy::q5_1),
        TensorType::Q4K => in_blocks(values, &mut out, super_blocks::q4_k),
        TensorType::Q5K => in_blocks(values, &mut out, super_blocks::q5_k),
        TensorType::Q6K => in_blocks(values, &mut out, super_blocks::q6_k),
        other => panic!("synthetic models do not use {other}"),
    }
    out
}

fn in_blocks<const N: usize>(
    values: &[f32],
    out: &mut Vec<u8>,
    quantize: fn(&[f32; N], &mut Vec<u8>),
) {
    let (blocks, _) = values.as_chunks::<N>();
    blocks.iter().for_each(|block| quantize(block, out));
}

fn push_f16s(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
}

/// Appends `value` as f16 and returns what it was rounded to.
fn push_f16(value: f32, out: &mut Vec<u8>) -> f32 {
    let rounded = f16::from_f32(value);
    out.extend(rounded.to_le_bytes());
    rounded.to_f32()
}

/// `value / scale` as an integer from `min` to `max`; 0 if the scale is 0.
fn level(value: f32, scale: f32, min: i32, max: i32) -> i32 {
    if scale == 0.0 {
        return 0.clamp(min, max);
    }
    (round(value / scale) as i32).clamp(min, max)
}

/// Rounds to the nearest integer, ties to even, if `|value| < 2^22`: adding 1.5 * 2^23 leaves no room for a
/// fraction. Portable x86-64 has no instruction for it, and the library's function took most of the time.
fn round(value: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (value + NO_FRACTION) - NO_FRACTION
}

/// Steps of the search to each side of the scale that just covers the largest value, in tenths of a level.
const SEARCH_STEPS: i32 = 8;

/// Finds a scale `d` such that `d * level` is near each value, for levels from `-n` to `n - 1`.
///
/// The largest value by magnitude goes to the end of the range with more levels, so `d` may be negative.
fn symmetric_scale(values: &[f32], n: i32) -> f32 {
    let extreme = values.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = (f32::INFINITY, 0.0);
    for step in -SEARCH_STEPS..=SEARCH_STEPS {
        let inverse = -(n as f32 + 0.1 * step as f32) / extreme;
        // For given levels the best scale is the least-squares one.
        let (mut product, mut square) = (0.0f32, 0.0f32);
        for &value in values {
            let level = round(value * inverse).clamp(-n as f32, (n - 1) as f32);
            product += value * level;
            square += level * level;
        }
        if square == 0.0 {
            continue;
        }
        let scale = product / square;
        let error = -scale * product;
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// Finds a scale and a non-negative offset such that `scale * level - offset` is near each value, for levels
/// from 0 to `n`.
fn affine_scale(values: &[f32], n: i32) -> (f32, f32) {
    let min = values.iter().copied().fold(0.0f32, f32::min);
    let max = values.iter().copied().fold(min, f32::max);
    if min == max {
        return (0.0, -min);
    }
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in -SEARCH_STEPS..=SEARCH_STEPS {
        let inverse = (n as f32 + 0.1 * step as f32) / (max - min);
        // Least squares for scale and offset at given levels: two linear equations.
        let (mut sl, mut sll, mut sv, mut svl) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for &value in values {
            let level = round((value - min) * inverse).clamp(0.0, n as f32);
            sl += level;
            sll += level * level;
            sv += value;
            svl += value * level;
        }
        let count = values.len() as f32;
        let determinant = count * sll - sl * sl;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (count * svl - sl * sv) / determinant;
        let mut offset = -(sv - scale * sl) / count;
        if offset < 0.0 {
            offset = 0.0;
            scale = svl / sll;
        }
        // The sum of the squares of `scale * level - offset - value`, less that of the values.
        let error = scale * (scale * sll - 2.0 * (offset * sl + svl))
            + offset * (count * offset + 2.0 * sv);
        if scale > 0.0 && error < best.0 {
            best = (error, scale, offset);
        }
    }
    (best.1, best.2)
}
