//! Dates for templates: Python's `strftime`, the part that chat templates use, in English and in UTC.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Formats a moment, in seconds since 1970. A directive that is not known is an error that names it.
pub(crate) fn format(seconds: u64, format: &str) -> Result<String, String> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month - 1];
    let day_name = DAYS[(days % 7) as usize];
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(character) = chars.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let directive = chars.next();
        text.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('y') => format!("{:02}", year % 100),
            Some('%') => "%".to_owned(),
            other => {
                return Err(format!("strftime: expected one of YmdBbAaHMSy%, found {other:?}"));
            }
        });
    }
    Ok(text)
}

/// Days since 1970 to year, month and day of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, usize, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_python_does() {
        assert_eq!(
            format(0, "%d %b %Y, %A %H:%M:%S").as_deref(),
            Ok("01 Jan 1970, Thursday 00:00:00")
        );
        assert_eq!(
            format(1_709_210_096, "%Y-%m-%d %a %B %y%%").as_deref(),
            Ok("2024-02-29 Thu February 24%")
        );
        assert_eq!(format(1_735_689_599, "%d %B %Y").as_deref(), Ok("31 December 2024"));
        assert!(format(0, "%Q").is_err());
    }
}
