//! How a cluster's folder is listed: whole, or by time prefixes side by side, whose union misses no backup.
//!
//! A storage lists 1000 keys a request and each request waits for the one before. Ids begin with their time, so that prefixes
//! of it split the work. Where to split is a guess from the index; a wrong guess costs requests, never an answer.

use std::collections::BTreeMap;

use redkeep_core::catalog::YEARS;
use redkeep_core::identifier::BackupId;

/// Keys that one request lists.
const PAGE: u64 = 1000;
/// Requests in a row that a listing may need before it is split: fewer are not worth the empty requests of a split.
const PAGES_IN_A_ROW: u64 = 4;
/// The most prefixes: each costs a request even when it is empty.
const MAX_PREFIXES: usize = 200;

/// The prefixes (of ids) to list. `objects`: ids known of, and how many objects each has. A single empty prefix: list it whole.
pub(crate) fn prefixes<'a>(objects: impl Iterator<Item = (&'a BackupId, u64)>) -> Vec<String> {
    let known: BTreeMap<&str, u64> = objects.map(|(id, count)| (id.as_str(), count)).collect();
    let weight = |prefix: &str| -> u64 {
        known
            .range(prefix..)
            .take_while(|(id, _)| id.starts_with(prefix))
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    };
    let limit = PAGE * PAGES_IN_A_ROW;
    if weight("") <= limit {
        return vec![String::new()];
    }
    let mut done = Vec::new();
    let mut open: Vec<(u64, String)> = decades().map(|decade| (weight(&decade), decade)).collect();
    while let Some(heaviest) = (0..open.len()).max_by_key(|index| open.get(*index).map_or(0, |(weight, _)| *weight)) {
        let (heavy, prefix) = open.swap_remove(heaviest);
        let children = children(&prefix);
        // A split pays when the requests that it saves in a row outweigh those that it adds side by side.
        let worth_it = heavy > limit.max(PAGE * children.len() as u64 / 4);
        if worth_it && !children.is_empty() && done.len() + open.len() + children.len() <= MAX_PREFIXES {
            open.extend(children.into_iter().map(|child| (weight(&child), child)));
        } else {
            done.push(prefix);
        }
    }
    done.sort_unstable();
    done
}

/// The first three digits of every year that an id may begin with.
fn decades() -> impl Iterator<Item = String> {
    (YEARS.start() / 10..=YEARS.end() / 10).map(|decade| decade.to_string())
}

/// The next longer prefixes of the times that begin with `prefix`; none below the minute.
fn children(prefix: &str) -> Vec<String> {
    let numbered = |range: std::ops::RangeInclusive<u8>| range.map(|number| format!("{prefix}{number:02}")).collect();
    match prefix.len() {
        3 => (0..10).map(|year| format!("{prefix}{year}")).collect(),
        4 => numbered(1..=12),
        6 => numbered(1..=31),
        8 => (0..24).map(|hour| format!("{prefix}T{hour:02}")).collect(),
        11 => numbered(0..=59),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redkeep_core::Timestamp;

    fn id(second: i64) -> BackupId {
        BackupId::new(Timestamp::from_second(second).unwrap(), "cache", "x7k2p").unwrap()
    }

    #[test]
    fn a_small_cluster_is_listed_whole() {
        let ids: Vec<BackupId> = (0..100).map(|day| id(1_790_000_000 + day * 86_400)).collect();
        assert_eq!(prefixes(ids.iter().map(|id| (id, 3))), [""]);
    }

    #[test]
    fn ten_thousand_backups_are_listed_side_by_side() {
        for step in [3600, 60, 1, 86_400] {
            let ids: Vec<BackupId> = (0..10_000).map(|index| id(1_790_000_000 + index * step)).collect();
            let prefixes = prefixes(ids.iter().map(|id| (id, 3)));
            let longest = prefixes
                .iter()
                .map(|prefix| ids.iter().filter(|id| id.as_str().starts_with(prefix)).count() * 3)
                .max()
                .unwrap();
            assert!(longest <= 12_000, "step {step}: {longest} objects in a row, {prefixes:?}");
            assert!(prefixes.len() <= MAX_PREFIXES);
        }
    }

    proptest! {
        #[test]
        fn no_backup_is_missed_and_none_is_listed_twice(
            known in proptest::collection::vec((0_i64..4_102_444_799, 1_u64..5000), 0..60),
            other in 0_i64..4_102_444_799,
        ) {
            let ids: Vec<(BackupId, u64)> = known.iter().map(|(second, count)| (id(*second), *count)).collect();
            let prefixes = prefixes(ids.iter().map(|(id, count)| (id, *count)));
            for id in ids.iter().map(|(id, _)| id.clone()).chain([id(other)]) {
                prop_assert!(redkeep_core::catalog::backup_id_of(id.as_str()).is_some());
                let hits = prefixes.iter().filter(|prefix| id.as_str().starts_with(prefix.as_str())).count();
                prop_assert_eq!(hits, 1, "{} in {:?}", id, &prefixes);
            }
        }
    }
}
