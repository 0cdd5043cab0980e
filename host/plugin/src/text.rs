//! Text of guests, made fit for terminals and logs.

/// `text` in one line, without control characters (a guest must not move the user's cursor nor forge a second line), at
/// most `max` bytes and an ellipsis.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    for character in text.trim_end().chars() {
        if shown.len() + character.len_utf8() > max {
            shown.push('…');
            break;
        }
        match character {
            '\n' | '\t' => shown.push(' '),
            '\r' => {}
            // Besides control characters those that turn the direction of what follows.
            control if control.is_control() => shown.push('\u{fffd}'),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.push('\u{fffd}'),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(printable("äöü", 5), "äö…");
        assert_eq!(printable("äöü", 6), "äöü");
    }

    #[test]
    fn lines_become_one() {
        assert_eq!(
            printable("panicked at src/lib.rs:15:107:\nindex out of bounds\n", 100),
            "panicked at src/lib.rs:15:107: index out of bounds"
        );
    }
}
