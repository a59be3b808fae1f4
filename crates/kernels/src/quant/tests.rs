//! Each layout against weights worked out by hand from the format's definition.

use super::*;

const ONE: [u8; 2] = [0x00, 0x3c];
const TWO: [u8; 2] = [0x00, 0x40];

fn small<B: Small>(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; SMALL];
    dequantize_small::<B>(bytes, &mut out);
    out
}

fn super_<B: Super>(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; SUPER];
    dequantize_super::<B>(bytes, &mut out);
    out
}

#[test]
fn q8_0_is_signed_bytes() {
    let mut bytes = TWO.to_vec();
    bytes.extend((0..32).map(|i| [0, 1, 127, 128, 255][i % 5]));
    let expected: Vec<f32> = (0..32).map(|i| [0.0, 2.0, 254.0, -256.0, -2.0][i % 5]).collect();
    assert_eq!(small::<BlockQ8_0>(&bytes), expected);
}

#[test]
fn q4_0_has_the_first_half_in_low_nibbles() {
    let mut bytes = TWO.to_vec();
    bytes.extend((0..16).map(|i| i | ((15 - i) << 4)));
    let weights = small::<BlockQ4_0>(&bytes);
    for i in 0..16 {
        assert_eq!(weights[i], 2.0 * (i as f32 - 8.0));
        assert_eq!(weights[i + 16], 2.0 * (7.0 - i as f32));
    }
}

#[test]
fn q5_0_has_bit_four_in_a_word() {
    let mut bytes = ONE.to_vec();
    // Bits 0, 9 and 31.
    bytes.extend([0x01, 0x02, 0x00, 0x80]);
    bytes.extend([0x21; 16]);
    let weights = small::<BlockQ5_0>(&bytes);
    for (i, weight) in weights.iter().enumerate() {
        let code = if i < 16 { 1 } else { 2 } + if [0, 9, 31].contains(&i) { 16 } else { 0 };
        assert_eq!(*weight, (code - 16) as f32, "weight {i}");
    }
}

/// Scales 1, 2, 3, 4, 33, 34, 35, 36 and minima 5, 6, 7, 8, 49, 50, 51, 52, packed by hand.
const PACKED: [u8; 12] = [0x81, 0x82, 0x83, 0x84, 0xc5, 0xc6, 0xc7, 0xc8, 0x11, 0x22, 0x33, 0x44];
const SCALES: [f32; 8] = [1.0, 2.0, 3.0, 4.0, 33.0, 34.0, 35.0, 36.0];
const MINS: [f32; 8] = [5.0, 6.0, 7.0, 8.0, 49.0, 50.0, 51.0, 52.0];

#[test]
fn q4_k_has_sub_blocks_of_32_in_pairs_of_nibbles() {
    let mut bytes = [TWO, ONE].concat();
    bytes.extend(PACKED);
    // Low nibbles: 1, high nibbles: the number of the 32 bytes.
    bytes.extend((0..128).map(|i| 1 | ((i / 32) << 4)));
    for (i, weight) in super_::<BlockQ4K>(&bytes).iter().enumerate() {
        let sub = i / 32;
        let code = if sub % 2 == 0 { 1.0 } else { (sub / 2) as f32 };
        assert_eq!(*weight, 2.0 * SCALES[sub] * code - MINS[sub], "weight {i}");
    }
}

#[test]
fn q5_k_has_bit_four_per_sub_block() {
    let mut bytes = [TWO, ONE].concat();
    bytes.extend(PACKED);
    // Byte i of qh: bit i % 8, so that weight 32 j + i has it where j = i % 8.
    bytes.extend((0..32).map(|i| 1 << (i % 8)));
    bytes.extend([0x31; 128]);
    for (i, weight) in super_::<BlockQ5K>(&bytes).iter().enumerate() {
        let sub = i / 32;
        let code = if sub % 2 == 0 { 1.0 } else { 3.0 } + if i % 8 == sub { 16.0 } else { 0.0 };
        assert_eq!(*weight, 2.0 * SCALES[sub] * code - MINS[sub], "weight {i}");
    }
}

#[test]
fn q6_k_has_four_weights_in_three_bytes() {
    let mut bytes = vec![];
    // Low nibbles 1 and 2, high nibbles 3 and 4 in each half.
    bytes.extend((0..128).map(|i| if i % 64 < 32 { 0x31 } else { 0x42 }));
    // Upper bits 0, 1, 2, 3 for the four quarters of each half.
    bytes.extend([0b11_10_01_00; 64]);
    bytes.extend((0..16u8).map(|i| if i == 3 { 0x80 } else { i }));
    bytes.extend(TWO);
    for (i, weight) in super_::<BlockQ6K>(&bytes).iter().enumerate() {
        let code = [1.0, 18.0, 35.0, 52.0][i / 32 % 4];
        let scale = if i / 16 == 3 { -128.0 } else { (i / 16) as f32 };
        assert_eq!(*weight, 2.0 * scale * (code - 32.0), "weight {i}");
    }
}
