//! The fields of a request that say how tokens are drawn, beyond OpenAI's temperature, `top_p` and seed. The names are those of
//! llama.cpp's server, which its clients know; what is not given does nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use shoal_node::BREAKERS;
use shoal_proto::{BIASES_MAX, Dry, Sampler, SamplingParams, TokenId};

use crate::error::ApiError;

/// Most breakers of a request, and their longest.
const BREAKERS_MAX: usize = 64;
const BREAKER_BYTES_MAX: usize = 40;

/// The fields as they come.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Samplers {
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    /// OpenAI's: what is added to the logits of tokens, by their ids as text.
    logit_bias: Option<BTreeMap<String, f32>>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    top_n_sigma: Option<f32>,
    xtc_probability: Option<f32>,
    xtc_threshold: Option<f32>,
    repeat_penalty: Option<f32>,
    /// -1 looks at everything.
    repeat_last_n: Option<i64>,
    dry_multiplier: Option<f32>,
    dry_base: Option<f32>,
    dry_allowed_length: Option<u32>,
    /// -1 looks at everything.
    dry_penalty_last_n: Option<i64>,
    dry_sequence_breakers: Option<Vec<String>>,
    /// Which apply, in this order.
    samplers: Option<Vec<String>>,
}

/// Their names.
const FIELDS: [&str; 17] = [
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "repeat_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "samplers",
];

impl Samplers {
    /// Takes the fields out of what else a request has, so that an error names the field that it is about: flattened into the
    /// request they would lose their names.
    pub(crate) fn take(rest: &mut Map<String, Value>) -> Result<Self, ApiError> {
        let fields = FIELDS.into_iter().filter_map(|name| rest.shift_remove_entry(name));
        let fields = Value::Object(fields.collect());
        serde_path_to_error::deserialize(fields).map_err(|error| {
            ApiError::invalid(error.path().to_string(), error.into_inner().to_string())
        })
    }

    /// Fills in what was given, and returns the texts that end a repetition.
    pub(crate) fn into_params(
        self,
        plain: SamplingParams,
    ) -> Result<(SamplingParams, Vec<String>), ApiError> {
        let off = Dry::default();
        let dry = Dry {
            multiplier: self.dry_multiplier.unwrap_or(off.multiplier),
            base: self.dry_base.unwrap_or(off.base),
            allowed_length: self.dry_allowed_length.unwrap_or(off.allowed_length),
            last_n: last_n("dry_penalty_last_n", self.dry_penalty_last_n, off.last_n)?,
            breakers: Vec::new(),
        };
        let params = SamplingParams {
            top_k: self.top_k.unwrap_or(plain.top_k),
            min_p: self.min_p.unwrap_or(plain.min_p),
            typical_p: self.typical_p.unwrap_or(plain.typical_p),
            top_n_sigma: self.top_n_sigma.unwrap_or(plain.top_n_sigma),
            xtc_probability: self.xtc_probability.unwrap_or(plain.xtc_probability),
            xtc_threshold: self.xtc_threshold.unwrap_or(plain.xtc_threshold),
            repeat_penalty: self.repeat_penalty.unwrap_or(plain.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            repeat_last_n: last_n("repeat_last_n", self.repeat_last_n, plain.repeat_last_n)?,
            dry,
            logit_bias: biases(self.logit_bias.unwrap_or_default())?,
            samplers: self.samplers.map_or(Ok(plain.samplers), |names| order(&names))?,
            ..plain
        };
        params.validate().map_err(|error| {
            ApiError::invalid(error.name, format!("expected {}, got {}", error.expected, error.got))
        })?;
        let breakers = match self.dry_sequence_breakers {
            _ if params.dry.multiplier == 0.0 => Vec::new(),
            None => BREAKERS.map(String::from).to_vec(),
            Some(breakers) => breakers,
        };
        let is_bad = |text: &String| text.is_empty() || text.len() > BREAKER_BYTES_MAX;
        if breakers.len() > BREAKERS_MAX || breakers.iter().any(is_bad) {
            let message =
                format!("expected at most {BREAKERS_MAX} texts of 1 to {BREAKER_BYTES_MAX} bytes");
            return Err(ApiError::invalid("dry_sequence_breakers", message));
        }
        Ok((params, breakers))
    }
}

fn last_n(name: &'static str, got: Option<i64>, unset: u32) -> Result<u32, ApiError> {
    match got {
        None => Ok(unset),
        Some(-1) => Ok(u32::MAX),
        Some(n) => u32::try_from(n)
            .map_err(|_| ApiError::invalid(name, format!("expected -1 or more, got {n}"))),
    }
}

fn biases(by_id: BTreeMap<String, f32>) -> Result<Vec<(TokenId, f32)>, ApiError> {
    if by_id.len() > BIASES_MAX {
        let message = format!("expected at most {BIASES_MAX} tokens, got {}", by_id.len());
        return Err(ApiError::invalid("logit_bias", message));
    }
    by_id
        .into_iter()
        .map(|(token, bias)| match token.parse() {
            // OpenAI's -100 forbids a token.
            Ok(token) => Ok((token, if bias <= -100.0 { f32::NEG_INFINITY } else { bias })),
            Err(_) => {
                Err(ApiError::invalid("logit_bias", format!("expected token ids, got {token:?}")))
            }
        })
        .collect()
}

fn order(names: &[String]) -> Result<Vec<Sampler>, ApiError> {
    let named = |name: &String| {
        Sampler::named(name).ok_or_else(|| {
            let known = Sampler::ALL.map(Sampler::name).join(", ");
            ApiError::invalid("samplers", format!("expected some of {known}, got {name:?}"))
        })
    };
    names.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<(SamplingParams, Vec<String>), ApiError> {
        let Value::Object(mut rest) = body else { panic!("an object") };
        let samplers = Samplers::take(&mut rest)?;
        assert!(rest.is_empty(), "{rest:?}");
        samplers.into_params(SamplingParams::default())
    }

    #[test]
    fn nothing_given_changes_nothing() {
        let (params, breakers) = read(json!({})).expect("valid");
        assert_eq!((params, breakers), (SamplingParams::default(), vec![]));
    }

    #[test]
    fn every_field_has_its_place() {
        let (params, breakers) = read(json!({
            "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"7": -100, "9": 2.5},
            "top_k": 40, "min_p": 0.05, "typical_p": 0.9, "top_n_sigma": 1.5,
            "xtc_probability": 0.5, "xtc_threshold": 0.2, "repeat_penalty": 1.1, "repeat_last_n": -1,
            "dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3, "dry_penalty_last_n": 100,
            "samplers": ["temperature", "top_k"],
        }))
        .expect("valid");
        let expected = SamplingParams {
            frequency_penalty: 0.5,
            presence_penalty: -0.5,
            logit_bias: vec![(7, f32::NEG_INFINITY), (9, 2.5)],
            top_k: 40,
            min_p: 0.05,
            typical_p: 0.9,
            top_n_sigma: 1.5,
            xtc_probability: 0.5,
            xtc_threshold: 0.2,
            repeat_penalty: 1.1,
            repeat_last_n: u32::MAX,
            dry: Dry {
                multiplier: 0.8,
                base: 2.0,
                allowed_length: 3,
                last_n: 100,
                breakers: vec![],
            },
            samplers: vec![Sampler::Temperature, Sampler::TopK],
            ..SamplingParams::default()
        };
        assert_eq!((params, breakers), (expected, BREAKERS.map(String::from).to_vec()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = [
            (json!({"typical_p": 0}), "typical_p"),
            (json!({"min_p": "much"}), "min_p"),
            (json!({"logit_bias": {"1": []}}), "logit_bias.1"),
            (json!({"repeat_last_n": -2}), "repeat_last_n"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias"),
            (json!({"samplers": ["mirostat"]}), "samplers"),
            (json!({"samplers": ["top_k", "top_k"]}), "samplers"),
            (json!({"dry_multiplier": 1, "dry_sequence_breakers": [""]}), "dry_sequence_breakers"),
        ];
        for (body, field) in bad {
            let error = read(body).expect_err(field);
            assert!(format!("{error:?}").contains(field), "{error:?}");
        }
    }
}
