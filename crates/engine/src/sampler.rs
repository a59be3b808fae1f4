//! From logits to a token.
//!
//! Logit biases come first. Then the samplers of [`SamplingParams::samplers`] in their order, which is llama.cpp's unless the request
//! names another: penalties and [`dry`] change logits, *temperature* divides them, and the others drop tokens:
//!
//! - *top-nσ*: those more than n standard deviations below the greatest logit
//! - *top-k*: all but the `k` most likely
//! - *typical-p*: all but those of the most typical surprise that together have more than the share `p`
//! - *top-p*: all but the most likely that together have at least the share `p`
//! - *min-p*: those that are less than `min_p` times as likely as the most likely one
//! - *XTC*: at some positions the most likely, if several are likely
//!
//! One of the rest is drawn, each with its share. A temperature of zero keeps only the most likely token.
//!
//! Tokens that are negligible (less than e^-24 times as likely as the best) are dropped at the start.
//!
//! Everything is decided by the arguments: tokens of equal logits rank by their id, sums run in the order of
//! ids, and the random numbers belong to the seed and the position. So any node that has the logits draws the
//! same token.

mod dry;
mod penalties;

use std::cmp::Ordering;

use shoal_proto::{Sampler, SamplingParams, TokenId};

use crate::philox::uniform;

/// This many candidates are sorted at first to find where top-p cuts. Trained models rarely need more.
const SORTED_FIRST: usize = 128;

/// Tokens whose logits, over temperature, are this far below the best are not drawn: e^-24 times as likely, all
/// of a vocabulary of 150,000 have less than a hundred-thousandth of the probability. What is left of a trained
/// model's vocabulary is small, and an exponential per token would cost as much as a layer.
const NEGLIGIBLE: f32 = 24.0;

/// What random numbers are drawn for.
const FOR_TOKEN: u32 = 0;
const FOR_XTC: u32 = 1;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: TokenId,
    logit: f32,
    /// Its probability relative to the most likely token's, as of the last [`weigh`].
    weight: f32,
}

impl Candidate {
    /// More likely first; of equals, the lower id.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Where samplers that change logits find them.
trait Logits {
    /// The logit of a token, if it is there.
    fn of(&mut self, token: TokenId) -> Option<&mut f32>;
}

impl Logits for [f32] {
    fn of(&mut self, token: TokenId) -> Option<&mut f32> {
        self.get_mut(token as usize)
    }
}

/// In the order of their ids.
impl Logits for [Candidate] {
    fn of(&mut self, token: TokenId) -> Option<&mut f32> {
        let at = self.binary_search_by_key(&token, |candidate| candidate.token).ok()?;
        Some(&mut self[at].logit)
    }
}

/// Chooses the next token. Stateless: the arguments decide, on every machine alike.
///
/// What is not a number counts as impossible; if nothing is possible, the result is token 0.
///
/// - `logits`: `[n_vocab]`, not empty; changed by biases and penalties
/// - `params`: as [`SamplingParams::validate`] accepts them
/// - `history`: all tokens so far; their number is the position that the random numbers belong to
///
/// # Panics
/// If `logits` are empty.
pub fn sample(logits: &mut [f32], params: &SamplingParams, history: &[TokenId]) -> TokenId {
    assert!(!logits.is_empty(), "logits of at least one token");
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = logits.of(token) {
            *logit += bias;
        }
    }
    for logit in logits.iter_mut() {
        *logit = comparable(*logit);
    }
    // These touch the tokens of the history alone, wherever the others lie.
    let is_penalty = |sampler: &&Sampler| matches!(sampler, Sampler::Penalties | Sampler::Dry);
    let n_first = params.samplers.iter().take_while(is_penalty).count();
    let (first, rest) = params.samplers.split_at(n_first);
    for sampler in first {
        penalize(*sampler, logits, params, history);
    }
    let best = argmax(logits);
    let max = logits[best];
    if max == f32::NEG_INFINITY
        || (is_greedy(params, rest) && !rest.iter().any(|it| is_penalty(&it)))
    {
        return token(best);
    }
    let mut candidates = candidates(logits, params, max);
    for sampler in rest {
        apply(*sampler, &mut candidates, params, history);
    }
    weigh(&mut candidates);
    let random = uniform(params.seed, history.len() as u64, FOR_TOKEN);
    draw(&candidates, random).unwrap_or(token(best))
}

/// Whether the most likely token is taken, since nothing can drop it.
fn is_greedy(params: &SamplingParams, rest: &[Sampler]) -> bool {
    params.temperature == 0.0
        && rest.contains(&Sampler::Temperature)
        && params.typical_p >= 1.0
        && params.xtc_probability <= 0.0
}

/// The tokens that are not negligible, in the order of ids. All of them, if the spread of all logits is to be measured.
fn candidates(logits: &[f32], params: &SamplingParams, max: f32) -> Vec<Candidate> {
    let floor = if params.top_n_sigma > 0.0 && params.samplers.contains(&Sampler::TopNSigma) {
        f32::MIN
    } else {
        max - NEGLIGIBLE * params.temperature.max(1.0)
    };
    let all = logits.iter().enumerate().filter(|&(_, &logit)| logit >= floor);
    all.map(|(i, &logit)| Candidate { token: token(i), logit, weight: 0.0 }).collect()
}

fn penalize<L: Logits + ?Sized>(
    sampler: Sampler,
    logits: &mut L,
    params: &SamplingParams,
    history: &[TokenId],
) {
    match sampler {
        Sampler::Dry => dry::penalize(logits, &params.dry, history),
        _ => penalties::penalize(logits, params, history),
    }
}

fn apply(
    sampler: Sampler,
    candidates: &mut Vec<Candidate>,
    params: &SamplingParams,
    history: &[TokenId],
) {
    match sampler {
        Sampler::Penalties | Sampler::Dry => {
            penalize(sampler, candidates.as_mut_slice(), params, history);
        }
        Sampler::TopNSigma => keep_top_n_sigma(candidates, params.top_n_sigma),
        Sampler::TopK => keep_top_k(candidates, params.top_k),
        Sampler::TypicalP => keep_typical(candidates, params.typical_p),
        Sampler::TopP => keep_top_p(candidates, params.top_p),
        Sampler::MinP if params.min_p > 0.0 => {
            weigh(candidates);
            candidates.retain(|candidate| candidate.weight >= params.min_p);
        }
        Sampler::MinP => {}
        Sampler::Xtc => {
            let random = || uniform(params.seed, history.len() as u64, FOR_XTC);
            if params.xtc_probability > 0.0 && random() < f64::from(params.xtc_probability) {
                exclude_top_choices(candidates, params.xtc_threshold);
            }
        }
        Sampler::Temperature if params.temperature > 0.0 => {
            for candidate in candidates {
                candidate.logit = comparable(candidate.logit / params.temperature);
            }
        }
        Sampler::Temperature => keep_top_k(candidates, 1),
    }
}

/// A logit that compares and subtracts as expected: no NaN, no positive infinity, one zero.
fn comparable(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 }
}

/// Works out how likely the candidates are, relative to the most likely.
fn weigh(candidates: &mut [Candidate]) {
    let max = candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
    for candidate in candidates {
        // Not the kernels' exponential: outside of a vector loop it costs four times as much on x86-64, where
        // a portable binary calls a function for each fused multiply-add.
        candidate.weight = libm::expf(candidate.logit - max);
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

/// Drops what is more than `n` standard deviations below the greatest.
fn keep_top_n_sigma(candidates: &mut Vec<Candidate>, n: f32) {
    if n <= 0.0 || candidates.is_empty() {
        return;
    }
    let logits = || candidates.iter().map(|candidate| f64::from(candidate.logit));
    let n_all = candidates.len() as f64;
    let mean = logits().sum::<f64>() / n_all;
    let variance = logits().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / n_all;
    let max = logits().fold(f64::NEG_INFINITY, f64::max);
    let floor = max - f64::from(n) * variance.sqrt();
    candidates.retain(|candidate| f64::from(candidate.logit) >= floor);
}

/// Keeps the tokens of the most typical surprise, as few as together have more than the share `p`.
fn keep_typical(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    weigh(candidates);
    let total = total(candidates);
    let surprise = |candidate: &Candidate| total.ln() - f64::from(candidate.weight).ln();
    let entropy: f64 = candidates
        .iter()
        .filter(|candidate| candidate.weight > 0.0)
        .map(|candidate| f64::from(candidate.weight) / total * surprise(candidate))
        .sum();
    let oddness = |candidate: &Candidate| (surprise(candidate) - entropy).abs();
    candidates.sort_by(|a, b| oddness(a).total_cmp(&oddness(b)).then(a.rank(b)));
    let mut share = 0.0;
    let n_below = candidates
        .iter()
        .take_while(|candidate| {
            share += f64::from(candidate.weight);
            share <= f64::from(p) * total
        })
        .count();
    candidates.truncate(n_below + 1);
    candidates.sort_unstable_by_key(|candidate| candidate.token);
}

/// Drops the tokens that have at least the share `threshold`, but the least likely of them.
fn exclude_top_choices(candidates: &mut Vec<Candidate>, threshold: f32) {
    weigh(candidates);
    let least = f64::from(threshold) * total(candidates);
    let is_top = |candidate: &Candidate| f64::from(candidate.weight) >= least;
    let Some(last) = candidates.iter().filter(|it| is_top(it)).max_by(|a, b| a.rank(b)).copied()
    else {
        return;
    };
    candidates.retain(|candidate| candidate.token == last.token || !is_top(candidate));
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
    weigh(candidates);
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
