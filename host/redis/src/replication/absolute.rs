//! Makes relative times to live absolute: the stream of Redis 6.2 keeps them relative, and replayed later they would
//! live too long. 7.0 and later send them absolute already, so these rules then find nothing.

use bytes::Bytes;

/// The command with its time absolute, if it had a relative one. `now_ms`: when it arrived, since the epoch.
pub fn rewrite(arguments: &[&[u8]], now_ms: u64) -> Option<Vec<Bytes>> {
    let name = arguments.first()?;
    let copy = |argument: &[u8]| Bytes::copy_from_slice(argument);
    let text = Bytes::from_static;
    let after =
        |seconds: bool, argument: &[u8]| at(argument, seconds, now_ms).map(|time| Bytes::from(time.to_string()));
    if is(name, b"SET") || is(name, b"GETEX") {
        let first_option = if is(name, b"SET") { 3 } else { 2 };
        let (index, option) = arguments
            .iter()
            .enumerate()
            .skip(first_option)
            .find(|(_, option)| is(option, b"EX") || is(option, b"PX"))?;
        let time = after(is(option, b"EX"), arguments.get(index + 1)?)?;
        let mut command: Vec<Bytes> = arguments.iter().map(|argument| copy(argument)).collect();
        *command.get_mut(index)? = text(b"PXAT");
        *command.get_mut(index + 1)? = time;
        return Some(command);
    }
    if is(name, b"SETEX") || is(name, b"PSETEX") {
        let [_, key, time, value] = arguments else { return None };
        let time = after(is(name, b"SETEX"), time)?;
        return Some(vec![text(b"SET"), copy(key), copy(value), text(b"PXAT"), time]);
    }
    if is(name, b"EXPIRE") || is(name, b"PEXPIRE") {
        let [_, key, time, options @ ..] = arguments else { return None };
        let time = after(is(name, b"EXPIRE"), time)?;
        let mut command = vec![text(b"PEXPIREAT"), copy(key), time];
        command.extend(options.iter().map(|option| copy(option)));
        return Some(command);
    }
    if is(name, b"RESTORE") || is(name, b"RESTORE-ASKING") {
        let time = arguments.get(2)?;
        if *time == b"0" || arguments.iter().skip(4).any(|option| is(option, b"ABSTTL")) {
            return None;
        }
        let time = after(false, time)?;
        let mut command: Vec<Bytes> = arguments.iter().map(|argument| copy(argument)).collect();
        *command.get_mut(2)? = time;
        command.push(text(b"ABSTTL"));
        return Some(command);
    }
    None
}

/// For a command that streamed through because its value is large: the time it should have been given, which a
/// `PEXPIREAT` after it puts right. `argument` gives the arguments that were kept.
pub fn time_of_large<'a>(argument: impl Fn(usize) -> Option<&'a [u8]>, arguments: usize, now_ms: u64) -> Option<i64> {
    let name = argument(0)?;
    if is(name, b"SETEX") || is(name, b"PSETEX") {
        return at(argument(2)?, is(name, b"SETEX"), now_ms);
    }
    let options = (3..arguments.min(16)).filter_map(|index| argument(index).map(|option| (index, option)));
    if is(name, b"SET") {
        let (index, option) = options.into_iter().find(|(_, option)| is(option, b"EX") || is(option, b"PX"))?;
        return at(argument(index + 1)?, is(option, b"EX"), now_ms);
    }
    if is(name, b"RESTORE") || is(name, b"RESTORE-ASKING") {
        let time = argument(2)?;
        let absolute = options.into_iter().any(|(index, option)| index > 3 && is(option, b"ABSTTL"));
        return if time == b"0" || absolute { None } else { at(time, false, now_ms) };
    }
    None
}

/// Whether a command could carry a relative time, by its name alone.
pub(crate) fn may_be_relative(name: &[u8]) -> bool {
    [b"SET".as_slice(), b"SETEX", b"PSETEX", b"GETEX", b"EXPIRE", b"PEXPIRE", b"RESTORE", b"RESTORE-ASKING"]
        .iter()
        .any(|known| is(name, known))
}

fn is(given: &[u8], word: &[u8]) -> bool {
    given.eq_ignore_ascii_case(word)
}

fn at(argument: &[u8], seconds: bool, now_ms: u64) -> Option<i64> {
    let number: i64 = std::str::from_utf8(argument).ok()?.parse().ok()?;
    let milliseconds = if seconds { number.saturating_mul(1000) } else { number };
    Some(i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_add(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[rstest]
    #[case("SET k v EX 10", "SET k v PXAT 11000")]
    #[case("set k v nx px 10 GET", "set k v nx PXAT 1010 GET")]
    #[case("SET k px PX 10", "SET k px PXAT 1010")]
    #[case("GETEX k EX 1", "GETEX k PXAT 2000")]
    #[case("SETEX k 10 v", "SET k v PXAT 11000")]
    #[case("psetex k 10 v", "SET k v PXAT 1010")]
    #[case("EXPIRE k 10", "PEXPIREAT k 11000")]
    #[case("PEXPIRE k 10 NX", "PEXPIREAT k 1010 NX")]
    #[case("EXPIRE k -10", "PEXPIREAT k -9000")]
    #[case("RESTORE k 10 p REPLACE", "RESTORE k 1010 p REPLACE ABSTTL")]
    #[case("EXPIRE k 9223372036854775807", "PEXPIREAT k 9223372036854775807")]
    fn relative_times_become_absolute(#[case] given: &str, #[case] wanted: &str) {
        let rewritten = rewrite(&words(given), 1000).unwrap();
        assert_eq!(String::from_utf8(rewritten.join(&b' ')).unwrap(), wanted);
        assert!(may_be_relative(words(given)[0]));
    }

    #[rstest]
    #[case("SET k v")]
    #[case("SET k v PXAT 5")]
    #[case("SET k v KEEPTTL")]
    #[case("SET EX PX")]
    #[case("SET k v EX x")]
    #[case("RESTORE k 0 p")]
    #[case("RESTORE k 10 p REPLACE absttl")]
    #[case("PEXPIREAT k 10")]
    #[case("GETEX EX")]
    #[case("SETEX k")]
    #[case("EXPIRE")]
    fn everything_else_stays(#[case] given: &str) {
        assert_eq!(rewrite(&words(given), 1000), None);
    }

    #[rstest]
    #[case("SET k - PX 10", Some(1010))]
    #[case("SETEX k 10 -", Some(11000))]
    #[case("RESTORE k 10 - REPLACE", Some(1010))]
    #[case("RESTORE k 10 - ABSTTL", None)]
    #[case("RESTORE k 0 -", None)]
    #[case("SET k -", None)]
    #[case("APPEND k -", None)]
    fn large_commands_are_put_right_afterwards(#[case] given: &str, #[case] time: Option<i64>) {
        let arguments = words(given);
        let kept = |index: usize| arguments.get(index).copied().filter(|argument| *argument != b"-");
        assert_eq!(time_of_large(kept, arguments.len(), 1000), time);
    }
}
