//! Runs that have outlived their deadline: there should be none, and an alert looks at their number.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::metrics::{Metrics, RunLabels};

/// Longer after its deadline a run cannot last while the operator works.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_secs(900);

/// Whether a run that was begun has outlived its deadline by so much.
pub(crate) fn is_overdue(started: Option<Timestamp>, deadline_seconds: i64, now: Timestamp, grace: Duration) -> bool {
    let allowed = SignedDuration::from_secs(deadline_seconds.max(0))
        .saturating_add(SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX));
    started.is_some_and(|started| now.duration_since(started) > allowed)
}

/// Since when a run's deadline counts: one that is not begun, for whatever reason, counts from when it was wished for.
pub(crate) fn since(started: Option<&Time>, wished: &ObjectMeta) -> Option<Timestamp> {
    started.or(wished.creation_timestamp.as_ref()).map(|time| time.0)
}

/// Sets the gauge of a kind from its unfinished runs: the namespace of each, and whether it is overdue. What was counted
/// before and is not there now becomes zero.
pub(crate) fn count(
    metrics: &Metrics,
    kind: &str,
    runs: impl Iterator<Item = (String, bool)>,
    before: &mut HashSet<RunLabels>,
) {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (namespace, is_overdue) in runs {
        *counts.entry(namespace).or_default() += i64::from(is_overdue);
    }
    let now: HashSet<RunLabels> = counts
        .into_iter()
        .map(|(namespace, count)| {
            let labels = RunLabels { kind: kind.to_owned(), namespace };
            metrics.overdue.get_or_create(&labels).set(count);
            labels
        })
        .collect();
    for gone in before.difference(&now) {
        metrics.overdue.get_or_create(gone).set(0);
    }
    before.extend(now);
}
