//! Sizes and durations as users write them.

use std::time::Duration;

/// Text that is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {what}; write for example {examples}")]
pub struct InvalidQuantity {
    /// What was given.
    pub given: String,
    /// `size` or `duration`.
    pub what: &'static str,
    /// What would be right.
    pub examples: &'static str,
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Bytes: `1024`, `10k`, `5M`, `2G`, `1T` (powers of 1000), `Ki`, `Mi`, `Gi`, `Ti` (powers of 1024); a final `B` may follow.
pub fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    let invalid = || InvalidQuantity { given: text.to_owned(), what: "size", examples: "500M, 10MiB or 2G" };
    let (digits, unit) = split(text.trim());
    let number: u64 = digits.parse().map_err(|_| invalid())?;
    let factor: u64 = match unit.strip_suffix(['B', 'b']).unwrap_or(unit) {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        "t" | "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(invalid()),
    };
    number.checked_mul(factor).ok_or_else(invalid)
}

/// A duration: `90s`, `15m`, `36h`, `7d`, `2w`, or several in a row (`1d12h`).
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let invalid =
        || InvalidQuantity { given: text.to_owned(), what: "duration", examples: "90s, 15m, 36h, 7d or 1d12h" };
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (digits, after) = split(rest);
        let number: u64 = digits.parse().map_err(|_| invalid())?;
        let mut characters = after.chars();
        let factor = match characters.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            Some('w') => 604_800,
            _ => return Err(invalid()),
        };
        rest = characters.as_str();
        seconds = number.checked_mul(factor).and_then(|more| seconds.checked_add(more)).ok_or_else(invalid)?;
    }
    Ok(Duration::from_secs(seconds))
}

/// Bytes for people: `1.4 GiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", 0)]
    #[case("10k", 10_000)]
    #[case("10KiB", 10_240)]
    #[case("2G", 2_000_000_000)]
    #[case("1Ti", 1 << 40)]
    fn sizes_are_read(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(parse_size(text), Ok(bytes));
    }

    #[rstest]
    #[case("90s", 90)]
    #[case("1d12h", 129_600)]
    #[case("2w", 1_209_600)]
    fn durations_are_read(#[case] text: &str, #[case] seconds: u64) {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "x", "1x", "-1", "1.5G", "99999999999999999999", "20000000T"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "5", "h", "1y", "-1s", "99999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
