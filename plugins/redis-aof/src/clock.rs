//! Times and durations as text: RFC 3339 in and out, and durations such as `10s`. Pure; the host is asked for the time elsewhere.

pub(crate) use redkeep_sdk::time::rfc3339;

const MILLISECONDS_A_DAY: i64 = 86_400_000;

/// RFC 3339 as milliseconds since the epoch, further digits cut; `None` where the text is no such time or before 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.trim();
    if !text.is_ascii() || text.len() < 20 {
        return None;
    }
    let (date_time, rest) = text.split_at(19);
    let bytes = date_time.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(place, wanted)| bytes.get(place) != Some(&wanted))
        || !matches!(bytes.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(&date_time[0..4])?, number(&date_time[5..7])?, number(&date_time[8..10])?);
    let (hour, minute, second) =
        (number(&date_time[11..13])?, number(&date_time[14..16])?, number(&date_time[17..19])?);
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            if digits == 0 {
                return None;
            }
            let three: String = rest[..digits].chars().chain("00".chars()).take(3).collect();
            (number(&three)?, &rest[digits..])
        }
        None => (0, rest),
    };
    let zone_minutes = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(&zone[1..3])?, number(&zone[4..6])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    let milliseconds =
        days * MILLISECONDS_A_DAY + (hour * 60 + minute - zone_minutes) * 60_000 + second * 1000 + fraction;
    u64::try_from(milliseconds).ok()
}

/// `500ms`, `10s`, `5m`, `2h` as milliseconds.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let amount = text[..digits].parse::<u64>().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    amount.checked_mul(unit)
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Hinnant, `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1970-01-01T00:00:00Z", Some(0))]
    #[case("2026-11-21T09:13:48Z", Some(1_795_252_428_000))]
    #[case("2026-11-21T09:13:48.5Z", Some(1_795_252_428_500))]
    #[case("2026-11-21T09:13:48.123456789Z", Some(1_795_252_428_123))]
    #[case("2026-11-21 10:13:48+01:00", Some(1_795_252_428_000))]
    #[case("2024-02-29t23:59:59z", Some(1_709_251_199_000))]
    #[case("2023-02-29T00:00:00Z", None)]
    #[case("2026-13-01T00:00:00Z", None)]
    #[case("2026-11-21T24:00:00Z", None)]
    #[case("2026-11-21T09:13:48", None)]
    #[case("2026-11-21T09:13:48.Z", None)]
    #[case("2026-11-21T09:13:48.1", None)]
    #[case("2026-11-21T09:13:48+0100", None)]
    #[case("yesterday", None)]
    #[case("2026-11-21T09:1é:48Z", None)]
    #[case("1969-12-31T23:59:59Z", None)]
    fn times_are_read(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(parse_rfc3339(text), milliseconds);
    }

    #[rstest]
    #[case("10s", Some(10_000))]
    #[case("500ms", Some(500))]
    #[case("2h", Some(7_200_000))]
    #[case("10", None)]
    #[case("s", None)]
    #[case("1d", None)]
    #[case("99999999999999999999s", None)]
    fn durations_are_read(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(parse_duration(text), milliseconds);
    }

    proptest! {
        #[test]
        fn a_time_survives_its_text(milliseconds in 0_u64..253_402_300_800_000) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(milliseconds)), Some(milliseconds));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = (parse_rfc3339(&text), parse_duration(&text));
        }
    }
}
