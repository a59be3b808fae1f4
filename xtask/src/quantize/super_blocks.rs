//! The formats with super-blocks of 256: sub-blocks have small integer scales, which are multiples of one
//! f16 scale of the super-block.

use half::f16;

use super::{affine_scale, level, push_f16, symmetric_scale};

/// `d: f16`, `dmin: f16`, 12 bytes of scales, 128 bytes of nibbles.
///
/// value = `d * scale * nibble - dmin * min`, with 6-bit `scale` and `min` per 32 elements.
pub(super) fn q4_k(values: &[f32; 256], out: &mut Vec<u8>) {
    let levels = affine_levels(values, 15, out);
    push_nibbles(&levels, out);
}

/// `d: f16`, `dmin: f16`, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of nibbles.
///
/// value = `d * scale * level - dmin * min`, with 6-bit `scale` and `min` per 32 elements.
pub(super) fn q5_k(values: &[f32; 256], out: &mut Vec<u8>) {
    let levels = affine_levels(values, 31, out);
    // Byte i has the fifth bits of the elements i, i + 32, …, lowest first.
    out.extend((0..32).map(|i| (0..8).fold(0, |byte, j| byte | (levels[32 * j + i] >> 4) << j)));
    push_nibbles(&levels, out);
}

/// 128 bytes of low nibbles, 64 bytes of the upper two bits, 16 scales `i8`, `d: f16`.
///
/// value = `d * scale * (level - 32)`, with a `scale` per 16 elements.
pub(super) fn q6_k(values: &[f32; 256], out: &mut Vec<u8>) {
    let (groups, _) = values.as_chunks::<16>();
    let scales: Vec<f32> = groups.iter().map(|group| symmetric_scale(group, 32)).collect();
    let extreme = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    let d = f16::from_f32(extreme / -128.0);
    let mut levels = [0u8; 256];
    let mut scale_bytes = [0u8; 16];
    for (j, group) in groups.iter().enumerate() {
        let scale = level(scales[j], d.to_f32(), -128, 127);
        scale_bytes[j] = i8::try_from(scale).expect("scales are clamped").cast_unsigned();
        for (i, &value) in group.iter().enumerate() {
            let level = level(value, d.to_f32() * scale as f32, -32, 31) + 32;
            levels[16 * j + i] = u8::try_from(level).expect("levels are clamped");
        }
    }

    // Each half of 128 elements is four rows of 32: rows 0 and 2 share the bytes of the first 32 low
    // nibbles, rows 1 and 3 the next 32, and all four share the bytes of the upper bits.
    let halves = [&levels[..128], &levels[128..]];
    for half in halves {
        out.extend((0..64).map(|i| (half[i] & 15) | ((half[i + 64] & 15) << 4)));
    }
    for half in halves {
        out.extend(
            (0..32).map(|i| (0..4).fold(0, |byte, j| byte | (half[32 * j + i] >> 4) << (2 * j))),
        );
    }
    out.extend(scale_bytes);
    out.extend(d.to_le_bytes());
}

/// Chooses scales and minima, appends them, and returns the levels from 0 to `n`.
fn affine_levels(values: &[f32; 256], n: i32, out: &mut Vec<u8>) -> [u8; 256] {
    let (groups, _) = values.as_chunks::<32>();
    let exact: Vec<(f32, f32)> = groups.iter().map(|group| affine_scale(group, n)).collect();
    let d = push_f16(exact.iter().fold(0.0f32, |m, &(scale, _)| m.max(scale)) / 63.0, out);
    let dmin = push_f16(exact.iter().fold(0.0f32, |m, &(_, min)| m.max(min)) / 63.0, out);

    let mut levels = [0u8; 256];
    let (mut scales, mut mins) = ([0u8; 8], [0u8; 8]);
    for (j, group) in groups.iter().enumerate() {
        let scale = level(exact[j].0, d, 0, 63);
        let min = level(exact[j].1, dmin, 0, 63);
        scales[j] = u8::try_from(scale).expect("scales are clamped");
        mins[j] = u8::try_from(min).expect("minima are clamped");
        for (i, &value) in group.iter().enumerate() {
            let level = level(value + dmin * min as f32, d * scale as f32, 0, n);
            levels[32 * j + i] = u8::try_from(level).expect("levels are clamped");
        }
    }
    push_scales(&scales, &mins, out);
    levels
}

/// Packs eight scales and eight minima of 6 bits into 12 bytes: the first four of each as they are; of the
/// last four the low nibbles in four bytes of their own, the upper two bits on top of the first four.
fn push_scales(scales: &[u8; 8], mins: &[u8; 8], out: &mut Vec<u8>) {
    out.extend((0..4).map(|j| scales[j] | (scales[j + 4] >> 4) << 6));
    out.extend((0..4).map(|j| mins[j] | (mins[j + 4] >> 4) << 6));
    out.extend((4..8).map(|j| (scales[j] & 15) | (mins[j] & 15) << 4));
}

/// Of each 64 elements the first 32 are the low nibbles, the others the high ones.
fn push_nibbles(levels: &[u8; 256], out: &mut Vec<u8>) {
    let (chunks, _) = levels.as_chunks::<64>();
    for chunk in chunks {
        out.extend((0..32).map(|i| (chunk[i] & 15) | ((chunk[i + 32] & 15) << 4)));
    }
}
