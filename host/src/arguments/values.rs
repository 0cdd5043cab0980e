//! Single values as users write them. Each parser says what would have been right; clap turns its error into exit code 2.

use std::time::Duration;

use redkeep_core::units::{parse_duration, parse_size};

/// Any text but the empty one: an empty variable must not look like a choice.
pub(crate) fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A duration: `90s`, `15m`, `36h`, `7d`, `1d12h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Bytes a second: a size, with or without `/s`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(0) => Err("a rate of 0 would never end; leave the option out for no limit".to_owned()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// A glob as Redis' `KEYS` takes it: `*`, `?`, `[a-z]`, `[^a]`, and `\` in front of a character meant literally.
pub(crate) fn glob(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        Err(format!("{why}; write for example `user:*`, `session:????` or `[a-c]*`, and `\\[` for a bracket itself"))
    };
    if text.is_empty() {
        return wrong("it is empty");
    }
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.next().is_none() => return wrong("it ends in a backslash"),
            '[' => loop {
                match characters.next() {
                    None => return wrong("a bracket is not closed"),
                    Some(']') => break,
                    Some('\\') if characters.next().is_none() => return wrong("a bracket is not closed"),
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    Ok(text.to_owned())
}

/// A database to restore, `N`, or `N:M` to restore N into M.
pub(crate) fn database(text: &str) -> Result<String, String> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A server has at most 2^31 - 1 databases.
        if plain { digits.parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok()) } else { None }
    };
    let wrong = || format!("`{text}` is not a database; write `3`, or `3:0` to restore database 3 into 0");
    match text.split_once(':') {
        None => number(text).map(|from| from.to_string()).ok_or_else(wrong),
        Some((from, to)) => {
            let (Some(from), Some(to)) = (number(from), number(to)) else { return Err(wrong()) };
            Ok(format!("{from}:{to}"))
        }
    }
}

/// A time in RFC 3339.
pub(crate) fn time(text: &str) -> Result<redkeep_core::Timestamp, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no time; write `2026-11-21T09:13:48Z` or `2026-11-21T10:13:48+01:00`"))
}

/// A point in a stream: a time in RFC 3339, or a replication offset.
pub(crate) fn point(text: &str) -> Result<String, String> {
    let is_offset = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_offset && text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    text.parse::<redkeep_core::Timestamp>().map(|time| time.to_string()).map_err(|_| {
        format!("`{text}` is no point in time; write `2026-11-21T09:13:48Z`, `2026-11-21T10:13:48+01:00`, or a replication offset")
    })
}

/// A server's version: `7.2` or `8.1.3`, with its name where it is not that of the backup: `valkey-8.1`.
pub(crate) fn server_version(text: &str) -> Result<String, String> {
    let version = text.strip_prefix("redis-").or_else(|| text.strip_prefix("valkey-")).unwrap_or(text);
    let parts: Vec<&str> = version.split('.').collect();
    let numbers = parts.iter().all(|part| part.parse::<u16>().is_ok() && !part.starts_with('+'));
    if (2..=3).contains(&parts.len()) && numbers {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a version; write for example `7.2`, `8.1.3` or `valkey-8.1`"))
    }
}

/// The name of a file or folder in the data directory: one name, no path.
pub(crate) fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
        return Err(format!("`{text}` is not a file name; the server takes a name without a path, e.g. `dump.rdb`"));
    }
    Ok(text.to_owned())
}

/// `KEY=VALUE`; the value may be empty and may hold further `=`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// `NAME=NEW`: a command and what the server renamed it to.
pub(crate) fn renamed_command(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, new)) if !name.is_empty() && !new.is_empty() => Ok((name.to_ascii_uppercase(), new.to_owned())),
        _ => Err(format!("`{text}` is not NAME=NEW; write for example `CONFIG=my-config`")),
    }
}

/// `yes` or `no`, as Redis' own configuration writes it.
pub(crate) fn yes_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("`{text}` is neither `yes` nor `no`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_that_redis_understands_pass() {
        for good in ["*", "user:*", "a?c", "[a-c]*", "[^x]", r"\[literal", r"[\]]", "ключ*", r"\\"] {
            assert_eq!(glob(good), Ok(good.to_owned()), "{good}");
        }
    }

    #[test]
    fn a_glob_that_cannot_match_as_meant_is_refused_with_examples() {
        for bad in ["", "[a-c", "x[", r"a\", r"[a\]", r"[\"] {
            let error = glob(bad).unwrap_err();
            assert!(error.contains("write for example"), "{bad}: {error}");
        }
    }

    #[test]
    fn databases_are_numbers_or_pairs_of_them() {
        for (text, read) in [("0", "0"), ("15", "15"), ("3:0", "3:0"), ("07", "7")] {
            assert_eq!(database(text).as_deref(), Ok(read));
        }
        for bad in ["", "x", "-1", "1:", ":1", "1:2:3", "1.5", "+1", "2147483648", "99999999999"] {
            assert!(database(bad).unwrap_err().contains("3:0"), "{bad}");
        }
    }

    #[test]
    fn a_point_is_an_offset_or_a_time_with_its_zone() {
        assert_eq!(point("0").as_deref(), Ok("0"));
        assert_eq!(point("18446744073709551615").as_deref(), Ok("18446744073709551615"));
        assert_eq!(point("2026-11-21T10:13:48+01:00").as_deref(), Ok("2026-11-21T09:13:48Z"));
        for bad in ["", "yesterday", "-5", "2026-11-21", "2026-11-21T10:13:48", "18446744073709551616"] {
            assert!(point(bad).unwrap_err().contains("2026-11-21T09:13:48Z"), "{bad}");
        }
    }

    #[test]
    fn versions_have_two_or_three_numbers() {
        for good in ["6.2", "7.0.15", "8.2.3", "valkey-9.0", "redis-7.2.1"] {
            assert_eq!(server_version(good).as_deref(), Ok(good));
        }
        for bad in ["", "7", "v7.2", "7.x", "7.0.1.2", "7.", "+7.1", "7.2-rc1", "valkey-", "keydb-6.3", "-7.2"] {
            assert!(server_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_sizes_with_or_without_per_second() {
        assert_eq!(rate("50M"), Ok(50_000_000));
        assert_eq!(rate("50MiB/s"), Ok(52_428_800));
        for bad in ["", "0", "fast", "5M/m", "1.5G"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_names_have_no_path() {
        assert_eq!(file_name("dump.rdb").as_deref(), Ok("dump.rdb"));
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        assert_eq!(key_value("window=10s"), Ok(("window".into(), "10s".into())));
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        for bad in ["", "a", "=b"] {
            assert!(key_value(bad).is_err(), "{bad}");
        }
        assert_eq!(renamed_command("config=x"), Ok(("CONFIG".into(), "x".into())));
        assert!(renamed_command("config=").is_err());
    }

    #[test]
    fn truth_is_written_as_redis_writes_it() {
        assert_eq!(yes_no("yes"), Ok(true));
        assert_eq!(yes_no("no"), Ok(false));
        assert!(yes_no("true").is_err());
    }
}
