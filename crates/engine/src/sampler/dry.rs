//! "Don't repeat yourself": what would continue a repetition becomes less likely, the more the longer it is.

use std::collections::BTreeMap;

use shoal_proto::{Dry, TokenId};

use super::{Logits, comparable};

/// Lowers the logits of tokens that would continue a repetition: see [`Dry`].
pub(super) fn penalize<L: Logits + ?Sized>(logits: &mut L, dry: &Dry, history: &[TokenId]) {
    if dry.multiplier == 0.0 {
        return;
    }
    let n_last = history.len().min(dry.last_n as usize);
    for (token, length) in repetitions(&history[history.len() - n_last..], &dry.breakers) {
        let Some(over) = length.checked_sub(dry.allowed_length as usize) else { continue };
        if let Some(logit) = logits.of(token) {
            let penalty = dry.multiplier * libm::powf(dry.base, over as f32);
            *logit = comparable(*logit - penalty);
        }
    }
}

/// The tokens that followed on earlier occurrences of the text's end, each with the length of the longest of these occurrences.
/// None reaches over a breaker, and no breaker continues one.
fn repetitions(text: &[TokenId], breakers: &[TokenId]) -> BTreeMap<TokenId, usize> {
    let is_breaker = |token: &TokenId| breakers.binary_search(token).is_ok();
    let longest = text.iter().rev().take_while(|token| !is_breaker(token)).count();
    let reversed: Vec<TokenId> = text.iter().rev().copied().collect();
    let mut found = BTreeMap::new();
    for (i, length) in common_prefixes(&reversed).into_iter().enumerate().skip(1) {
        let next = reversed[i - 1];
        if length > 0 && longest > 0 && !is_breaker(&next) {
            let longest_yet = found.entry(next).or_insert(0);
            *longest_yet = length.min(longest).max(*longest_yet);
        }
    }
    found
}

/// For each suffix of a text, how much of the text's beginning it begins with: the Z-function (Gusfield, Algorithms on Strings,
/// Trees and Sequences, 1997, §1.4), in linear time.
fn common_prefixes(text: &[TokenId]) -> Vec<usize> {
    let mut lengths = vec![0; text.len()];
    // The suffix found so far that matches furthest to the right.
    let (mut from, mut to) = (0, 0);
    for i in 1..text.len() {
        let mut length = if i < to { lengths[i - from].min(to - i) } else { 0 };
        while i + length < text.len() && text[length] == text[i + length] {
            length += 1;
        }
        if i + length > to {
            (from, to) = (i, i + length);
        }
        lengths[i] = length;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[TokenId], breakers: &[TokenId], expected: &[(TokenId, usize)]) {
        assert_eq!(repetitions(text, breakers).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_followed_the_same_words_before_is_found() {
        check(&[1, 2, 3, 9, 1, 2], &[], &[(3, 2)]);
        check(&[1, 2, 3, 2, 4, 1, 2], &[], &[(3, 2), (4, 1)]);
        check(&[1, 2, 3], &[], &[]);
        check(&[], &[], &[]);
        // Overlapping itself.
        check(&[5, 5, 5, 5], &[], &[(5, 3)]);
    }

    #[test]
    fn the_longest_occurrence_counts() {
        check(&[2, 3, 1, 2, 3, 7, 1, 2], &[], &[(3, 2)]);
    }

    #[test]
    fn breakers_end_repetitions() {
        check(&[1, 0, 2, 3, 1, 0, 2], &[0], &[(3, 1)]);
        check(&[1, 2, 0, 1, 2], &[0], &[]);
        check(&[1, 2, 3, 1, 2, 0], &[0], &[]);
    }

    #[test]
    fn prefixes_are_those_of_comparing_letter_by_letter() {
        for seed in 0..200_u32 {
            let digit = |i: u32| (seed.wrapping_mul(2_654_435_761) >> (i % 29)) & 1;
            let text: Vec<TokenId> = (0..40).map(digit).collect();
            let slow = |i: usize| text.iter().zip(&text[i..]).take_while(|(a, b)| a == b).count();
            let expected: Vec<usize> =
                (0..text.len()).map(|i| if i == 0 { 0 } else { slow(i) }).collect();
            assert_eq!(common_prefixes(&text), expected, "{seed}");
        }
    }
}
