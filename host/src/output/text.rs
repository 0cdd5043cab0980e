//! Numbers and times for people.

use redkeep_core::Timestamp;
use redkeep_core::facts::{Facts, commands_follow};
pub(crate) use redkeep_core::units::format_size as size;

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count that is given as text, with its separators; what is no number stays as it is.
pub(crate) fn count_of(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), count)
}

/// How many keys a backup holds: those of its snapshot, and that commands follow it where they do.
pub(crate) fn keys(facts: &Facts) -> Option<String> {
    let keys = count_of(facts.get("keys")?);
    match facts.get("commands").filter(|_| commands_follow(facts)) {
        Some(commands) => Some(format!("{keys} in the snapshot, {} commands after it", count_of(commands))),
        None => Some(keys),
    }
}

/// How long ago, in its largest unit: `5s`, `12m`, `3h`, `4d`; `0s` for a time yet to come.
pub(crate) fn age(of: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second().saturating_sub(of.as_second())).unwrap_or_default();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A duration in its two largest units: `250ms`, `12.3s`, `4m10s`, `3h05m`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counts_have_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(count_of("1234"), "1,234");
        assert_eq!(count_of("unchecked"), "unchecked");
    }

    #[test]
    fn commands_after_a_snapshot_are_said_beside_its_keys() {
        let of =
            |facts: &[(&str, &str)]| keys(&facts.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        assert_eq!(of(&[("keys", "1234"), ("commands", "0")]).as_deref(), Some("1,234"));
        let followed = of(&[("keys", "0"), ("commands", "5678")]);
        assert_eq!(followed.as_deref(), Some("0 in the snapshot, 5,678 commands after it"));
        assert_eq!(of(&[("commands", "5678")]), None);
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (of, text) in [
            ("2026-11-21T12:00:09Z", "0s"),
            ("2026-11-21T11:59:51Z", "9s"),
            ("2026-11-21T11:15:00Z", "45m"),
            ("2026-11-20T22:00:00Z", "14h"),
            ("2026-11-01T12:00:00Z", "20d"),
        ] {
            assert_eq!(age(of.parse().unwrap(), now), text);
        }
    }

    #[test]
    fn durations_are_in_two_units() {
        for (milliseconds, text) in [(250, "250ms"), (12_300, "12.3s"), (250_000, "4m10s"), (11_100_000, "3h05m")] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
