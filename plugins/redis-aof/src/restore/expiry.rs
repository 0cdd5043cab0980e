//! What a command does to expiries, as far as a live restore must know: it runs at a time at which keys may be gone that were
//! there when the command was written.

use crate::words::Words;

/// The time that a command gives to a key or to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Milliseconds since the epoch.
    At(u64),
    /// Counted from whenever the command runs, or not known.
    Relative,
}

/// Commands that touch no key, or do the same whatever was there.
const INDEPENDENT: [&str; 6] = ["SELECT", "MULTI", "EXEC", "PING", "DEL", "UNLINK"];
/// Commands with a time that counts from when they run. Of `MSETEX` the time stands behind any number of values.
const RELATIVE: [&str; 7] = ["EXPIRE", "PEXPIRE", "SETEX", "PSETEX", "HEXPIRE", "HPEXPIRE", "MSETEX"];

/// Whether what the command comes to can depend on the keys that are there.
pub(super) fn depends(name: &[u8], words: &Words) -> bool {
    if INDEPENDENT.iter().any(|known| is(name, known)) {
        return false;
    }
    let has_time = || words.get(2).is_some_and(|word| ["PXAT", "EXAT", "PX", "EX"].iter().any(|known| is(word, known)));
    let replaces = is(name, "SET") && (words.count() == 2 || (words.count() == 4 && has_time()));
    !replaces
}

/// The time that a command gives, where it gives any.
pub(super) fn of(name: &[u8], words: &Words) -> Option<Expiry> {
    if is(name, "SET") {
        return by_option(words, 2);
    }
    if ["GETEX", "HSETEX", "HGETEX"].iter().any(|known| is(name, known)) {
        return by_option(words, 1);
    }
    if is(name, "PEXPIREAT") || is(name, "HPEXPIREAT") {
        return at(words, 1, 1);
    }
    if is(name, "EXPIREAT") || is(name, "HEXPIREAT") {
        return at(words, 1, 1000);
    }
    if is(name, "RESTORE") || is(name, "RESTORE-ASKING") {
        let absolute = words.from(3).any(|(_, word)| is(word, "ABSTTL"));
        return match at(words, 1, 1) {
            Some(Expiry::At(0)) | None => None,
            Some(expiry) => Some(if absolute { expiry } else { Expiry::Relative }),
        };
    }
    RELATIVE.iter().any(|known| is(name, known)).then_some(Expiry::Relative)
}

/// The time behind an option, which stands at `from` or later.
fn by_option(words: &Words, from: usize) -> Option<Expiry> {
    // Behind FIELDS stand a hash's own words.
    let mut options = words.from(from).take_while(|(_, word)| !is(word, "FIELDS"));
    options.find_map(|(index, word)| match word {
        word if is(word, "PXAT") => at(words, index + 1, 1),
        word if is(word, "EXAT") => at(words, index + 1, 1000),
        word if is(word, "PX") || is(word, "EX") => Some(Expiry::Relative),
        _ => None,
    })
}

fn at(words: &Words, index: usize, milliseconds: i64) -> Option<Expiry> {
    let time = words.number(index)?.saturating_mul(milliseconds);
    // A time before the epoch has passed as much as the epoch itself.
    Some(Expiry::At(u64::try_from(time).unwrap_or(0)))
}

fn is(given: &[u8], known: &str) -> bool {
    given.eq_ignore_ascii_case(known.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn split(text: &str) -> (&str, Words) {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut words = Words::default();
        for word in rest.split_ascii_whitespace() {
            words.extend(word.as_bytes());
            words.end_word();
        }
        (name, words)
    }

    #[rstest]
    #[case("SET k v PXAT 1500", Some(Expiry::At(1500)))]
    #[case("set k v nx get pxat 1500", Some(Expiry::At(1500)))]
    #[case("SET k v EXAT 2", Some(Expiry::At(2000)))]
    #[case("SET k v PX 10", Some(Expiry::Relative))]
    #[case("SET k v", None)]
    #[case("SET k v KEEPTTL", None)]
    #[case("SET k PXAT", None)]
    #[case("SET PXAT 5 NX", None)]
    #[case("SET k v PXAT", None)]
    #[case("SET k v PXAT soon", None)]
    #[case("GETEX k PXAT 7", Some(Expiry::At(7)))]
    #[case("GETEX k PERSIST", None)]
    #[case("HSETEX k PXAT 7 FIELDS 1 f v", Some(Expiry::At(7)))]
    #[case("HSETEX k FIELDS 1 PXAT 7", None)]
    #[case("PEXPIREAT k 7", Some(Expiry::At(7)))]
    #[case("PEXPIREAT k -7", Some(Expiry::At(0)))]
    #[case("EXPIREAT k 7 NX", Some(Expiry::At(7000)))]
    #[case("EXPIREAT k 9223372036854775807", Some(Expiry::At(9_223_372_036_854_775_807)))]
    #[case("HPEXPIREAT k 7 FIELDS 1 f", Some(Expiry::At(7)))]
    #[case("EXPIRE k 7", Some(Expiry::Relative))]
    #[case("setex k 7 v", Some(Expiry::Relative))]
    #[case("RESTORE k 0 p", None)]
    #[case("RESTORE k 7 p", Some(Expiry::Relative))]
    #[case("RESTORE k 7 p REPLACE ABSTTL", Some(Expiry::At(7)))]
    #[case("RPUSH k PXAT 7", None)]
    #[case("PEXPIREAT", None)]
    fn a_commands_time_is_read(#[case] command: &str, #[case] expected: Option<Expiry>) {
        let (name, words) = split(command);
        assert_eq!(of(name.as_bytes(), &words), expected);
    }

    #[rstest]
    #[case("SELECT 0", false)]
    #[case("multi", false)]
    #[case("DEL k", false)]
    #[case("UNLINK k k2", false)]
    #[case("SET k v", false)]
    #[case("SET k v PXAT 7", false)]
    #[case("SET k v NX", true)]
    #[case("SET k v KEEPTTL", true)]
    #[case("SET k v XX PXAT 7", true)]
    #[case("SET k v GET KEEPTTL", true)]
    #[case("INCR k", true)]
    #[case("PERSIST k", true)]
    #[case("EVAL s 0", true)]
    fn what_a_command_does_may_depend_on_what_is_there(#[case] command: &str, #[case] expected: bool) {
        let (name, words) = split(command);
        assert_eq!(depends(name.as_bytes(), &words), expected);
    }
}
