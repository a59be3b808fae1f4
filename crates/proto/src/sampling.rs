//! How the next token is chosen. The parameters travel with every step that wants a token, so that the stage which samples
//! needs no state: parameters, seed and the tokens so far decide everything.

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// Most biases of one request; OpenAI allows 300.
pub const BIASES_MAX: usize = 1024;
/// Most breakers that travel with a step.
pub const BREAKERS_MAX: usize = 4096;

/// Parameters of the sampler. `Default` is temperature 0.7 and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 picks the most likely token. Finite, at least 0.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most likely tokens whose probabilities sum to at least this; 1 keeps all. In `(0, 1]`.
    pub top_p: f32,
    /// Drops tokens less likely than `min_p` times the most likely one; 0 keeps all. In `[0, 1]`.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one and whose probabilities sum to more than this (locally
    /// typical sampling, arXiv:2202.00666); 1 keeps all. In `(0, 1]`.
    pub typical_p: f32,
    /// Drops tokens whose logits are more than so many standard deviations below the greatest (arXiv:2411.07641); 0 keeps
    /// all. Finite, at least 0.
    pub top_n_sigma: f32,
    /// How probable it is that XTC ("exclude top choices") cuts at a position at all; 0 never. In `[0, 1]`.
    pub xtc_probability: f32,
    /// XTC drops all tokens that are at least so probable, but the least probable of them; above 0.5 it can do nothing. In
    /// `[0, 1]`.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the last [`repeat_last_n`](Self::repeat_last_n)
    /// (CTRL, arXiv:1909.05858); 1 changes nothing. Finite, above 0.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit for each time that it is among the last [`repeat_last_n`](Self::repeat_last_n). From -2
    /// to 2.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it is among the last [`repeat_last_n`](Self::repeat_last_n). From -2 to 2.
    pub presence_penalty: f32,
    /// How many of the latest tokens these three penalties look at.
    pub repeat_last_n: u32,
    /// What makes tokens less likely that would continue a repetition.
    pub dry: Dry,
    /// Added to the logits of these tokens, before everything else; minus infinity forbids one. At most [`BIASES_MAX`].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// What is applied, in this order. A sampler that is not listed does nothing.
    pub samplers: Vec<Sampler>,
    /// Key of the random generator; the same seed gives the same tokens.
    pub seed: u64,
}

/// "Don't repeat yourself": a token that would continue a repetition of `n` tokens has its logit lowered by `multiplier * base ^ (n -
/// allowed_length)`. (By p-e-w, text-generation-webui pull request 5677.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dry {
    /// 0 does nothing. Finite, at least 0.
    pub multiplier: f32,
    /// Finite, at least 1.
    pub base: f32,
    /// Repetitions shorter than this cost nothing.
    pub allowed_length: u32,
    /// How many of the latest tokens are looked at.
    pub last_n: u32,
    /// Tokens that no repetition extends over, ascending: those of the text so far that contain a line end, say. At most
    /// [`BREAKERS_MAX`].
    pub breakers: Vec<TokenId>,
}

/// A step from logits to the tokens that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sampler {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// [`Dry`].
    Dry,
    /// [`SamplingParams::top_n_sigma`].
    TopNSigma,
    /// [`SamplingParams::top_k`].
    TopK,
    /// [`SamplingParams::typical_p`].
    TypicalP,
    /// [`SamplingParams::top_p`].
    TopP,
    /// [`SamplingParams::min_p`].
    MinP,
    /// [`SamplingParams::xtc_probability`].
    Xtc,
    /// [`SamplingParams::temperature`].
    Temperature,
}

impl Sampler {
    /// All of them, in llama.cpp's order.
    pub const ALL: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypicalP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// The sampler's name, as llama.cpp's users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }

    /// The sampler of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sampler| sampler.name() == name)
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            dry: Dry::default(),
            logit_bias: Vec::new(),
            samplers: Sampler::ALL.to_vec(),
            seed: 0,
        }
    }
}

impl Default for Dry {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            last_n: u32::MAX,
            breakers: Vec::new(),
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct SamplingError {
    /// The parameter's name, as users of the API know it.
    pub name: &'static str,
    /// What is allowed.
    pub expected: &'static str,
    /// What came.
    pub got: f32,
}

impl SamplingParams {
    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// The first parameter that is not a number or lies outside its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let (n_biases, n_breakers) = (self.logit_bias.len(), self.dry.breakers.len());
        let worst_bias = self
            .logit_bias
            .iter()
            .map(|&(_, bias)| bias)
            .find(|bias| bias.is_nan() || *bias > BIAS_MOST);
        #[rustfmt::skip]
        let checks = [
            ("temperature", "a number from 0 to 100", self.temperature, (0.0..=100.0).contains(&self.temperature)),
            ("top_p", SHARE, self.top_p, is_share(self.top_p)),
            ("min_p", "a number from 0 to 1", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            ("typical_p", SHARE, self.typical_p, is_share(self.typical_p)),
            ("top_n_sigma", "a number from 0 to 100", self.top_n_sigma, (0.0..=100.0).contains(&self.top_n_sigma)),
            ("xtc_probability", "a number from 0 to 1", self.xtc_probability, (0.0..=1.0).contains(&self.xtc_probability)),
            ("xtc_threshold", "a number from 0 to 1", self.xtc_threshold, (0.0..=1.0).contains(&self.xtc_threshold)),
            ("repeat_penalty", "a number above 0 and at most 100", self.repeat_penalty, self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0),
            ("frequency_penalty", PENALTY, self.frequency_penalty, (-2.0..=2.0).contains(&self.frequency_penalty)),
            ("presence_penalty", PENALTY, self.presence_penalty, (-2.0..=2.0).contains(&self.presence_penalty)),
            ("dry_multiplier", "a number from 0 to 100", self.dry.multiplier, (0.0..=100.0).contains(&self.dry.multiplier)),
            ("dry_base", "a number from 1 to 100", self.dry.base, (1.0..=100.0).contains(&self.dry.base)),
            ("dry_sequence_breakers", "at most 4096 tokens", n_breakers as f32, n_breakers <= BREAKERS_MAX),
            ("logit_bias", "at most 1024 tokens", n_biases as f32, n_biases <= BIASES_MAX),
            ("logit_bias", "numbers up to 100", worst_bias.unwrap_or(0.0), worst_bias.is_none()),
            ("samplers", "each at most once", self.samplers.len() as f32, self.is_each_once()),
        ];
        match checks.into_iter().find(|&(.., valid)| !valid) {
            Some((name, expected, got, _)) => Err(SamplingError { name, expected, got }),
            None => Ok(()),
        }
    }

    fn is_each_once(&self) -> bool {
        let is_again = |(i, sampler)| self.samplers[..i].contains(sampler);
        !self.samplers.iter().enumerate().any(is_again)
    }
}

const SHARE: &str = "a number above 0 and at most 1";
const PENALTY: &str = "a number from -2 to 2";
/// What OpenAI takes.
const BIAS_MOST: f32 = 100.0;

fn is_share(x: f32) -> bool {
    x > 0.0 && x <= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_parameter_that_is_out_of_range() {
        let good = SamplingParams::default;
        assert_eq!(good().validate(), Ok(()));
        let bad = [
            ("top_p", SamplingParams { top_p: f32::NAN, ..good() }),
            ("typical_p", SamplingParams { typical_p: 0.0, ..good() }),
            ("top_n_sigma", SamplingParams { top_n_sigma: -1.0, ..good() }),
            ("xtc_threshold", SamplingParams { xtc_threshold: 1.5, ..good() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: 2.5, ..good() }),
            ("dry_base", SamplingParams { dry: Dry { base: 0.5, ..Dry::default() }, ..good() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(1, f32::NAN)], ..good() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(1, 0.0); 2000], ..good() }),
            ("samplers", SamplingParams { samplers: vec![Sampler::TopK; 2], ..good() }),
        ];
        for (name, params) in bad {
            assert_eq!(params.validate().expect_err(name).name, name);
        }
        let forbidden = SamplingParams { logit_bias: vec![(1, f32::NEG_INFINITY)], ..good() };
        assert_eq!(forbidden.validate(), Ok(()));
    }

    #[test]
    fn a_sampler_has_its_name_back() {
        for sampler in Sampler::ALL {
            assert_eq!(Sampler::named(sampler.name()), Some(sampler));
        }
        assert_eq!(Sampler::named("mirostat"), None);
    }
}
