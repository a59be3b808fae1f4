//! Merging neighbours, best first: the loop that BPE and SPM share.
//!
//! ```text
//! symbols: a linked list over the pieces of a word
//! queue:   every pair of neighbours that may be merged, with its priority
//! take the best pair; if both still stand as they were queued, merge them and queue the new pairs left and right
//! ```
//!
//! Each merge removes a symbol and queues at most two pairs: O(n log n).

use std::{cmp::Reverse, collections::BinaryHeap};

/// Priority of a merge: the highest goes first.
pub(crate) trait Priority: Ord + Copy {}
impl<T: Ord + Copy> Priority for T {}

/// A piece: `[start, end)` of the word in bytes. Empty once it has been merged into its left neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol {
    pub(crate) start: usize,
    pub(crate) end: usize,
    left: Option<usize>,
    right: Option<usize>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair<P> {
    priority: P,
    /// Of equals the leftmost goes first.
    left: Reverse<usize>,
    right: usize,
    /// Length of both together when it was queued: another one means that one of them has changed.
    len: usize,
}

/// Merges the pieces of a word, given by their ends in ascending order, as long as `priority` of two neighbours' bytes
/// (`start`, `middle`, `end`) says that they may be, and returns the pieces that remain.
pub(crate) fn merge<P: Priority>(
    ends: impl Iterator<Item = usize>,
    priority: impl Fn(usize, usize, usize) -> Option<P>,
) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::new();
    let mut start = 0;
    for end in ends {
        let at = symbols.len();
        if let Some(last) = symbols.last_mut() {
            last.right = Some(at);
        }
        symbols.push(Symbol { start, end, left: at.checked_sub(1), right: None });
        start = end;
    }
    let mut queue = BinaryHeap::new();
    let queue_pair =
        |queue: &mut BinaryHeap<Pair<P>>, symbols: &[Symbol], left: usize, right: usize| {
            let (a, b) = (symbols[left], symbols[right]);
            if let Some(priority) = priority(a.start, a.end, b.end) {
                queue.push(Pair { priority, left: Reverse(left), right, len: b.end - a.start });
            }
        };
    for right in 1..symbols.len() {
        queue_pair(&mut queue, &symbols, right - 1, right);
    }
    while let Some(Pair { left: Reverse(left), right, len, .. }) = queue.pop() {
        let (a, b) = (symbols[left], symbols[right]);
        let stands = a.start < a.end && b.start < b.end && a.right == Some(right);
        if !stands || b.end - a.start != len {
            continue;
        }
        symbols[left].end = b.end;
        symbols[left].right = b.right;
        symbols[right].end = b.start;
        if let Some(next) = b.right {
            symbols[next].left = Some(left);
            queue_pair(&mut queue, &symbols, left, next);
        }
        if let Some(previous) = a.left {
            queue_pair(&mut queue, &symbols, previous, left);
        }
    }
    symbols.retain(|symbol| symbol.start < symbol.end);
    symbols
}
