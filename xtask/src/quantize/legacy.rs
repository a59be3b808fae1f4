//! The formats with blocks of 32: one scale each, as f16, and levels of 4, 5 or 8 bits.
//!
//! Element `i` of the first half of a block shares a byte with element `i + 16`: low nibble and high nibble.
//! The fifth bits of all elements are gathered in a `u32`, element 0 lowest.

use super::{affine_scale, level, push_f16, symmetric_scale};

/// `d: f16`, 32 levels `i8`; value = `d * level`.
pub(super) fn q8_0(values: &[f32; 32], out: &mut Vec<u8>) {
    let extreme = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = push_f16(extreme / 127.0, out);
    for &value in values {
        let level = level(value, scale, -127, 127);
        out.push(i8::try_from(level).expect("levels are clamped").cast_unsigned());
    }
}

/// `d: f16`, 16 bytes of nibbles; value = `d * (nibble - 8)`.
pub(super) fn q4_0(values: &[f32; 32], out: &mut Vec<u8>) {
    let scale = push_f16(symmetric_scale(values, 8), out);
    push_nibbles(&values.map(|value| unsigned(level(value, scale, -8, 7) + 8)), out);
}

/// `d: f16`, fifth bits, 16 bytes of nibbles; value = `d * (level - 16)`.
pub(super) fn q5_0(values: &[f32; 32], out: &mut Vec<u8>) {
    let scale = push_f16(symmetric_scale(values, 16), out);
    let levels = values.map(|value| unsigned(level(value, scale, -16, 15) + 16));
    push_fifth_bits(&levels, out);
    push_nibbles(&levels, out);
}

/// `d: f16`, `m: f16`, fifth bits, 16 bytes of nibbles; value = `d * level + m`.
pub(super) fn q5_1(values: &[f32; 32], out: &mut Vec<u8>) {
    let (scale, offset) = affine_scale(values, 31);
    let scale = push_f16(scale, out);
    let min = push_f16(-offset, out);
    let levels = values.map(|value| unsigned(level(value - min, scale, 0, 31)));
    push_fifth_bits(&levels, out);
    push_nibbles(&levels, out);
}

fn unsigned(level: i32) -> u8 {
    u8::try_from(level).expect("levels are clamped")
}

fn push_fifth_bits(levels: &[u8; 32], out: &mut Vec<u8>) {
    let bits =
        levels.iter().enumerate().fold(0u32, |bits, (i, &level)| bits | u32::from(level >> 4) << i);
    out.extend(bits.to_le_bytes());
}

fn push_nibbles(levels: &[u8; 32], out: &mut Vec<u8>) {
    out.extend((0..16).map(|i| (levels[i] & 15) | ((levels[i + 16] & 15) << 4)));
}
