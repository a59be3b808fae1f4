//! Bytes per second, as people write them.

use std::str::FromStr;

/// A number of bytes per second, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

impl FromStr for Rate {
    type Err = String;

    /// Reads a number and perhaps `K`, `M` or `G`, for 10³, 10⁶ and 10⁹, as networks are measured.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("expected a rate such as 500K, 2M or 1.5M (bytes per second), got {text:?}");
        let bare = text.trim().trim_end_matches("/s").trim_end_matches(['B', 'b']);
        let (number, unit) = match bare.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&bare[..at], 1e3),
            Some((at, 'm' | 'M')) => (&bare[..at], 1e6),
            Some((at, 'g' | 'G')) => (&bare[..at], 1e9),
            _ => (bare, 1.0),
        };
        let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number: f64 = number.parse().map_err(|_| expected())?;
        let bytes = (number * unit).round();
        if !is_plain || !(1.0..1e15).contains(&bytes) {
            return Err(expected());
        }
        Ok(Self(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("500K", 500_000),
            ("2M", 2_000_000),
            ("1.5m", 1_500_000),
            ("1G", 1_000_000_000),
            ("3MB/s", 3_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "K", "0", "-1M", "2T", "1e3", "inf", "nan", "9999999999G", "é", "1 2"] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains("expected a rate"), "{error}");
        }
    }
}
