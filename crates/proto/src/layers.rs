//! Ranges of layers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The consecutive layers `[start, end)` of a model. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct LayerRange {
    start: u32,
    end: u32,
}

/// Bounds that make no layer range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("layer range: expected start < end, got {start}..{end}")]
pub struct LayerRangeError {
    /// First layer asked for.
    pub start: u32,
    /// One past the last layer asked for.
    pub end: u32,
}

impl LayerRange {
    /// Returns the layers `[start, end)`.
    ///
    /// # Errors
    /// If the range would be empty.
    pub fn new(start: u32, end: u32) -> Result<Self, LayerRangeError> {
        if start < end { Ok(Self { start, end }) } else { Err(LayerRangeError { start, end }) }
    }

    /// First layer.
    pub fn start(self) -> u32 {
        self.start
    }

    /// One past the last layer.
    pub fn end(self) -> u32 {
        self.end
    }

    /// Number of layers, at least 1.
    pub fn n_layer(self) -> u32 {
        self.end - self.start
    }

    /// Whether the shard of this range embeds tokens.
    pub fn has_embedding(self) -> bool {
        self.start == 0
    }

    /// Whether the shard of this range, in a model of `n_layer` layers, computes logits.
    pub fn has_head(self, n_layer: u32) -> bool {
        self.end == n_layer
    }

    /// Iterates over the layers' indices.
    pub fn iter(self) -> std::ops::Range<u32> {
        self.start..self.end
    }
}

impl TryFrom<(u32, u32)> for LayerRange {
    type Error = LayerRangeError;

    fn try_from((start, end): (u32, u32)) -> Result<Self, Self::Error> {
        Self::new(start, end)
    }
}

impl From<LayerRange> for (u32, u32) {
    fn from(range: LayerRange) -> Self {
        (range.start, range.end)
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_empty_range_even_from_the_wire() {
        assert!(LayerRange::new(3, 3).is_err());
        let bytes = postcard::to_allocvec(&(4u32, 2u32)).expect("two integers encode");
        assert!(postcard::from_bytes::<LayerRange>(&bytes).is_err());
    }
}
