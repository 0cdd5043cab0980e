//! Values of labels.

/// The longest, in characters.
const LONGEST: usize = 63;

/// A text as a label's value, where it can be one: a name in storage may be longer, and begin or end otherwise.
pub(crate) fn value(text: &str) -> Option<&str> {
    let is_inner = |one: char| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.');
    let is_outer = |one: char| one.is_ascii_alphanumeric();
    let is_value =
        text.len() <= LONGEST && text.starts_with(is_outer) && text.ends_with(is_outer) && text.chars().all(is_inner);
    is_value.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("carts", true)]
    #[case("c", true)]
    #[case("a-b_c.d", true)]
    #[case("mymaster_", false)]
    #[case("-a", false)]
    #[case("a.", false)]
    #[case("a/b", false)]
    #[case("warenkörbe", false)]
    #[case("", false)]
    fn a_label_begins_and_ends_with_a_letter_or_a_digit(#[case] text: &str, #[case] is_value: bool) {
        assert_eq!(value(text).is_some(), is_value);
    }

    #[test]
    fn a_label_has_an_end() {
        assert!(value(&"a".repeat(LONGEST)).is_some());
        assert!(value(&"a".repeat(LONGEST + 1)).is_none());
    }
}
