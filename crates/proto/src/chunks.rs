//! Sets of chunks: which parts of a file a node holds, wants or is fetching.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A set of chunk indices, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSet {
    /// Bit `i % 8` of byte `i / 8` stands for chunk `i`; there are no empty bytes at the end.
    bits: Vec<u8>,
}

impl ChunkSet {
    /// Returns the set of the chunks `0..n`.
    pub fn all(n: u32) -> Self {
        let mut set = Self::default();
        set.insert_range(0..n);
        set
    }

    /// Whether a chunk is in the set.
    pub fn contains(&self, chunk: u32) -> bool {
        self.bits.get(chunk as usize / 8).is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
    }

    /// Whether all of these chunks are in the set.
    pub fn contains_range(&self, mut chunks: Range<u32>) -> bool {
        chunks.all(|chunk| self.contains(chunk))
    }

    /// Adds a chunk. Memory grows with the index: check one that came from elsewhere first.
    pub fn insert(&mut self, chunk: u32) {
        let at = chunk as usize / 8;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, 0);
        }
        self.bits[at] |= 1 << (chunk % 8);
    }

    /// Adds consecutive chunks.
    pub fn insert_range(&mut self, chunks: Range<u32>) {
        chunks.for_each(|chunk| self.insert(chunk));
    }

    /// Takes a chunk out.
    pub fn remove(&mut self, chunk: u32) {
        if let Some(byte) = self.bits.get_mut(chunk as usize / 8) {
            *byte &= !(1 << (chunk % 8));
        }
        self.trim();
    }

    /// Adds the chunks of another set.
    pub fn extend(&mut self, other: &Self) {
        if other.bits.len() > self.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(byte, other)| *byte |= other);
    }

    /// Takes the chunks of another set out.
    pub fn subtract(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(byte, other)| *byte &= !other);
        self.trim();
    }

    /// Number of chunks in the set.
    pub fn len(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&byte| byte == 0)
    }

    /// The chunks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.end()).filter(|&chunk| self.contains(chunk))
    }

    /// One more than the highest chunk; 0 for the empty set.
    pub fn end(&self) -> u32 {
        let last = self.bits.iter().rposition(|&byte| byte != 0);
        last.map_or(0, |at| {
            let above = u32::try_from(at).expect("a vector of less than 4 GiB") * 8;
            above + 8 - self.bits[at].leading_zeros()
        })
    }

    /// Drops every chunk from `n` on: what another node says of a file that has only `n`.
    pub fn truncate(&mut self, n: u32) {
        self.bits.truncate((n as usize).div_ceil(8));
        if let (Some(last), rest @ 1..) = (self.bits.get_mut(n as usize / 8), n % 8) {
            *last &= (1 << rest) - 1;
        }
        self.trim();
    }

    fn trim(&mut self) {
        let n = self.bits.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        self.bits.truncate(n);
    }
}

impl FromIterator<u32> for ChunkSet {
    fn from_iter<I: IntoIterator<Item = u32>>(chunks: I) -> Self {
        let mut set = Self::default();
        chunks.into_iter().for_each(|chunk| set.insert(chunk));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            a in proptest::collection::btree_set(0u32..100, 0..40),
            b in proptest::collection::btree_set(0u32..100, 0..40),
            n in 0u32..110,
        ) {
            let set = |chunks: &BTreeSet<u32>| chunks.iter().copied().collect::<ChunkSet>();
            let list = |set: &ChunkSet| set.iter().collect::<BTreeSet<u32>>();
            let (mut union, mut rest, mut cut, mut without) = (set(&a), set(&a), set(&a), set(&a));
            union.extend(&set(&b));
            rest.subtract(&set(&b));
            cut.truncate(n);
            without.remove(n);
            prop_assert_eq!(list(&union), &a | &b);
            prop_assert_eq!(list(&rest), &a - &b);
            prop_assert_eq!(&rest, &set(&(&a - &b)), "equal sets have equal bits");
            prop_assert_eq!(list(&cut), a.iter().copied().filter(|&c| c < n).collect::<BTreeSet<_>>());
            prop_assert_eq!(cut.end(), cut.iter().last().map_or(0, |c| c + 1));
            prop_assert!(!without.contains(n));
            prop_assert_eq!(set(&a).len() as usize, a.len());
            prop_assert_eq!(set(&a).is_empty(), a.is_empty());
        }
    }

    #[test]
    fn ranges_are_whole_or_not() {
        let mut set = ChunkSet::all(20);
        assert!(
            set.contains_range(0..20) && set.contains_range(7..7) && !set.contains_range(0..21)
        );
        set.remove(9);
        assert!(!set.contains_range(8..11) && set.contains_range(10..20));
    }
}
