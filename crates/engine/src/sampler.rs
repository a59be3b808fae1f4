//! From logits to a token.
//!
//! The steps, in this order:
//!
//! 1. *repetition penalty*: logits of tokens among the last `repeat_last_n` shrink
//! 2. *temperature*: zero takes the most likely token; otherwise logits are divided by it
//! 3. *top-k*: the `k` most likely remain
//! 4. *top-p*: of these, the most likely that together have at least the share `p`
//! 5. *min-p*: of these, those that are at least `min_p` times as likely as the most likely one
//! 6. one of the rest is drawn, each with its share
//!
//! After step 2, tokens that are negligible (less than e^-24 times as likely as the best) are dropped.
//!
//! Everything is decided by the arguments: tokens of equal logits rank by their id, sums run in the order of
//! ids, and the random number belongs to the seed and the position. So any node that has the logits draws the
//! same token.

use std::cmp::Ordering;

use shoal_proto::{SamplingParams, TokenId};

use crate::philox::uniform;

/// This many candidates are sorted at first to find where top-p cuts. Trained models rarely need more.
const SORTED_FIRST: usize = 128;

/// Tokens whose logits, over temperature, are this far below the best are not drawn: e^-24 times as likely, all
/// of a vocabulary of 150,000 have less than a hundred-thousandth of the probability. What is left of a trained
/// model's vocabulary is small, and an exponential per token would cost as much as a layer.
const NEGLIGIBLE: f32 = 24.0;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: TokenId,
    logit: f32,
    /// Its probability relative to the most likely token's.
    weight: f32,
}

impl Candidate {
    /// More likely first; of equals, the lower id.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Chooses the next token. Stateless: the arguments decide, on every machine alike.
///
/// What is not a number counts as impossible; if nothing is possible, the result is token 0.
///
/// - `logits`: `[n_vocab]`, not empty; changed by the repetition penalty
/// - `params`: as [`SamplingParams::validate`] accepts them
/// - `history`: all tokens so far; their number is the position that the random number belongs to
///
/// # Panics
/// If `logits` are empty.
pub fn sample(logits: &mut [f32], params: &SamplingParams, history: &[TokenId]) -> TokenId {
    assert!(!logits.is_empty(), "logits of at least one token");
    for logit in logits.iter_mut() {
        *logit = comparable(*logit);
    }
    penalize_repetition(logits, params, history);
    let best = argmax(logits);
    let max = logits[best];
    if params.temperature == 0.0 || max == f32::NEG_INFINITY {
        return token(best);
    }

    // In the order of ids.
    let mut candidates: Vec<Candidate> = Vec::new();
    let floor = max - NEGLIGIBLE * params.temperature;
    for (i, &logit) in logits.iter().enumerate() {
        if logit >= floor {
            candidates.push(Candidate { token: token(i), logit, weight: 0.0 });
        }
    }
    keep_top_k(&mut candidates, params.top_k);
    for candidate in &mut candidates {
        // Not the kernels' exponential: outside of a vector loop it costs four times as much on x86-64, where
        // a portable binary calls a function for each fused multiply-add.
        candidate.weight = libm::expf((candidate.logit - max) / params.temperature);
    }
    keep_top_p(&mut candidates, params.top_p);
    candidates.retain(|candidate| candidate.weight >= params.min_p);
    let random = uniform(params.seed, history.len() as u64);
    draw(&candidates, random).unwrap_or(token(best))
}

/// A logit that compares and subtracts as expected: no NaN, no positive infinity, one zero.
fn comparable(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 }
}

/// The penalty of CTRL (arXiv:1909.05858), once per token however often it occurred.
fn penalize_repetition(logits: &mut [f32], params: &SamplingParams, history: &[TokenId]) {
    if params.repeat_penalty == 1.0 {
        return;
    }
    let n_last = history.len().min(params.repeat_last_n as usize);
    let mut recent = history[history.len() - n_last..].to_vec();
    recent.sort_unstable();
    recent.dedup();
    for token in recent {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        let penalized = if *logit > 0.0 {
            *logit / params.repeat_penalty
        } else {
            *logit * params.repeat_penalty
        };
        *logit = comparable(penalized);
    }
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = i;
        }
    }
    best
}

fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: u32) {
    let top_k = top_k as usize;
    if top_k == 0 || top_k >= candidates.len() {
        return;
    }
    let mut ranked = candidates.clone();
    let (_, last, _) = ranked.select_nth_unstable_by(top_k - 1, Candidate::rank);
    keep_down_to(candidates, *last);
}

fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let enough = f64::from(top_p) * total(candidates);
    let mut ranked = candidates.clone();
    let mut share = 0.0;
    let mut rest = ranked.as_mut_slice();
    let mut n_sorted = SORTED_FIRST;
    while !rest.is_empty() {
        // Sorting only as far as needed: a vocabulary has 100,000 tokens, of which a few matter.
        let n = n_sorted.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n, Candidate::rank);
        }
        let (most_likely, others) = rest.split_at_mut(n);
        most_likely.sort_unstable_by(Candidate::rank);
        for candidate in most_likely {
            share += f64::from(candidate.weight);
            if share >= enough {
                keep_down_to(candidates, *candidate);
                return;
            }
        }
        rest = others;
        n_sorted *= 8;
    }
}

/// Keeps those that rank like `last` or before it, in the order in which they are.
fn keep_down_to(candidates: &mut Vec<Candidate>, last: Candidate) {
    candidates.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// - `random`: in `[0, 1)`
fn draw(candidates: &[Candidate], random: f64) -> Option<TokenId> {
    let threshold = random * total(candidates);
    let mut sum = 0.0;
    for candidate in candidates {
        sum += f64::from(candidate.weight);
        if sum > threshold {
            return Some(candidate.token);
        }
    }
    // Rounding can make the threshold the sum itself.
    candidates.last().map(|candidate| candidate.token)
}

fn token(i: usize) -> TokenId {
    TokenId::try_from(i).expect("vocabularies are bounded far below 2^32")
}

#[cfg(test)]
mod tests;
