//! The distribution of draws, and what each parameter keeps.

use shoal_proto::{Dry, SamplingParams};

use super::*;

const LOGITS: [f32; 6] = [1.0, 3.0, 0.5, 2.0, -1.0, 2.0];

/// How often each token is drawn at `n` positions.
fn counts(logits: &[f32], params: &SamplingParams, n: usize) -> Vec<usize> {
    let history = vec![u32::MAX; n];
    let mut counts = vec![0; logits.len()];
    for position in 0..n {
        counts[sample(&mut logits.to_vec(), params, &history[..position]) as usize] += 1;
    }
    counts
}

/// Checks the frequencies of 20,000 draws against the distribution that they should have.
#[track_caller]
fn check_distribution(params: &SamplingParams, probabilities: [f64; 6]) {
    const N: usize = 20_000;
    let counts = counts(&LOGITS, params, N);
    let mut chi_square = 0.0;
    for (token, (&count, probability)) in counts.iter().zip(probabilities).enumerate() {
        let expected = probability * N as f64;
        if probability == 0.0 {
            assert_eq!(count, 0, "token {token} cannot be drawn");
        } else {
            chi_square += (count as f64 - expected).powi(2) / expected;
        }
    }
    // With at most five degrees of freedom one seed in ten million is above; the seed is fixed.
    assert!(chi_square < 40.0, "chi-square {chi_square}, counts {counts:?}");
}

/// Softmax of the logits over temperature, of the given tokens.
fn softmax(temperature: f64, tokens: &[usize]) -> [f64; 6] {
    let mut probabilities = [0.0; 6];
    for &token in tokens {
        probabilities[token] = (f64::from(LOGITS[token]) / temperature).exp();
    }
    let sum: f64 = probabilities.iter().sum();
    probabilities.map(|probability| probability / sum)
}

fn params() -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: 42, ..SamplingParams::default() }
}

#[track_caller]
fn check_greedy(logits: &[f32], expected: TokenId) {
    let params = SamplingParams { temperature: 0.0, ..params() };
    assert_eq!(sample(&mut logits.to_vec(), &params, &[]), expected);
}

#[test]
fn draws_by_softmax() {
    check_distribution(&params(), softmax(1.0, &[0, 1, 2, 3, 4, 5]));
}

#[test]
fn temperature_divides_logits() {
    let hot = SamplingParams { temperature: 2.5, ..params() };
    check_distribution(&hot, softmax(2.5, &[0, 1, 2, 3, 4, 5]));
    let cold = SamplingParams { temperature: 0.3, ..params() };
    check_distribution(&cold, softmax(0.3, &[0, 1, 2, 3, 4, 5]));
}

#[test]
fn the_smallest_temperature_is_greedy() {
    let params = SamplingParams { temperature: f32::MIN_POSITIVE, ..params() };
    assert_eq!(counts(&LOGITS, &params, 100), [0, 100, 0, 0, 0, 0]);
}

#[test]
fn top_k_keeps_the_most_likely_and_of_equals_the_first() {
    let top = |top_k| SamplingParams { top_k, ..params() };
    check_distribution(&top(1), softmax(1.0, &[1]));
    check_distribution(&top(2), softmax(1.0, &[1, 3]));
    check_distribution(&top(3), softmax(1.0, &[1, 3, 5]));
    check_distribution(&top(4), softmax(1.0, &[0, 1, 3, 5]));
    check_distribution(&top(100), softmax(1.0, &[0, 1, 2, 3, 4, 5]));
}

#[test]
fn top_p_keeps_the_fewest_of_the_most_likely_that_reach_the_share() {
    // Shares in descending order: 0.507, 0.187, 0.187, 0.069, 0.042, 0.009.
    let all = softmax(1.0, &[0, 1, 2, 3, 4, 5]);
    let top = |top_p: f64| SamplingParams { top_p: top_p as f32, ..params() };
    check_distribution(&top(1e-9), softmax(1.0, &[1]));
    check_distribution(&top(all[1] - 1e-3), softmax(1.0, &[1]));
    check_distribution(&top(all[1] + 1e-3), softmax(1.0, &[1, 3]));
    check_distribution(&top(all[1] + all[3] + 1e-3), softmax(1.0, &[1, 3, 5]));
    check_distribution(&top(all[1] + 2.0 * all[3] + 1e-3), softmax(1.0, &[0, 1, 3, 5]));
    check_distribution(&top(1.0), all);
}

#[test]
fn top_p_is_taken_of_what_top_k_left() {
    // Of the first two, the first alone has 0.73.
    let params = SamplingParams { top_k: 2, top_p: 0.7, ..params() };
    check_distribution(&params, softmax(1.0, &[1]));
}

#[test]
fn top_p_cuts_large_vocabularies_where_a_full_sort_would() {
    let n = 5000;
    let logits: Vec<f32> = (0..n).map(|i| (i * 7919 % n) as f32 * 1e-3).collect();
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let weight = |i: usize| f64::from(logits[i]).exp();
    let total: f64 = (0..logits.len()).map(weight).sum();
    for top_p in [0.01, 0.3, 0.9, 0.999] {
        let mut candidates: Vec<Candidate> = logits
            .iter()
            .zip(0..)
            .map(|(&logit, token)| Candidate { token, logit, weight: logit.exp() })
            .collect();
        keep_top_p(&mut candidates, top_p);
        let mut sum = 0.0;
        let n_kept = 1 + ranked
            .iter()
            .take_while(|&&i| {
                sum += weight(i);
                sum < f64::from(top_p) * total
            })
            .count();
        let mut expected: Vec<TokenId> = ranked[..n_kept].iter().map(|&i| i as TokenId).collect();
        expected.sort_unstable();
        let kept: Vec<TokenId> = candidates.iter().map(|candidate| candidate.token).collect();
        assert_eq!(kept, expected, "top_p {top_p}");
    }
}

#[test]
fn min_p_is_relative_to_the_most_likely() {
    // Relative to token 1: 0.1353, 1, 0.0821, 0.3679, 0.0183, 0.3679.
    let min = |min_p| SamplingParams { min_p, ..params() };
    check_distribution(&min(1.0), softmax(1.0, &[1]));
    check_distribution(&min(0.37), softmax(1.0, &[1]));
    check_distribution(&min(0.36), softmax(1.0, &[1, 3, 5]));
    check_distribution(&min(0.13), softmax(1.0, &[0, 1, 3, 5]));
}

#[test]
fn repetition_penalty_shrinks_what_was_seen_once_per_token() {
    let penalty = SamplingParams { repeat_penalty: 2.0, repeat_last_n: 4, ..params() };
    let mut logits = LOGITS;
    penalties::penalize(logits.as_mut_slice(), &penalty, &[0, 2, 1, 4, 1, 99]);
    assert_eq!(logits, [1.0, 1.5, 0.5, 2.0, -2.0, 2.0]);
    let none = SamplingParams { repeat_last_n: 0, ..penalty };
    let mut logits = LOGITS;
    penalties::penalize(logits.as_mut_slice(), &none, &[1, 4]);
    assert_eq!(logits, LOGITS);
}

#[test]
fn frequency_and_presence_are_subtracted() {
    let penalty = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..params() };
    let mut logits = LOGITS;
    penalties::penalize(logits.as_mut_slice(), &penalty, &[1, 4, 1, 1]);
    assert_eq!(logits, [1.0, 1.25, 0.5, 2.0, -1.75, 2.0]);
}

#[test]
fn dry_lowers_what_would_repeat_by_length() {
    let dry = Dry { multiplier: 0.5, base: 2.0, allowed_length: 2, ..Dry::default() };
    let mut logits = LOGITS;
    // 1 2 3 was said, then 3 after 2 3 4 would be: four tokens, two more than allowed.
    dry::penalize(logits.as_mut_slice(), &dry, &[0, 1, 2, 3, 5, 0, 1, 2, 3]);
    assert_eq!(logits, [1.0, 3.0, 0.5, 2.0, -1.0, 2.0 - 0.5 * 4.0]);
    let all = SamplingParams { temperature: 0.0, dry, ..params() };
    let mut logits = [0.0, 9.0, 8.0, 0.0];
    assert_eq!(sample(&mut logits, &all, &[3, 0, 1, 3, 0]), 1);
    let mut logits = [0.0, 9.0, 8.9, 0.0];
    assert_eq!(sample(&mut logits, &all, &[3, 0, 1, 3, 0]), 2);
}

#[test]
fn biases_come_before_everything() {
    let forbid = SamplingParams { logit_bias: vec![(1, f32::NEG_INFINITY), (99, 1.0)], ..params() };
    check_distribution(&forbid, softmax(1.0, &[0, 2, 3, 4, 5]));
    let wish = SamplingParams { logit_bias: vec![(4, 50.0)], temperature: 0.0, ..params() };
    assert_eq!(sample(&mut LOGITS.to_vec(), &wish, &[]), 4);
}

#[test]
fn top_n_sigma_keeps_what_is_near_the_greatest() {
    // The mean is 1.25, the standard deviation 1.2829.
    let sigma = |top_n_sigma| SamplingParams { top_n_sigma, ..params() };
    check_distribution(&sigma(0.7), softmax(1.0, &[1]));
    check_distribution(&sigma(0.8), softmax(1.0, &[1, 3, 5]));
    check_distribution(&sigma(1.6), softmax(1.0, &[0, 1, 3, 5]));
    check_distribution(&sigma(9.0), softmax(1.0, &[0, 1, 2, 3, 4, 5]));
}

#[test]
fn typical_p_keeps_surprises_near_the_expected_one() {
    // Probabilities 0.069, 0.507, 0.042, 0.187, 0.009, 0.187; the entropy is 1.331 nats, the surprises are 2.68, 0.68, 3.18,
    // 1.68, 4.68, 1.68: nearest are tokens 3 and 5, then 1, then 0.
    let typical = |typical_p| SamplingParams { typical_p, ..params() };
    check_distribution(&typical(0.1), softmax(1.0, &[3]));
    check_distribution(&typical(0.2), softmax(1.0, &[3, 5]));
    check_distribution(&typical(0.4), softmax(1.0, &[1, 3, 5]));
    check_distribution(&typical(0.9), softmax(1.0, &[0, 1, 3, 5]));
    check_distribution(&typical(1.0), softmax(1.0, &[0, 1, 2, 3, 4, 5]));
    // The most likely token is not always among them, not even for the greedy.
    let greedy = SamplingParams { temperature: 0.0, ..typical(0.1) };
    assert_eq!(sample(&mut LOGITS.to_vec(), &greedy, &[]), 3);
}

#[test]
fn xtc_drops_top_choices_but_the_last() {
    let xtc = |xtc_threshold| SamplingParams { xtc_probability: 1.0, xtc_threshold, ..params() };
    check_distribution(&xtc(0.2), softmax(1.0, &[0, 1, 2, 3, 4, 5]));
    // 1 and 3 go: of the equally likely 3 and 5 the latter ranks last.
    check_distribution(&xtc(0.1), softmax(1.0, &[0, 2, 4, 5]));
    check_distribution(&xtc(0.06), softmax(1.0, &[0, 2, 4]));
    let half = SamplingParams { xtc_probability: 0.5, ..xtc(0.1) };
    let [all, some] = [softmax(1.0, &[0, 1, 2, 3, 4, 5]), softmax(1.0, &[0, 2, 4, 5])];
    check_distribution(&half, std::array::from_fn(|i| 0.5 * all[i] + 0.5 * some[i]));
}

#[test]
fn samplers_apply_in_the_order_that_is_asked_for() {
    let both = SamplingParams { temperature: 4.0, min_p: 0.5, ..params() };
    // Before the temperature min-p leaves one token; after it, four are nearly as likely as the first.
    check_distribution(&both, softmax(4.0, &[1]));
    let samplers = vec![Sampler::Temperature, Sampler::MinP];
    let hot_first = SamplingParams { samplers, ..both.clone() };
    check_distribution(&hot_first, softmax(4.0, &[0, 1, 2, 3, 5]));
    let none = SamplingParams { samplers: Vec::new(), ..both };
    check_distribution(&none, softmax(1.0, &[0, 1, 2, 3, 4, 5]));
    // Penalties after a cut find only what is left.
    let samplers = vec![Sampler::TopK, Sampler::Penalties, Sampler::Temperature];
    let late =
        SamplingParams { samplers, top_k: 2, presence_penalty: 2.0, temperature: 0.0, ..params() };
    assert_eq!(sample(&mut LOGITS.to_vec(), &late, &[1, 4]), 3);
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    check_greedy(&LOGITS, 1);
    check_greedy(&[0.0, -0.0, 0.0], 0);
    check_greedy(&[-0.0, 0.0], 0);
    check_greedy(&[-2.0, -1.0, -1.0], 1);
}

#[test]
fn logits_that_are_no_numbers_are_impossible_and_never_panic() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    check_greedy(&[nan, 1.0, nan, 2.0], 3);
    check_greedy(&[nan, nan], 0);
    check_greedy(&[-inf, -inf], 0);
    check_greedy(&[1.0, inf, inf], 1);
    let all = SamplingParams { top_k: 3, top_p: 0.9, min_p: 0.1, repeat_penalty: 1.5, ..params() };
    let hostile = [&[nan, nan][..], &[-inf, nan], &[inf, nan], &[nan, 1.0], &[f32::MAX, f32::MIN]];
    for logits in hostile {
        for params in [params(), all.clone()] {
            let token = sample(&mut logits.to_vec(), &params, &[0, 1]);
            let is_possible = |i: usize| logits[i] > -inf;
            assert!(is_possible(token as usize) || !(0..2).any(is_possible), "{logits:?}: {token}");
        }
    }
}

#[test]
fn parameters_that_validation_would_refuse_do_not_panic() {
    for value in [f32::NAN, f32::INFINITY, -1.0, 2.0] {
        for params in [
            SamplingParams { temperature: value, ..params() },
            SamplingParams { top_p: value, ..params() },
            SamplingParams { min_p: value, ..params() },
            SamplingParams { repeat_penalty: value, ..params() },
        ] {
            assert!((sample(&mut LOGITS.to_vec(), &params, &[1]) as usize) < LOGITS.len());
        }
    }
}

#[test]
fn the_same_arguments_draw_the_same_token_and_others_do_not() {
    let draw = |seed, n_history: usize| {
        let params = SamplingParams { temperature: 5.0, seed, ..params() };
        (0..50_usize)
            .map(|i| sample(&mut LOGITS.to_vec(), &params, &vec![0; n_history + i]))
            .collect()
    };
    let tokens: Vec<TokenId> = draw(1, 0);
    assert_eq!(tokens, draw(1, 0));
    assert_ne!(tokens, draw(2, 0));
    assert_ne!(tokens, draw(1, 1));
    // Frozen: a change would change every answer ever given with a seed.
    assert_eq!(tokens[..12], [5, 5, 3, 0, 3, 1, 0, 2, 5, 3, 3, 3]);
}
