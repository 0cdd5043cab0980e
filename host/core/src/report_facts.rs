//! What a report says under which key: the words that the engine writes and the operator reads.
//!
//! A fact is a text. What is not listed here is the method's own and may be left out where a report would be too long.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::facts::counted_keys;
use crate::manifest::{ArtifactRecord, Manifest, ShardRecord};
use crate::retention::Decision;

/// Where the backup lies: its one artifact's address, or its folder's.
pub const BACKUP_PATH: &str = "backup-path";
/// When the backup began, as its manifest says.
pub const BACKUP_STARTED: &str = "backup-started-at";
/// When its last artifact was stored.
pub const BACKUP_COMPLETED: &str = "backup-completed-at";
/// The node that was read, where there is one shard.
pub const NODE: &str = "node";
/// `rdb`, `aof`, `aof-archive`: the type of what holds the data, where all shards have the same.
pub const ARTIFACT_TYPE: &str = "artifact-type";
/// SHA-256 of the stored object, where there is one shard.
pub const STORED_SHA256: &str = "stored-sha256";
/// Plain bytes.
pub const SIZE: &str = "size";
/// Stored bytes.
pub const STORED_SIZE: &str = "stored-size";
/// Keys, where the method counts them.
pub const KEYS: &str = "keys";
/// How many shards there are.
pub const SHARDS: &str = "shards";
/// The method's name.
pub const METHOD: &str = "method";
/// Its digest.
pub const METHOD_DIGEST: &str = "method-digest";
/// One for each shard that there is room for: `shard-<name>`, a [`ShardFact`].
pub const SHARD_PREFIX: &str = "shard-";
/// How many shards there was no room for.
pub const SHARDS_LEFT_OUT: &str = "shards-left-out";
/// Of a capture: the shard, for its commit.
pub const PART_SHARD: &str = "part-shard";
/// Of a capture: the attempt that holds it, for its commit.
pub const PART_ATTEMPT: &str = "part-attempt";
/// Of a verification: its level, `checksum`, `parse` or `boot`.
pub const LEVEL: &str = "level";
/// Of a verification: when it began.
pub const VERIFIED_AT: &str = "verified-at";
/// Of a verification: `yes` or `no`.
pub const VERIFIED: &str = "verified";
/// Whether the backup is pinned now: `yes` or `no`.
pub const PINNED: &str = "pinned";
/// Of a prune: one for each backup that there is room for, those that go first: `plan-<id>`, `delete: why` or `keep: why`.
pub const PLAN_PREFIX: &str = "plan-";
/// Of a prune: how many backups of its plan there was no room for.
pub const PLAN_LEFT_OUT: &str = "plan-left-out";
/// Of a running or stopped task: how far it came.
pub const PROGRESS: &str = "progress";

/// Facts that are cut last when a report is too long.
pub const ESSENTIAL: [&str; 19] = [
    PART_SHARD,
    PART_ATTEMPT,
    BACKUP_PATH,
    BACKUP_STARTED,
    BACKUP_COMPLETED,
    NODE,
    ARTIFACT_TYPE,
    STORED_SHA256,
    SIZE,
    STORED_SIZE,
    KEYS,
    SHARDS,
    METHOD,
    METHOD_DIGEST,
    LEVEL,
    VERIFIED_AT,
    VERIFIED,
    PINNED,
    PROGRESS,
];

/// The most bytes that all shards, or all of a plan, take in one report.
const ROOM: usize = 2200;
/// Types of artifacts that hold the data itself; others stand beside them.
const DATA_TYPES: [&str; 3] = ["rdb", "aof", "aof-archive"];

/// One shard in one line: `node=redis://10.0.0.5:6379 keys=10 size=500 stored=90 sha256=…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardFact {
    /// The node that was read.
    pub node: String,
    /// Keys, where they are counted.
    pub keys: Option<u64>,
    /// Plain bytes.
    pub size: u64,
    /// Stored bytes.
    pub stored_size: u64,
    /// SHA-256 of the stored object that holds the data.
    pub stored_sha256: Option<String>,
}

impl fmt::Display for ShardFact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node={}", self.node.replace(' ', "%20"))?;
        if let Some(keys) = self.keys {
            write!(formatter, " keys={keys}")?;
        }
        write!(formatter, " size={} stored={}", self.size, self.stored_size)?;
        match &self.stored_sha256 {
            Some(digest) => write!(formatter, " sha256={digest}"),
            None => Ok(()),
        }
    }
}

/// A text that is no [`ShardFact`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not what a report says of a shard")]
pub struct InvalidShardFact {
    /// The text.
    pub given: String,
}

impl FromStr for ShardFact {
    type Err = InvalidShardFact;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidShardFact { given: text.to_owned() };
        let words: BTreeMap<&str, &str> = text.split(' ').filter_map(|word| word.split_once('=')).collect();
        let number = |key: &str| words.get(key).map(|digits| digits.parse::<u64>().map_err(|_| invalid())).transpose();
        Ok(Self {
            node: words.get("node").ok_or_else(invalid)?.replace("%20", " "),
            keys: number("keys")?,
            size: number("size")?.ok_or_else(invalid)?,
            stored_size: number("stored")?.ok_or_else(invalid)?,
            stored_sha256: words.get("sha256").map(|digest| (*digest).to_owned()),
        })
    }
}

/// The artifact of a shard that holds its data: not the marks beside a stream.
fn data_of<'a>(manifest: &'a Manifest, shard: &ShardRecord) -> Option<&'a ArtifactRecord> {
    let of_shard = || manifest.artifacts.iter().filter(|artifact| artifact.shard == shard.name);
    let is_data = |artifact: &&ArtifactRecord| DATA_TYPES.contains(&artifact.artifact_type.as_str());
    of_shard().find(is_data).or_else(|| of_shard().max_by_key(|artifact| artifact.stored_size))
}

fn of_shard(manifest: &Manifest, shard: &ShardRecord) -> ShardFact {
    let artifacts = || manifest.artifacts.iter().filter(|artifact| artifact.shard == shard.name);
    ShardFact {
        node: shard.node.clone(),
        keys: counted_keys(&shard.facts),
        size: artifacts().fold(0, |sum, artifact| sum.saturating_add(artifact.size)),
        stored_size: artifacts().fold(0, |sum, artifact| sum.saturating_add(artifact.stored_size)),
        stored_sha256: data_of(manifest, shard).map(|artifact| artifact.stored_sha256.clone()),
    }
}

/// What a report says of a stored backup. `folder`: its folder's address, ending in `/`.
pub fn of_backup(manifest: &Manifest, folder: &str) -> BTreeMap<String, String> {
    let (size, stored_size) = manifest.sizes();
    let mut facts = manifest.facts.clone();
    let mut fact = |key: &str, value: String| facts.insert(key.to_owned(), value);
    fact(METHOD, manifest.method.name.clone());
    fact(METHOD_DIGEST, manifest.method.digest.clone());
    fact(SIZE, size.to_string());
    fact(STORED_SIZE, stored_size.to_string());
    fact(SHARDS, manifest.shards.len().to_string());
    fact(BACKUP_STARTED, manifest.started_at.to_string());
    fact(BACKUP_COMPLETED, manifest.completed_at.to_string());
    let data: Vec<&ArtifactRecord> = manifest.shards.iter().filter_map(|shard| data_of(manifest, shard)).collect();
    if let Some(first) = data.first()
        && data.iter().all(|artifact| artifact.artifact_type == first.artifact_type)
    {
        fact(ARTIFACT_TYPE, first.artifact_type.clone());
    }
    let mut path = folder.to_owned();
    if let ([shard], [only]) = (manifest.shards.as_slice(), data.as_slice()) {
        let home = crate::layout::BackupFolder::new(&manifest.namespace, &manifest.cluster, &manifest.backup_id);
        path.push_str(only.key.strip_prefix(home.prefix()).unwrap_or_default());
        fact(NODE, shard.node.clone());
        fact(STORED_SHA256, only.stored_sha256.clone());
    } else {
        let lines = manifest
            .shards
            .iter()
            .map(|shard| (format!("{SHARD_PREFIX}{}", shard.name), of_shard(manifest, shard).to_string()));
        let (told, left_out) = as_room_allows(lines);
        for (key, value) in told {
            fact(&key, value);
        }
        if left_out > 0 {
            fact(SHARDS_LEFT_OUT, left_out.to_string());
        }
    }
    fact(BACKUP_PATH, path);
    facts
}

/// What a report says of a retention plan: what goes comes first, then what stays, the newest first.
pub fn of_plan(decisions: &[Decision]) -> BTreeMap<String, String> {
    let mut order: Vec<&Decision> = decisions.iter().collect();
    order.sort_by_key(|decision| (decision.keep, std::cmp::Reverse(&decision.backup.backup_id)));
    let lines = order.into_iter().map(|decision| {
        let why: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let fate = if decision.keep { "keep" } else { "delete" };
        (format!("{PLAN_PREFIX}{}", decision.backup.backup_id), format!("{fate}: {}", why.join(", ")))
    });
    let (mut facts, left_out) = as_room_allows(lines);
    if left_out > 0 {
        facts.insert(PLAN_LEFT_OUT.to_owned(), left_out.to_string());
    }
    facts
}

/// The first of these lines that fit, and how many do not.
fn as_room_allows(lines: impl Iterator<Item = (String, String)>) -> (BTreeMap<String, String>, usize) {
    let (mut facts, mut room, mut left_out) = (BTreeMap::new(), ROOM, 0);
    for (key, value) in lines {
        // Quotes, colon and comma of JSON.
        match room.checked_sub(key.len() + value.len() + 6) {
            Some(left) if left_out == 0 => {
                room = left;
                facts.insert(key, value);
            }
            _ => left_out += 1,
        }
    }
    (facts, left_out)
}

#[cfg(test)]
#[path = "report_facts_tests.rs"]
mod tests;
