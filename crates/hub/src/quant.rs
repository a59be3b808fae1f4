//! Quantisations by the labels that people put into names of GGUF files, and which file of a repository is taken.
//!
//! A label says how a file was made, not which types its tensors have; the header, which is read later, has the last word.

mod pick;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use pick::{PickError, Picked, PickedFile, pick, pick_file};

/// A quantisation label, in upper case, for example `Q4_K_M` or `UD-Q4_K_XL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quant(String);

/// The labels whose tensor types the engine computes with.
pub const SUPPORTED: [&str; 10] =
    ["F32", "F16", "Q8_0", "Q4_0", "Q5_0", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K"];

/// Which label is taken if the user names none, best first: the usual balance of size and quality, its neighbours of the
/// same family, then larger ones, which cost memory, then smaller ones, which cost quality, then unquantised ones. Labels
/// that are not listed come last, by the distance of their bits per weight from the first one's.
pub const PREFERENCE: [&str; 22] = [
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q4_1", "Q5_0", "Q5_1",
    "Q6_K", "Q8_0", "Q4_K_L", "Q5_K_L", "Q6_K_L", "MXFP4", "Q3_K_L", "Q3_K_M", "Q3_K_S", "F16",
    "BF16", "F32",
];

/// Thousandths of a bit per weight. K- and I-quants and those of 8 bits and more: measured on Llama 3.1 8B, from the table
/// in the README of llama.cpp's `quantize` tool; they contain the larger types that its mixes give to some tensors. The
/// older formats: from the size of their blocks of 32 weights.
const MILLIBITS_PER_WEIGHT: [(&str, u32); 32] = [
    ("IQ1_S", 2004),
    ("IQ1_M", 2146),
    ("IQ2_XXS", 2382),
    ("IQ2_XS", 2588),
    ("IQ2_S", 2740),
    ("IQ2_M", 2929),
    ("Q2_K_S", 2970),
    ("Q2_K", 3159),
    ("IQ3_XXS", 3255),
    ("IQ3_XS", 3498),
    ("Q3_K_S", 3643),
    ("IQ3_S", 3661),
    ("IQ3_M", 3763),
    ("Q3_K_M", 3996),
    ("Q3_K_L", 4298),
    ("MXFP4", 4250),
    ("IQ4_XS", 4460),
    ("IQ4_NL", 4682),
    ("Q4_0", 4500),
    ("Q4_1", 5000),
    ("Q4_K_S", 4667),
    ("Q4_K_M", 4894),
    ("Q5_0", 5500),
    ("Q5_1", 6000),
    ("Q5_K_S", 5570),
    ("Q5_K_M", 5704),
    ("Q6_K", 6563),
    ("Q8_0", 8501),
    ("F16", 16_000),
    ("BF16", 16_000),
    ("F32", 32_000),
    ("TQ2_0", 2063),
];

/// A text that is no quantisation label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantisation: expected a label such as Q4_K_M or Q8_0, got {got:?}")]
pub struct ParseQuantError {
    /// The text as it was given, cut to 80 characters.
    pub got: String,
}

impl Quant {
    /// The label that a path in a repository shows: of the file's name, else of the directory that it lies in. Upper and
    /// lower case are the same.
    pub fn of_path(path: &str) -> Option<Self> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let in_name = split_label(pick::stem(name)).map(|(_, quant)| quant);
        in_name.or_else(|| {
            directory.rsplit('/').find_map(|name| split_label(name).map(|(_, quant)| quant))
        })
    }

    /// The label, in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the engine computes with it, see [`SUPPORTED`].
    pub fn is_supported(&self) -> bool {
        SUPPORTED.contains(&self.as_str())
    }

    /// Thousandths of a bit per weight, for estimates; `None` for labels of which no figure is known.
    pub fn millibits_per_weight(&self) -> Option<u32> {
        let label = self.0.strip_prefix("UD-").unwrap_or(&self.0);
        MILLIBITS_PER_WEIGHT.iter().find(|(known, _)| *known == label).map(|&(_, bits)| bits)
    }

    /// Its place in the order of preference; less is better.
    fn rank(&self) -> (usize, u32, &str) {
        let place = PREFERENCE.iter().position(|label| *label == self.0);
        let distance = self.millibits_per_weight().map_or(u32::MAX, |bits| bits.abs_diff(4894));
        (place.unwrap_or(PREFERENCE.len()), distance, &self.0)
    }
}

/// What stands before the last label of a name, and the label. A label stands between `-`, `.` or, at the end, after `_`.
fn split_label(name: &str) -> Option<(&str, Quant)> {
    let mut end = name.len();
    loop {
        let start = name[..end].rfind(['-', '.']).map_or(0, |at| at + 1);
        let token = &name[start..end];
        let ends = token.match_indices('_').map(|(at, _)| start + at + 1);
        for from in std::iter::once(start).chain(ends) {
            if let Ok(quant) = name[from..end].parse::<Quant>() {
                return Some(with_dynamic_prefix(name, from, quant));
            }
        }
        end = start.checked_sub(1)?;
    }
}

/// Takes the `UD-` along that some quantisers put before the label of a mix of their own.
fn with_dynamic_prefix(name: &str, start: usize, quant: Quant) -> (&str, Quant) {
    let before = &name[..start];
    let cut = before.len().saturating_sub(3);
    match before.get(cut..) {
        Some(prefix) if prefix.eq_ignore_ascii_case("UD-") => {
            (&name[..cut], Quant(format!("UD-{quant}")))
        }
        _ => (before, quant),
    }
}

impl FromStr for Quant {
    type Err = ParseQuantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseQuantError { got: text.chars().take(80).collect() };
        if text.len() > 24 {
            return Err(error());
        }
        let label = text.to_ascii_uppercase();
        let plain = label.strip_prefix("UD-").unwrap_or(&label);
        let plain = match plain {
            "FP16" => "F16",
            "FP32" => "F32",
            other => other,
        };
        if !is_label(plain) {
            return Err(error());
        }
        let prefix = if label.starts_with("UD-") { "UD-" } else { "" };
        Ok(Self(format!("{prefix}{plain}")))
    }
}

/// Whether an upper-case text without prefix is a label: a float type, or `Q`, `IQ` or `TQ`, a digit, and known parts.
fn is_label(text: &str) -> bool {
    if ["F32", "F16", "BF16", "MXFP4", "MXFP4_MOE", "NVFP4"].contains(&text) {
        return true;
    }
    let rest = ["IQ", "TQ", "Q"].iter().find_map(|kind| text.strip_prefix(kind));
    let Some((bits, parts)) = rest.and_then(|rest| rest.split_once('_')) else { return false };
    let is_part = |part: &str| {
        ["0", "1", "4", "8", "K", "S", "M", "L", "XL", "XS", "XXS", "NL"].contains(&part)
    };
    matches!(bits.as_bytes(), [b'1'..=b'8']) && parts.split('_').all(is_part)
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Quant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(Quant::of_path(path).as_ref().map(Quant::as_str), expected, "{path}");
    }

    #[test]
    fn reads_labels_whatever_their_case() {
        check("Llama-3.2-1B-Instruct-Q4_K_M.gguf", Some("Q4_K_M"));
        check("qwen2.5-0.5b-instruct-q4_k_m.gguf", Some("Q4_K_M"));
        check("tinyllama-1.1b-chat-v1.0.Q8_0.gguf", Some("Q8_0"));
        check("a-IQ4_XS.gguf", Some("IQ4_XS"));
        check("a-UD-Q4_K_XL.gguf", Some("UD-Q4_K_XL"));
        check("a-fp16.gguf", Some("F16"));
        check("a-BF16-00001-of-00002.gguf", Some("BF16"));
        check("a.Q4_0_4_4.gguf", Some("Q4_0_4_4"));
        check("gpt-oss-20b-mxfp4.gguf", Some("MXFP4"));
        check("some_model_q5_k_s.gguf", Some("Q5_K_S"));
        check("Q6_K/model-00001-of-00002.gguf", Some("Q6_K"));
        check("Qwen3-4B.gguf", None);
        check("\u{e9}-\u{20ac}UD-.gguf", None);
    }
}
