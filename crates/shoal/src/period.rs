//! Periods as people type them: `90s`, `30m`, `2h`, `7d`, `never`.

/// Longest period, in seconds: a hundred years.
const SECONDS_MAX: u64 = 100 * 365 * 24 * 3600;

/// Reads a period in seconds; `None` for one without an end.
///
/// # Errors
/// If it is none, or no time at all.
pub(crate) fn seconds(text: &str) -> Result<Option<u64>, String> {
    if text == "never" {
        return Ok(None);
    }
    let error = || format!("expected a time like 30m, 2h, 7d, or never, got {text:?}");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(error()),
    };
    let seconds = text[..at].parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    seconds.map(Some).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_number_and_a_unit() {
        for (text, expected) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(seconds("never"), Ok(None));
        for text in ["", "5", "h", "0h", "-1h", "1.5h", "2w", "99999999999999999999s", "9999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
