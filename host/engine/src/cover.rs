//! How a cluster's folder is listed: whole, or in ranges of keys side by side, which together are all of it.
//!
//! A storage lists 1000 keys a request and each request waits for the one before. Where to divide is a guess from the index; a
//! wrong guess costs requests, never an answer: the first range has no lower end and the last no upper one.

use std::collections::BTreeMap;

use redkeep_core::identifier::BackupId;

/// Objects of a range: a little below the 1000 keys of a request, so that a backup or two more do not cost another.
const OBJECTS: u64 = 950;
/// Requests in a row that a listing may need before it is divided.
const PAGES_IN_A_ROW: u64 = 4;
/// The most ranges: beyond them each becomes longer.
const MAX_RANGES: u64 = 200;

/// Keys behind `after` and not behind `until`, both as they go on from the cluster's folder. No bound lies within the folder of
/// a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    /// Empty: from the first.
    pub(crate) after: String,
    /// `None`: to the last.
    pub(crate) until: Option<String>,
}

/// What sorts behind every key of a backup's folder and before every other folder that does: `0` follows `/`.
fn behind(folder: &str) -> String {
    format!("{}0", folder.trim_end_matches('/'))
}

/// The ranges to list. `objects`: ids known of, and how many objects each has.
pub(crate) fn ranges<'a>(objects: impl Iterator<Item = (&'a BackupId, u64)>) -> Vec<Range> {
    // By key, not by id: `-` sorts before `/`.
    let known: BTreeMap<String, u64> = objects.map(|(id, count)| (format!("{id}/"), count)).collect();
    let total = known.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let mut ranges = vec![Range::default()];
    if total <= OBJECTS * PAGES_IN_A_ROW {
        return ranges;
    }
    let most = OBJECTS.max(total.div_ceil(MAX_RANGES));
    let (mut begun, mut before) = (0_u64, None::<&str>);
    for (folder, count) in &known {
        if let (true, Some(before), Some(last)) = (begun.saturating_add(*count) > most, before, ranges.last_mut()) {
            let bound = behind(before);
            last.until = Some(bound.clone());
            ranges.push(Range { after: bound, until: None });
            begun = 0;
        }
        begun = begun.saturating_add(*count);
        before = Some(folder.as_str());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redkeep_core::Timestamp;

    fn id(second: i64) -> BackupId {
        BackupId::new(Timestamp::from_second(second).unwrap(), "cache", "x7k2p").unwrap()
    }

    fn holds(range: &Range, key: &str) -> bool {
        key > range.after.as_str() && range.until.as_ref().is_none_or(|until| key <= until.as_str())
    }

    #[test]
    fn a_small_cluster_is_listed_whole() {
        let ids: Vec<BackupId> = (0..100).map(|day| id(1_790_000_000 + day * 86_400)).collect();
        assert_eq!(ranges(ids.iter().map(|id| (id, 3))), [Range::default()]);
    }

    #[test]
    fn ten_thousand_backups_are_listed_side_by_side_a_request_each() {
        for step in [3600, 60, 1, 86_400] {
            let ids: Vec<BackupId> = (0..10_000).map(|index| id(1_790_000_000 + index * step)).collect();
            let ranges = ranges(ids.iter().map(|id| (id, 3)));
            for range in &ranges {
                let objects = ids.iter().filter(|id| holds(range, &format!("{id}/manifest.json"))).count() * 3;
                assert!((1..1000).contains(&objects), "step {step}: {objects} objects in {range:?}");
            }
            assert_eq!(ranges.len(), 32);
        }
    }

    proptest! {
        #[test]
        fn no_backup_is_missed_and_none_is_listed_twice(
            known in proptest::collection::vec((0_i64..4, "[a-c0-][a-c0-]{0,3}", "[a-c0]{1,2}", 1_u64..5000), 0..300),
            other in (0_i64..4, "[a-c0-][a-c0-]{0,3}", "[a-c0]{1,2}"),
            rest in prop_oneof![Just("manifest.json"), Just("!"), Just("~~~"), Just("\u{10ffff}")],
        ) {
            let id = |second: i64, name: &str, uid: &str| {
                BackupId::new(Timestamp::from_second(second).unwrap(), name, uid).ok()
            };
            let ids: Vec<(BackupId, u64)> =
                known.iter().filter_map(|(at, name, uid, count)| Some((id(*at, name, uid)?, *count))).collect();
            let ranges = ranges(ids.iter().map(|(id, count)| (id, *count)));
            prop_assert!(ranges.len() as u64 <= 2 * MAX_RANGES);
            for id in ids.iter().map(|(id, _)| id.clone()).chain(id(other.0, &other.1, &other.2)) {
                let of = |rest: &str| ranges.iter().position(|range| holds(range, &format!("{id}/{rest}")));
                let hits = ranges.iter().filter(|range| holds(range, &format!("{id}/{rest}"))).count();
                prop_assert_eq!(hits, 1, "{} in {:?}", id, &ranges);
                prop_assert_eq!(of("a"), of(rest), "{} is divided by {:?}", id, &ranges);
            }
        }
    }
}
