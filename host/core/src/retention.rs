//! Retention: which backups stay, by rule (grandfather, father, son), and why. A pure function of entries, rules and `now`.
//!
//! Works per cluster and in UTC. Never lets go of a pinned backup, of another origin's, or of the floor: the newest that was
//! verified, else the newest not known to be damaged, else the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::catalog::{BackupRef, CatalogEntry};
use crate::task::KeepRules;

/// A span of the calendar of which the newest backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// An ISO week: Monday to Sunday.
    Weekly,
    /// A month.
    Monthly,
    /// A year.
    Yearly,
}

impl Span {
    /// All of them, shortest first.
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The name of the span that `time` falls into, e.g. `2026-W47`. Times of one span, and only those, have equal names.
    pub fn bucket(self, time: Timestamp) -> String {
        let utc = time.to_zoned(TimeZone::UTC);
        match self {
            Self::Hourly => utc.strftime("%Y-%m-%dT%H").to_string(),
            Self::Daily => utc.strftime("%Y-%m-%d").to_string(),
            Self::Weekly => {
                // At the turn of a year an ISO week may belong to the year before or after.
                let week = utc.date().iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Monthly => utc.strftime("%Y-%m").to_string(),
            Self::Yearly => utc.strftime("%Y").to_string(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    fn count(self, rules: &KeepRules) -> Option<u32> {
        match self {
            Self::Hourly => rules.hourly,
            Self::Daily => rules.daily,
            Self::Weekly => rules.weekly,
            Self::Monthly => rules.monthly,
            Self::Yearly => rules.yearly,
        }
    }
}

/// Why a backup stays or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Reason {
    /// No rule is set, so nothing goes.
    NoRules,
    /// Pinned.
    Pinned,
    /// Made by somebody else.
    OtherOrigin {
        /// By whom.
        origin: String,
    },
    /// Among the newest N.
    Last {
        /// Which of them, from 1.
        position: u32,
        /// N.
        of: u32,
    },
    /// The newest of its span.
    Newest {
        /// What kind of span.
        span: Span,
        /// Which one.
        bucket: String,
        /// Which of the spans kept, from 1.
        position: u32,
        /// Spans kept.
        of: u32,
    },
    /// Young enough.
    Within {
        /// The age, in seconds.
        seconds: u64,
    },
    /// The newest of its cluster that was verified.
    NewestVerified,
    /// The newest of its cluster, where none was verified.
    NewestOfCluster,
    /// No rule keeps it.
    NotKept,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRules => formatter.write_str("no rule is set"),
            Self::Pinned => formatter.write_str("pinned"),
            Self::OtherOrigin { origin } => write!(formatter, "made by another origin ({origin})"),
            Self::Last { position, of } => write!(formatter, "last ({position} of {of})"),
            Self::Newest { span, bucket, position, of } => {
                write!(formatter, "{} ({bucket}, {position} of {of})", span.word())
            }
            Self::Within { seconds } => write!(formatter, "younger than {seconds} s"),
            Self::NewestVerified => formatter.write_str("newest verified backup of its cluster"),
            Self::NewestOfCluster => formatter.write_str("newest backup of its cluster"),
            Self::NotKept => formatter.write_str("no rule keeps it"),
        }
    }
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Which one.
    #[serde(flatten)]
    pub backup: BackupRef,
    /// When it began.
    pub started_at: Timestamp,
    /// Stored bytes.
    pub stored_size: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Why: every reason to stay, or the one to go.
    pub reasons: Vec<Reason>,
}

/// Decides on every entry. `origin`: only backups of this origin are counted and may go; `None`: all.
/// The answer is ordered by namespace, cluster, and from the newest to the oldest.
pub fn plan(entries: &[CatalogEntry], rules: &KeepRules, origin: Option<&str>, now: Timestamp) -> Vec<Decision> {
    let mut clusters: BTreeMap<(&str, &str), Vec<&CatalogEntry>> = BTreeMap::new();
    for entry in entries {
        clusters.entry((entry.namespace.as_str(), entry.cluster.as_str())).or_default().push(entry);
    }
    clusters.into_values().flat_map(|entries| plan_cluster(entries, rules, origin, now)).collect()
}

fn plan_cluster(
    mut entries: Vec<&CatalogEntry>,
    rules: &KeepRules,
    origin: Option<&str>,
    now: Timestamp,
) -> Vec<Decision> {
    entries.sort_by_cached_key(|entry| std::cmp::Reverse(entry.age_order()));
    let is_ours = |entry: &CatalogEntry| origin.is_none_or(|origin| origin == entry.origin);
    let ours: Vec<&CatalogEntry> = entries.iter().copied().filter(|entry| is_ours(entry)).collect();
    // A backup known to be damaged never takes the place of one that is not.
    let counted: Vec<&CatalogEntry> =
        ours.iter().copied().filter(|entry| entry.verified.as_ref().is_none_or(|verified| verified.ok)).collect();
    let mut reasons = by_rules(&counted, &ours, rules, now);
    if let Some((floor, reason)) = floor(&ours) {
        reasons.entry(floor.backup_id.as_str()).or_default().push(reason);
    }
    entries
        .into_iter()
        .map(|entry| {
            let mut found = Vec::new();
            if rules.is_empty() {
                found.push(Reason::NoRules);
            }
            if !is_ours(entry) {
                found.push(Reason::OtherOrigin { origin: entry.origin.clone() });
            }
            if entry.pinned {
                found.push(Reason::Pinned);
            }
            found.extend(reasons.remove(entry.backup_id.as_str()).unwrap_or_default());
            let keep = !found.is_empty();
            if !keep {
                found.push(Reason::NotKept);
            }
            Decision {
                backup: entry.backup(),
                started_at: entry.started_at,
                stored_size: entry.stored_size,
                keep,
                reasons: found,
            }
        })
        .collect()
}

/// The reasons that the rules give; `newest_first` are the backups that count, `all` those that an age alone keeps.
fn by_rules<'a>(
    newest_first: &[&'a CatalogEntry],
    all: &[&'a CatalogEntry],
    rules: &KeepRules,
    now: Timestamp,
) -> BTreeMap<&'a str, Vec<Reason>> {
    let mut reasons: BTreeMap<&str, Vec<Reason>> = BTreeMap::new();
    let of = rules.last.unwrap_or(0);
    for (position, entry) in (1..=of).zip(newest_first) {
        reasons.entry(entry.backup_id.as_str()).or_default().push(Reason::Last { position, of });
    }
    for span in Span::ALL {
        let of = span.count(rules).unwrap_or(0);
        let mut seen = BTreeSet::new();
        let newest_of_each = newest_first.iter().filter_map(|entry| {
            let bucket = span.bucket(entry.started_at);
            seen.insert(bucket.clone()).then_some((entry, bucket))
        });
        for (position, (entry, bucket)) in (1..=of).zip(newest_of_each) {
            let reason = Reason::Newest { span, bucket, position, of };
            reasons.entry(entry.backup_id.as_str()).or_default().push(reason);
        }
    }
    if let Some(seconds) = rules.within_seconds {
        for entry in all {
            // A start in the future (clocks differ) is young.
            let age = now.as_second().saturating_sub(entry.started_at.as_second());
            if u64::try_from(age).is_ok_and(|age| age > seconds) {
                continue;
            }
            reasons.entry(entry.backup_id.as_str()).or_default().push(Reason::Within { seconds });
        }
    }
    reasons
}

/// The one that stays whatever the rules say.
fn floor<'a>(newest_first: &[&'a CatalogEntry]) -> Option<(&'a CatalogEntry, Reason)> {
    let verified =
        |ok: bool| move |entry: &&&CatalogEntry| entry.verified.as_ref().is_some_and(|result| result.ok == ok);
    if let Some(entry) = newest_first.iter().find(verified(true)) {
        return Some((entry, Reason::NewestVerified));
    }
    let not_known_bad = newest_first.iter().find(|entry| !verified(false)(entry));
    not_known_bad.or(newest_first.first()).map(|entry| (*entry, Reason::NewestOfCluster))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
