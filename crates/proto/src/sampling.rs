//! How the next token is chosen. The parameters travel with every step that wants a token, so that the stage which samples
//! needs no state: parameters, seed and the tokens so far decide everything.

use serde::{Deserialize, Serialize};

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
    /// Divides positive and multiplies negative logits of tokens seen in the last [`repeat_last_n`](Self::repeat_last_n)
    /// (CTRL, arXiv:1909.05858); 1 changes nothing. Finite, above 0.
    pub repeat_penalty: f32,
    /// How many of the latest tokens the penalty looks at.
    pub repeat_last_n: u32,
    /// Key of the random generator; the same seed gives the same tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
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
        let checks = [
            (
                "temperature",
                "a number from 0 to 100",
                self.temperature,
                (0.0..=100.0).contains(&self.temperature),
            ),
            (
                "top_p",
                "a number above 0 and at most 1",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
            ),
            ("min_p", "a number from 0 to 1", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            (
                "repeat_penalty",
                "a number above 0 and at most 100",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0,
            ),
        ];
        match checks.into_iter().find(|&(.., valid)| !valid) {
            Some((name, expected, got, _)) => Err(SamplingError { name, expected, got }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_parameter_that_is_out_of_range() {
        let params = SamplingParams { top_p: f32::NAN, ..SamplingParams::default() };
        assert_eq!(params.validate().expect_err("not a number").name, "top_p");
        assert_eq!(SamplingParams::default().validate(), Ok(()));
    }
}
