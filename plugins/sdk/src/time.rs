//! Times as text. The clock is [`crate::Host::now_ms`].

const MILLISECONDS_A_DAY: i64 = 86_400_000;

/// Milliseconds since the epoch as RFC 3339 in UTC, with milliseconds: how facts and messages tell a time.
///
/// ```
/// assert_eq!(redkeep_sdk::time::rfc3339(1_795_252_428_500), "2026-11-21T09:13:48.500Z");
/// ```
pub fn rfc3339(milliseconds: u64) -> String {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    let (year, month, day) = civil(milliseconds.div_euclid(MILLISECONDS_A_DAY));
    let rest = milliseconds.rem_euclid(MILLISECONDS_A_DAY);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "1970-01-01T00:00:00.000Z")]
    #[case(951_827_696_007, "2000-02-29T12:34:56.007Z")]
    #[case(253_402_300_799_999, "9999-12-31T23:59:59.999Z")]
    #[case(u64::MAX, "292278994-08-17T07:12:55.807Z")]
    fn a_time_is_told_in_utc(#[case] milliseconds: u64, #[case] text: &str) {
        assert_eq!(rfc3339(milliseconds), text);
    }
}
