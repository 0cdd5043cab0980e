//! Identifiers that become path segments: checked once at the edge, trusted after.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Text that cannot be an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {what}: {rule}")]
pub struct InvalidIdentifier {
    /// What was given.
    pub given: String,
    /// What it should have been.
    pub what: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Longest segment, in bytes: fits every file system and leaves room for suffixes.
const MAX_SEGMENT: usize = 200;

fn check_segment(text: &str, what: &'static str) -> Result<(), InvalidIdentifier> {
    let rule = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_SEGMENT {
        "it is longer than 200 bytes"
    } else if text.starts_with('.') {
        "it starts with a dot"
    } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        "only letters, digits, `.`, `_` and `-` are allowed"
    } else {
        return Ok(());
    };
    Err(InvalidIdentifier { given: text.to_owned(), what, rule })
}

macro_rules! segment {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidIdentifier;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check_segment(text, $what)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidIdentifier;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                check_segment(&text, $what)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

segment!(
    /// A backup's id: `20261121T091348Z-<name, lower case>-<short uid>`. Sorts by time, is never reused.
    BackupId,
    "backup id"
);
segment!(
    /// A namespace; `default` without Kubernetes.
    Namespace,
    "namespace"
);
segment!(
    /// A cluster's name: given by the user, or made from the source's address by [`ClusterName::from_address`].
    ClusterName,
    "cluster name"
);
segment!(
    /// One attempt at a backup: random, so that no two writers share a folder.
    AttemptId,
    "attempt id"
);
segment!(
    /// A shard of a source, e.g. `0` or `shard-2`.
    ShardName,
    "shard name"
);
segment!(
    /// An artifact's name, e.g. `dump.rdb`.
    ArtifactName,
    "artifact name"
);

impl Namespace {
    /// The namespace used without Kubernetes.
    pub fn default_namespace() -> Self {
        Self("default".to_owned())
    }
}

impl ClusterName {
    /// A name made from an address: what may not stand in a segment becomes `-`.
    pub fn from_address(address: &str) -> Self {
        let mut name: String = address
            .chars()
            .map(|character| {
                if character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-') { character } else { '-' }
            })
            .collect();
        name.truncate(MAX_SEGMENT);
        let name = name.trim_matches(|character| matches!(character, '-' | '.')).to_owned();
        Self(if name.is_empty() { "redis".to_owned() } else { name })
    }
}

/// How times are spelled in keys, always UTC: `20261121T091348Z`.
pub(crate) const COMPACT_TIME: &str = "%Y%m%dT%H%M%SZ";

/// The time in a key.
pub(crate) fn timestamp_of(stamp: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(COMPACT_TIME, stamp).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

impl BackupId {
    /// Makes an id from the start of the backup, its name and a random `uid` (lower-case letters and digits).
    ///
    /// # Errors
    /// When name or uid cannot stand in a path segment.
    pub fn new(started: Timestamp, name: &str, uid: &str) -> Result<Self, InvalidIdentifier> {
        let stamp = started.strftime(COMPACT_TIME);
        Self::from_str(&format!("{stamp}-{}-{uid}", name.to_ascii_lowercase()))
    }

    /// When the backup began, to the second, as the id says.
    pub fn started(&self) -> Option<Timestamp> {
        timestamp_of(self.0.split('-').next()?)
    }

    /// The name in it, lower case.
    pub fn name(&self) -> &str {
        let after_stamp = self.0.split_once('-').map_or("", |(_, rest)| rest);
        after_stamp.rsplit_once('-').map_or(after_stamp, |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_id_sorts_by_time_and_names_its_parts() {
        let started: Timestamp = "2026-11-21T09:13:48Z".parse().unwrap();
        let id = BackupId::new(started, "My-Cluster", "x7k2p").unwrap();
        assert_eq!(id.as_str(), "20261121T091348Z-my-cluster-x7k2p");
        assert_eq!(id.started(), Some(started));
        assert_eq!(id.name(), "my-cluster");
    }

    #[test]
    fn segments_that_could_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", &"x".repeat(201)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_become_cluster_names() {
        assert_eq!(ClusterName::from_address("[::1]:6379").as_str(), "1--6379");
        assert_eq!(ClusterName::from_address("/run/redis.sock").as_str(), "run-redis.sock");
        assert_eq!(ClusterName::from_address("://").as_str(), "redis");
    }
}
