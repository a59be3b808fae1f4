//! Amounts as people read them: three digits and a unit.

/// Bytes: `398 MB`, `1.3 GB`. Units are powers of 1000, as on the boxes of phones and at the model hub.
pub(crate) fn bytes(n: u64) -> String {
    let (digits, unit) = digits(n);
    format!("{digits} {}", ["B", "kB", "MB", "GB"][unit])
}

/// Counts of weights or of downloads: `494M`, `1.5B`.
pub(crate) fn count(n: u64) -> String {
    let (digits, unit) = digits(n);
    format!("{digits}{}", ["", "K", "M", "B"][unit])
}

/// Positions of a context, which are counted in powers of two: `32K`.
pub(crate) fn context(n: u32) -> String {
    if n >= 1024 { format!("{}K", n / 1024) } else { n.to_string() }
}

/// A time that is left: `9 s`, `3 min`, `2 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).ceil() as u64;
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", seconds.div_ceil(60)),
        5_400..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A number in the unit in which it has one to three digits before the point, and which unit that is: 1000 to the power of
/// at most 3. One digit after the point if there is only one before it; two before it are not enough for gigabytes.
fn digits(n: u64) -> (String, usize) {
    if n < 1000 {
        return (n.to_string(), 0);
    }
    let mut power = 1;
    let mut unit = 1_000u64;
    // What would be rounded up to 1000 is 1.0 of the next unit.
    while power < 3 && n >= unit * 1000 - unit / 2 {
        power += 1;
        unit *= 1000;
    }
    let tenths = (u128::from(n) * 10 + u128::from(unit) / 2) / u128::from(unit);
    let has_point = tenths < 100 || (power == 3 && tenths < 1000);
    let digits = match has_point {
        true => format!("{}.{}", tenths / 10, tenths % 10),
        false => ((u128::from(n) + u128::from(unit) / 2) / u128::from(unit)).to_string(),
    };
    (digits, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_few_digits() {
        for (n, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (397_807_936, "398 MB"),
            (9_940_000, "9.9 MB"),
            (1_300_000_000, "1.3 GB"),
            (16_240_000_000, "16.2 GB"),
            (512_000_000_000, "512 GB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        assert_eq!(bytes(999_600_000), "1.0 GB");
        assert_eq!(count(999_885_952), "1.0B");
        assert_eq!(count(494_032_768), "494M");
        assert_eq!(count(1_543_714_304), "1.5B");
        assert_eq!(count(1_234_567), "1.2M");
        assert_eq!(context(32_768), "32K");
        assert_eq!(context(512), "512");
    }

    #[test]
    fn times_are_rounded_up() {
        for (seconds, expected) in [
            (0.2, "1 s"),
            (89.0, "89 s"),
            (90.5, "2 min"),
            (3600.0, "60 min"),
            (7500.0, "2 h 5 min"),
            (f64::INFINITY, "213503982334601 days"),
            (-1.0, "0 s"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
