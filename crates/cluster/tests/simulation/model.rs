//! A model small enough to be computed as it should be, beside every pipeline: what each layer keeps of a position depends on all
//! tokens up to it, so that whoever computes on anything but the right prefix comes to another token.

use shoal_proto::TokenId;

/// Layers of every model.
pub(crate) const N_LAYER: u32 = 8;

/// What the first layer gets of a token.
pub(crate) fn embed(token: TokenId) -> u64 {
    mix(u64::from(token))
}

/// What a layer keeps of a position, and gives on: from what it keeps of the position before, and from what it gets.
pub(crate) fn layer(before: u64, input: u64, index: u32) -> u64 {
    mix(before.rotate_left(17) ^ mix(input ^ u64::from(index)))
}

/// The token that follows, from what the last layer gives on.
pub(crate) fn sample(output: u64, seed: u64) -> TokenId {
    let [a, b, c, d, ..] = mix(output ^ seed).to_le_bytes();
    TokenId::from_le_bytes([a, b, c, d])
}

/// Spreads the bits of a number (the finaliser of SplitMix64; Steele et al., OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A run of the whole model that nothing disturbs.
#[derive(Default)]
pub(crate) struct Undisturbed {
    /// What each layer keeps of each position.
    pub(crate) rows: Vec<[u64; N_LAYER as usize]>,
}

impl Undisturbed {
    pub(crate) fn push(&mut self, token: TokenId) {
        let before = self.rows.last().copied().unwrap_or_default();
        let mut row = [0; N_LAYER as usize];
        let mut passed = embed(token);
        for (index, (kept, before)) in (0..).zip(row.iter_mut().zip(before)) {
            passed = layer(before, passed, index);
            *kept = passed;
        }
        self.rows.push(row);
    }

    /// The token that follows all that were pushed.
    pub(crate) fn next(&self, seed: u64) -> TokenId {
        let row = self.rows.last().expect("a prompt is not empty");
        sample(row[row.len() - 1], seed)
    }
}
