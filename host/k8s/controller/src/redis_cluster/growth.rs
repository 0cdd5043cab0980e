//! Whether a claim is to grow. Pure.

/// What its class says of a claim that does not.
pub(super) const HELP: &str = "set allowVolumeExpansion: true on its storage class if its provisioner can grow volumes, or restore a \
                               backup into a new RedisCluster of that size";

/// Whether a claim that asks for so much asks for less than is wanted. One that is larger, or as large in other words, is left.
pub(super) fn must_grow(asked: Option<&str>, wanted: &str) -> bool {
    let Some(asked) = asked else { return false };
    match (bytes(asked), bytes(wanted)) {
        (Some(asked), Some(wanted)) => asked < wanted,
        // The API server knows.
        _ => asked != wanted,
    }
}

/// `10Gi`, `1.5G`, `1024`.
fn bytes(size: &str) -> Option<f64> {
    let end = size.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(size.len());
    let (number, unit) = size.split_at(end);
    let (base, power) = match unit {
        "" => (1.0_f64, 0),
        "k" => (1e3, 1),
        "M" => (1e3, 2),
        "G" => (1e3, 3),
        "T" => (1e3, 4),
        "P" => (1e3, 5),
        "Ki" => (1024.0, 1),
        "Mi" => (1024.0, 2),
        "Gi" => (1024.0, 3),
        "Ti" => (1024.0, 4),
        "Pi" => (1024.0, 5),
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * base.powi(power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::smaller(Some("1Gi"), "2Gi", true)]
    #[case::smaller_in_another_unit(Some("900Mi"), "1Gi", true)]
    #[case::decimal_is_less(Some("1G"), "1Gi", true)]
    #[case::same(Some("1Gi"), "1Gi", false)]
    #[case::same_in_other_words(Some("1024Mi"), "1Gi", false)]
    #[case::grown_by_hand(Some("1Ti"), "1Gi", false)]
    #[case::fraction(Some("1.5Gi"), "1536Mi", false)]
    #[case::says_nothing(None, "1Gi", false)]
    #[case::unknown_unit(Some("1e9"), "1Gi", true)]
    fn a_claim_grows_when_it_is_smaller(#[case] asked: Option<&str>, #[case] wanted: &str, #[case] grows: bool) {
        assert_eq!(must_grow(asked, wanted), grows);
    }
}
