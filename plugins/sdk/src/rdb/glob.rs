//! Patterns as the server's `KEYS` takes them: `*`, `?`, `[a-z]`, `[^x]`, `\` (redis `src/util.c`, `stringmatchlen`),
//! over bytes.

/// Whether the name matches the whole pattern. Linear in memory and without recursion.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    // Where to go on when the last star takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, place));
            at += 1;
            continue;
        }
        let matched = match name.get(place) {
            None if at == pattern.len() => return true,
            None => return false,
            Some(byte) => one(&pattern[at..], *byte),
        };
        if let Some(used) = matched {
            at += used;
            place += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (at, place) = (after, from + 1);
        } else {
            return false;
        }
    }
}

/// How many bytes of the pattern match this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', class @ ..] => {
            let (negated, mut rest) = match class {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let mut found = false;
            loop {
                rest = match rest {
                    // A class without its end takes the rest of the pattern, as the server does.
                    [] | [b']', ..] => break,
                    [b'\\', escaped, rest @ ..] => {
                        found |= *escaped == byte;
                        rest
                    }
                    [low, b'-', high, rest @ ..] => {
                        found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                        rest
                    }
                    [single, rest @ ..] => {
                        found |= *single == byte;
                        rest
                    }
                };
            }
            let used = pattern.len() - rest.len() + usize::from(!rest.is_empty());
            (found != negated).then_some(used)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_server_matches_them() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("user:*", "user:1", true),
            ("user:*", "users", false),
            ("*:1", "a:b:1", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("*[0-9]", "key7", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(
            &b"a*".repeat(40),
            &[b'a'; 5000][..].iter().copied().chain(*b"b").collect::<Vec<_>>().repeat(1)[..30]
        ));
        assert!(!matches(&[&b"*a".repeat(40)[..], b"c"].concat(), &[b'a'; 5000]));
    }
}
