//! Facts of a whole backup from those of its shards: equal values stay, counts are summed, what differs is left to the shards.

use std::collections::{BTreeMap, BTreeSet};

/// Facts by key.
pub type Facts = BTreeMap<String, String>;

/// How many keys a backup holds, where that is known: the keys of a snapshot are counted, what the commands of an append-only file
/// after it make of them is not.
pub fn counted_keys(facts: &Facts) -> Option<u64> {
    number(facts, "keys").filter(|_| !commands_follow(facts))
}

/// Whether commands of an append-only file come after the snapshot.
pub fn commands_follow(facts: &Facts) -> bool {
    number(facts, "commands").is_some_and(|commands| commands > 0)
}

fn number(facts: &Facts, key: &str) -> Option<u64> {
    facts.get(key)?.parse().ok()
}

/// How shards' values of one key become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Numbers that add up; every shard must have one.
    Sum,
    /// Numbers that add up; a shard without has none of it.
    SumOfThoseThere,
    /// The largest: what all shards of a cluster carry alike.
    Largest,
    /// Texts of which the first in order counts (RFC 3339 times).
    Earliest,
    /// Texts of which the last in order counts.
    Latest,
    /// Comma lists, joined.
    Union,
    /// `crc64` only where all are.
    WeakestChecksum,
    /// Kept only where all agree.
    Equal,
}

fn rule(key: &str) -> Rule {
    match key {
        "keys" | "expires" | "commands" => Rule::Sum,
        "functions" => Rule::Largest,
        "first-time" | "snapshot-time" => Rule::Earliest,
        "last-time" => Rule::Latest,
        "databases" | "modules" => Rule::Union,
        "checksum" => Rule::WeakestChecksum,
        _ if key.starts_with("keys-db-") || key.starts_with("expires-db-") => Rule::SumOfThoseThere,
        _ => Rule::Equal,
    }
}

/// The facts of the whole.
pub fn aggregate(shards: &[Facts]) -> Facts {
    if let [only] = shards {
        return only.clone();
    }
    let keys: BTreeSet<&String> = shards.iter().flat_map(BTreeMap::keys).collect();
    keys.into_iter()
        .filter_map(|key| {
            let values: Vec<&str> = shards.iter().filter_map(|facts| facts.get(key)).map(String::as_str).collect();
            let everywhere = values.len() == shards.len();
            combine(rule(key), &values, everywhere).map(|value| (key.clone(), value))
        })
        .collect()
}

fn combine(rule: Rule, values: &[&str], everywhere: bool) -> Option<String> {
    let numbers = || values.iter().map(|value| value.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    match rule {
        Rule::Sum if !everywhere => None,
        Rule::Sum | Rule::SumOfThoseThere => {
            numbers()?.into_iter().try_fold(0_u64, u64::checked_add).map(|sum| sum.to_string())
        }
        Rule::Largest => numbers()?.into_iter().max().map(|largest| largest.to_string()),
        Rule::Earliest => values.iter().min().map(|earliest| (*earliest).to_owned()),
        Rule::Latest => values.iter().max().map(|latest| (*latest).to_owned()),
        Rule::Union => Some(union(values)),
        Rule::WeakestChecksum => {
            let weakest =
                if everywhere && values.iter().all(|value| *value == "crc64") { "crc64" } else { "unchecked" };
            Some(weakest.to_owned())
        }
        Rule::Equal => {
            let first = values.first()?;
            (everywhere && values.iter().all(|value| value == first)).then(|| (*first).to_owned())
        }
    }
}

/// The members of comma lists, each once; numbers in numeric order before texts.
fn union(lists: &[&str]) -> String {
    let members: BTreeSet<(u64, &str)> = lists
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .map(|member| (member.parse().unwrap_or(u64::MAX), member))
        .collect();
    members.into_iter().map(|(_, member)| member).collect::<Vec<_>>().join(",")
}

/// The first key that both have with different values: what a second reading found otherwise than the capture said.
pub fn contradiction(captured: &Facts, found: &Facts) -> Option<(String, String, String)> {
    found.iter().find_map(|(key, value)| {
        let before = captured.get(key)?;
        (before != value).then(|| (key.clone(), before.clone(), value.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn facts(text: &str) -> Facts {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[rstest]
    #[case::counts_are_summed(&["keys=3 expires=1", "keys=4 expires=0"], "expires=1 keys=7")]
    #[case::a_count_that_one_lacks_is_unknown(&["keys=3", "expires=1"], "")]
    #[case::a_count_that_is_no_number_is_unknown(&["keys=3", "keys=many"], "")]
    #[case::a_sum_too_large_is_unknown(&["keys=18446744073709551615", "keys=1"], "")]
    #[case::a_database_that_one_shard_lacks_counts(&["keys-db-0=3 keys-db-2=1", "keys-db-0=4"], "keys-db-0=7 keys-db-2=1")]
    #[case::equal_values_stay(&["server-version=7.0.15 replication-id=a", "server-version=7.0.15 replication-id=b"], "server-version=7.0.15")]
    #[case::what_only_one_says_is_not_said_of_all(&["source-route=files", ""], "")]
    #[case::functions_are_the_same_on_every_shard(&["functions=2", "functions=2"], "functions=2")]
    #[case::one_unchecked_shard_makes_the_whole_unchecked(&["checksum=crc64", "checksum=unchecked"], "checksum=unchecked")]
    #[case::databases_join_in_order(&["databases=0,10", "databases=2,0"], "databases=0,2,10")]
    #[case::times_span_the_shards(&["first-time=2026-01-02T00:00:00Z last-time=2026-01-03T00:00:00Z", "first-time=2026-01-01T00:00:00Z last-time=2026-01-02T00:00:00Z"], "first-time=2026-01-01T00:00:00Z last-time=2026-01-03T00:00:00Z")]
    #[case::one_shard_speaks_for_itself(&["keys=3 replication-id=a databases=2,1"], "keys=3 replication-id=a databases=2,1")]
    fn shards_become_one(#[case] shards: &[&str], #[case] expected: &str) {
        let shards: Vec<Facts> = shards.iter().map(|shard| facts(shard)).collect();
        assert_eq!(aggregate(&shards), facts(expected));
    }

    #[rstest]
    #[case::of_a_snapshot("keys=3 expires=1", Some(3))]
    #[case::no_command_followed("keys=3 commands=0", Some(3))]
    #[case::commands_followed("keys=0 commands=12", None)]
    #[case::nobody_counted("expires=1", None)]
    #[case::no_number("keys=many", None)]
    fn keys_are_known_where_nothing_was_written_after_the_snapshot(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(counted_keys(&facts(text)), expected);
    }

    #[test]
    fn only_a_key_that_both_have_can_contradict() {
        let captured = facts("keys=3 replication-id=a");
        assert_eq!(contradiction(&captured, &facts("keys=3 layout=aof")), None);
        let expected = Some(("keys".to_owned(), "3".to_owned(), "4".to_owned()));
        assert_eq!(contradiction(&captured, &facts("keys=4")), expected);
    }
}
